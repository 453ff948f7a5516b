//! What a sample of a packet tells, with names and in words: for injected packets, live traces and captures.
//!
//! Made from the sample and from what the manager knows of the same generation; asks nobody.

use std::collections::HashMap;
use std::net::IpAddr;

use espalier_api::trace::{Stage, StageName, TcpFlags};
use espalier_api::watch::{WatchedLeg, WatchedPacket};
use espalier_api::{Direction, Generation, PodName, Query, QueryProtocol, protocol};
use espalier_rules::Decision;

use super::flows;
use super::rule_names::RuleName;
use super::{Manager, State};
use crate::counters::{Blame, Exit};
use crate::filter;
use crate::flow::{FlowRecord, PodSlot};
use crate::observe::{End, LegSeen, Sample};
use crate::packet::{self, Fragment, Packet, Upper};
use crate::reason::DropReason;
use crate::step::{From, Handed, Outcome};

/// Tells what samples mean.
pub(super) struct Narrator<'a> {
    manager: &'a Manager,
    pods: HashMap<PodSlot, &'a PodName>,
    addresses: HashMap<IpAddr, PodSlot>,
}

impl<'a> Narrator<'a> {
    /// With the names of the present generation.
    pub(super) fn new(manager: &'a Manager) -> Self {
        let snapshot = manager.snapshot();
        let with_slot = |pod: &'a espalier_api::Pod| Some((pod, manager.pods.get(&pod.name)?.slot));
        let addresses = snapshot
            .iter()
            .flat_map(|snapshot| &snapshot.pods)
            .filter_map(with_slot)
            .flat_map(|(pod, slot)| pod.addresses.iter().map(move |address| (*address, slot)))
            .collect();
        Self { manager, pods: manager.pods_by_slot(), addresses }
    }

    /// All of a sample.
    pub(super) fn packet(&self, worker: usize, sample: &Sample, stages: bool) -> WatchedPacket {
        let outbound = matches!(sample.end, End::Lost { .. });
        let tag = filter::own_tag(sample.from, &sample.bytes);
        WatchedPacket {
            unix_ns: sample.unix_ns,
            worker,
            interface: self.interface(self.port_of(sample)),
            outbound,
            handed_over: sample.from == Some(From::Peer(Handed::Pod)),
            vlan: match sample.from {
                Some(From::Trunk { vlan } | From::Peer(Handed::Trunk { vlan })) => Some(vlan),
                _ => None,
            },
            len: sample.len.saturating_sub(tag),
            data: packet::without_tag(&sample.bytes, tag),
            fate: sample.end.fate(),
            to: match sample.end {
                End::Decided(Outcome::Forward(exit)) => Some(self.interface(exit.pod())),
                End::Decided(Outcome::HandOver { to }) => Some(self.interface(Some(to))),
                _ => None,
            },
            reason: sample.end.dropped().map(|reason| reason.label().to_owned()),
            generation: self.generation(sample),
            legs: sample.legs.iter().filter_map(|leg| self.leg(leg, sample.generation)).collect(),
            stages: if stages { self.stages(worker, sample) } else { Vec::new() },
        }
    }

    /// What each stage read and decided.
    pub(super) fn stages(&self, worker: usize, sample: &Sample) -> Vec<Stage> {
        let mut stages = Vec::new();
        let mut add = |name, read: String, decided: String, passed| {
            stages.push(stage(worker, name, read, decided, passed));
        };
        if let Some(from) = sample.from {
            let (read, decided) = self.steered(from, sample);
            add(StageName::Steer, read, decided, true);
        }
        let tagged = matches!(sample.from, Some(From::Pod { tagged: true, .. }));
        let read = format!("{} bytes", sample.len);
        match (&sample.parsed, packet::parse(&sample.bytes, sample.len, tagged)) {
            (Some(parsed), _) => add(StageName::Parse, read, line(parsed), true),
            (None, Ok(packet::Parsed::Ip(parsed))) => add(StageName::Parse, read, line(&parsed), true),
            (None, Ok(packet::Parsed::Arp)) => add(StageName::Parse, read, "ARP".to_owned(), true),
            (None, Err(reason)) => add(StageName::Parse, read, refused(reason), false),
        }
        match (&sample.parsed, sample.end) {
            (Some(_), _) => {
                let read = "MAC and IP addresses of both ends".to_owned();
                add(StageName::Guard, read, "they belong to whom they should".to_owned(), true);
            }
            (None, End::Decided(Outcome::Consumed)) => {
                let decided = "answered or used by the switch itself".to_owned();
                add(StageName::Guard, "an ARP or neighbour discovery message".to_owned(), decided, true);
            }
            (None, end) => {
                if let Some(reason) = end.dropped().filter(|_| stages_went_on(&stages)) {
                    let read = "MAC and IP addresses of both ends".to_owned();
                    stages.push(stage(worker, StageName::Guard, read, refused(reason), false));
                }
            }
        }
        for leg in &sample.legs {
            self.policy(worker, leg, sample, &mut stages);
        }
        if sample.parsed.is_some() && stages_went_on(&stages) {
            let (read, decided, passed) = self.forwarded(sample);
            stages.push(stage(worker, StageName::Forward, read, decided, passed));
        }
        stages
    }

    /// The port that a packet came by, or was to leave by.
    fn port_of(&self, sample: &Sample) -> Option<PodSlot> {
        match (sample.from, sample.end) {
            (Some(From::Pod { slot, .. }), _) => Some(slot),
            (Some(From::Trunk { .. } | From::Peer(Handed::Trunk { .. })), _) => None,
            (Some(From::Peer(Handed::Pod)), _) => {
                let source = IpAddr::from(sample.parsed?.source());
                self.addresses.get(&source).copied()
            }
            (None, End::Lost { blame: Blame::Ingress(slot), .. }) => Some(slot),
            (None, _) => None,
        }
    }

    /// The name of a pod's interface, or of the trunk.
    fn interface(&self, slot: Option<PodSlot>) -> String {
        let Some(slot) = slot else {
            return self
                .manager
                .trunk
                .as_ref()
                .map_or_else(String::new, |trunk| trunk.interface.name.clone());
        };
        let port = self.pods.get(&slot).and_then(|name| self.manager.pods.get(*name));
        match port.map(|port| &port.state) {
            Some(State::Up { interface, .. }) => interface.name.clone(),
            _ => self.pod(slot),
        }
    }

    fn pod(&self, slot: PodSlot) -> String {
        self.pods.get(&slot).map_or_else(|| "a pod that is gone".to_owned(), |name| name.to_string())
    }

    fn generation(&self, sample: &Sample) -> Generation {
        // The stamp is the low half of the generation, and no sample is 2^32 generations old.
        let now = self.manager.snapshot().map_or(0, |snapshot| snapshot.generation.0);
        let high = now & !u64::from(u32::MAX);
        Generation(high | u64::from(sample.generation))
    }

    fn rule(&self, leg: &LegSeen, generation: u32) -> Option<&RuleName> {
        self.manager.rule_names.name(leg.rule(generation)?)
    }

    fn leg(&self, leg: &LegSeen, generation: u32) -> Option<WatchedLeg> {
        let rule = self.rule(leg, generation);
        Some(WatchedLeg {
            pod: PodName::clone(self.pods.get(&leg.slot)?),
            direction: leg.direction,
            passed: leg.passed(),
            rule: rule.and_then(|rule| rule.id.clone()),
            group: rule.map(|rule| rule.group.clone()),
            known: leg.before.is_some(),
        })
    }

    fn steered(&self, from: From, sample: &Sample) -> (String, String) {
        match from {
            From::Trunk { vlan } | From::Peer(Handed::Trunk { vlan }) => {
                let read = format!("{}, VLAN {vlan}", self.interface(None));
                let owner = self.manager.pods.keys().find(|name| {
                    let snapshot = self.manager.snapshot();
                    let pods = snapshot.iter().flat_map(|snapshot| &snapshot.pods);
                    pods.into_iter().any(|pod| pod.name == **name && pod.vlan.get() == vlan)
                });
                let decided = match owner {
                    Some(pod) => format!("the branch of {pod}; tag taken off"),
                    None => "no pod's branch".to_owned(),
                };
                (read, decided)
            }
            From::Pod { slot, tagged } => {
                let read = format!("{} of {}", self.interface(Some(slot)), self.pod(slot));
                let local = sample.parsed.and_then(|parsed| self.local(parsed.destination().into()));
                let decided = match (tagged, local) {
                    (true, _) => "for the VPC: the branch's tag put on".to_owned(),
                    (false, Some(pod)) => format!("for {pod} of this node: no tag"),
                    (false, None) => "for the switch or a pod of this node: no tag".to_owned(),
                };
                (read, decided)
            }
            From::Peer(Handed::Pod) => {
                let read = "handed over by the sender's worker".to_owned();
                (read, "the sender's policy has let it out".to_owned())
            }
        }
    }

    fn local(&self, address: IpAddr) -> Option<String> {
        self.addresses.get(&address).map(|slot| self.pod(*slot))
    }

    /// The flow table's and the rules' part in a leg.
    fn policy(&self, worker: usize, leg: &LegSeen, sample: &Sample, stages: &mut Vec<Stage>) {
        let error = matches!(sample.parsed.map(|parsed| parsed.upper()), Some(Upper::Icmp { .. }))
            && leg.before.is_some_and(|flow| flow.key.protocol() != sample.parsed.map_or(0, |p| p.protocol));
        let (read, decided) = match &leg.before {
            Some(flow) => {
                let about = if error { "is about" } else { "belongs to" };
                let decided = match (leg.decision, leg.verdict) {
                    (Some(_), _) => format!("{about} it; to be judged again"),
                    (None, Err(reason)) if leg.audited => {
                        format!("{}: in audit mode, passes", reason.label())
                    }
                    (None, Err(reason)) => refused(reason),
                    (None, Ok(())) => format!("{about} it: passes without asking the rules"),
                };
                (self.flow(flow), decided)
            }
            None => ("no flow of these ends".to_owned(), "the rules are asked".to_owned()),
        };
        let passed = leg.passed() || leg.decision.is_some();
        stages.push(self.of_leg(stage(worker, StageName::Track, read, decided, passed), leg, sample));
        let Some(decision) = leg.decision else { return };
        let (read, decided) = self.judged(leg, sample, decision);
        let decided = if leg.audited { format!("{decided}; in audit mode: passes") } else { decided };
        let verdict = stage(worker, StageName::Judge, read, decided, leg.passed());
        stages.push(self.of_leg(verdict, leg, sample));
    }

    fn of_leg(&self, stage: Stage, leg: &LegSeen, sample: &Sample) -> Stage {
        let rule = self.rule(leg, sample.generation);
        Stage {
            pod: self.pods.get(&leg.slot).map(|name| PodName::clone(name)),
            direction: Some(leg.direction),
            rule: rule.and_then(|rule| rule.id.clone()),
            group: rule.map(|rule| rule.group.clone()),
            ..stage
        }
    }

    fn flow(&self, flow: &FlowRecord) -> String {
        let rule = self.manager.rule_names.name(flow.account());
        let by = match rule {
            Some(RuleName { id: Some(id), .. }) => format!(", by {id}"),
            Some(RuleName { group, .. }) => format!(", by a rule of {group}"),
            None => String::new(),
        };
        let began = match flow.initiator() {
            Direction::Ingress => "towards the pod",
            Direction::Egress => "from the pod",
        };
        let packets: u64 = flow.packets.iter().sum();
        format!(
            "flow {}, begun {began} {}.{} s ago, {packets} packets{by}",
            flows::state(flow.state).label(),
            flow.age_ms / 1000,
            flow.age_ms % 1000 / 100
        )
    }

    fn judged(&self, leg: &LegSeen, sample: &Sample, decision: Decision) -> (String, String) {
        let pods = self.manager.snapshot().map_or(&[][..], |snapshot| &snapshot.pods);
        let pod = self.pods.get(&leg.slot).and_then(|name| pods.iter().find(|pod| pod.name == **name));
        let groups = pod.map_or_else(String::new, |pod| {
            let names: Vec<_> = pod.security_groups.iter().map(ToString::to_string).collect();
            names.join(", ")
        });
        let read = format!("{groups}, generation {}", self.generation(sample).0);
        if let (Err(reason), true) = (leg.verdict, decision.passes()) {
            return (read, refused(reason));
        }
        let explained = self.question(leg, sample).and_then(|query| {
            let judge = &self.manager.enforced.as_ref()?.judge;
            judge.explain_nearest(&query).ok()
        });
        let decided = match explained {
            Some(explained) => {
                let nearest = explained.nearest.map(|nearest| format!("; {}", nearest.reason));
                format!("{}{}", explained.answer.reason, nearest.unwrap_or_default())
            }
            None => leg.verdict.map_or_else(refused, |()| "allowed".to_owned()),
        };
        (read, decided)
    }

    /// The question that the rules were asked.
    fn question(&self, leg: &LegSeen, sample: &Sample) -> Option<Query> {
        let pod = PodName::clone(self.pods.get(&leg.slot)?);
        let parsed = sample.parsed?;
        let remote = match leg.direction {
            Direction::Ingress => parsed.source(),
            Direction::Egress => parsed.destination(),
        };
        let mut query = Query {
            pod,
            direction: leg.direction,
            protocol: QueryProtocol(parsed.protocol),
            remote: remote.into(),
            port: None,
            icmp_type: None,
            icmp_code: None,
        };
        match parsed.upper() {
            Upper::Tcp { destination, .. } | Upper::Udp { destination, .. } => {
                query.port = Some(destination);
            }
            Upper::Icmp { kind, code, .. } => {
                (query.icmp_type, query.icmp_code) = (Some(kind), Some(code));
            }
            Upper::Opaque => {}
        }
        Some(query)
    }

    fn forwarded(&self, sample: &Sample) -> (String, String, bool) {
        match sample.end {
            End::Decided(Outcome::Forward(Exit::Pod(slot))) => {
                let read = format!("port of {}", self.pod(slot));
                (read, format!("to {}, MAC addresses of that link", self.interface(Some(slot))), true)
            }
            End::Decided(Outcome::Forward(Exit::Trunk { .. })) => {
                let read = "the branch's gateway".to_owned();
                (read, format!("to {}, to the gateway's MAC address", self.interface(None)), true)
            }
            End::Decided(Outcome::HandOver { to }) => {
                let read = format!("{} lives with another worker", self.pod(to));
                (read, "handed over to it".to_owned(), true)
            }
            End::Decided(Outcome::Consumed) => (String::new(), "held".to_owned(), true),
            End::Decided(Outcome::Drop(reason)) | End::Lost { reason, .. } => {
                ("next hop and port".to_owned(), refused(reason), false)
            }
        }
    }
}

/// A packet in a line.
pub(super) fn line(parsed: &Packet) -> String {
    let name = QueryProtocol(parsed.protocol);
    let (source, destination) = (IpAddr::from(parsed.source()), IpAddr::from(parsed.destination()));
    let end = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
    let mut text = match parsed.upper() {
        Upper::Tcp { source: from, destination: to, flags } => {
            format!("{name} {} > {} [{}]", end(source, from), end(destination, to), TcpFlags(flags & 0x3f))
        }
        Upper::Udp { source: from, destination: to } => {
            format!("{name} {} > {}", end(source, from), end(destination, to))
        }
        Upper::Icmp { kind, code, .. } => format!("{name} {source} > {destination} type {kind} code {code}"),
        Upper::Opaque if matches!(parsed.protocol, protocol::TCP | protocol::UDP) => {
            format!("{name} {source} > {destination}")
        }
        Upper::Opaque => format!("protocol {name} {source} > {destination}"),
    };
    if let Fragment::Part { offset, .. } = parsed.fragment() {
        text.push_str(&format!(", fragment at {offset}"));
    }
    text
}

fn refused(reason: DropReason) -> String {
    format!("dropped, {}: {}", reason.label(), reason.meaning())
}

fn stages_went_on(stages: &[Stage]) -> bool {
    stages.iter().all(|stage| stage.passed)
}

fn stage(worker: usize, stage: StageName, read: String, decided: String, passed: bool) -> Stage {
    Stage { stage, worker, pod: None, direction: None, read, decided, passed, rule: None, group: None }
}
