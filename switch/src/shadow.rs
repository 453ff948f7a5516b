//! A snapshot that is judged beside the enforced one on live traffic, and enforced nowhere.
//!
//! The recorder owns it, and shows it what flows carried and which packets were denied or passed without a flow; off the
//! packet path. Its report lists what would be decided otherwise, in bounded memory.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use espalier_api::protocol::{ICMP, ICMPV6, TCP, UDP};
use espalier_api::recording::{ShadowChange, ShadowCounts, ShadowReport, ShadowStatus, VerdictChange};
use espalier_api::{Direction, Generation, GroupId, PodName, QueryProtocol, RuleId, Snapshot};
use espalier_rules::{Decision, Engine, Judge, PolicyId, Tuple};

use crate::clock;
use crate::facts::PacketFact;
use crate::flow::{FlowState, Now, PodSlot, RuleKey, Selector};
use crate::manager::recorder::{Progress, Site};
use crate::packet::Upper;
use crate::step;

/// Different changes that are kept apart.
const ROOM: usize = 4096;
/// Of them, those that a report lists.
const LISTED: usize = 1000;

/// The shadow and what traffic has shown of it.
pub(crate) struct Shadow {
    snapshot: Snapshot,
    judge: Judge,
    since: Now,
    policies: BTreeMap<PodSlot, PolicyId>,
    rows: HashMap<Row, Seen>,
    more: ShadowCounts,
    same: ShadowCounts,
    lost: u64,
}

/// Traffic that is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row {
    pod: PodName,
    direction: Direction,
    change: VerdictChange,
    rule: Option<RuleId>,
    group: Option<GroupId>,
    remote: std::net::IpAddr,
    protocol: u8,
    port: Option<u16>,
}

struct Seen {
    counts: ShadowCounts,
    first: Now,
    last: Now,
}

/// What the shadow says.
enum Opinion {
    Allow(Option<(Option<RuleId>, GroupId)>),
    Deny,
}

impl Shadow {
    /// Of a valid snapshot.
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let (judge, _) = Judge::compiled(&snapshot);
        Self {
            snapshot,
            judge,
            since: clock::now(),
            policies: BTreeMap::new(),
            rows: HashMap::new(),
            more: ShadowCounts::default(),
            same: ShadowCounts::default(),
            lost: 0,
        }
    }

    /// Its generation.
    pub(crate) fn generation(&self) -> Generation {
        self.snapshot.generation
    }

    /// Finds the pods of the enforced snapshot.
    pub(crate) fn place(&mut self, site: &Site) {
        let model = self.judge.model();
        let policy = |name: &PodName| model.policy_of(model.pod_index(name)?);
        self.policies = site.pods().filter_map(|(slot, pod)| Some((slot, policy(&pod.name)?))).collect();
    }

    /// What a flow has carried: its first packet is judged.
    pub(crate) fn flow(&mut self, progress: &Progress, site: &Site) {
        let flow = &progress.flow;
        let packets = progress.packets[0] + progress.packets[1];
        if packets == 0 || flow.state == FlowState::Revoked {
            return;
        }
        let counts = ShadowCounts { flows: progress.first_in_epoch.into(), packets };
        let tuple = step::opening(&flow.key, flow.initiator());
        match self.opinion(flow.key.slot(), tuple) {
            None => {}
            Some(Opinion::Allow(_)) => self.agree(counts),
            Some(Opinion::Deny) => {
                let port = match (flow.key.selector(), flow.initiator()) {
                    (Selector::Ports { local, .. }, Direction::Ingress) => Some(local),
                    (Selector::Ports { remote, .. }, Direction::Egress) => Some(remote),
                    _ => None,
                };
                let rule = site.rule(flow.account());
                let rule = rule.map(|(id, group)| (id.cloned(), group.clone()));
                let ends = (flow.key.slot(), flow.initiator(), flow.key.remote(), flow.key.protocol(), port);
                let seen = Seen { counts, first: progress.began.max(self.since), last: progress.last };
                self.differ(site, VerdictChange::AllowToDeny, rule, ends, seen);
            }
        }
    }

    /// A packet that no flow counts.
    pub(crate) fn packet(&mut self, fact: &PacketFact, site: &Site) {
        let Some(allowed) = decided(fact) else { return };
        let remote = match fact.direction {
            Direction::Ingress => fact.source,
            Direction::Egress => fact.destination,
        };
        let tuple = step::tuple(fact.direction, remote, fact.protocol, fact.upper);
        let Some(opinion) = self.opinion(fact.slot, tuple) else { return };
        let counts = ShadowCounts { flows: 0, packets: 1 };
        let (change, rule) = match (allowed, opinion) {
            (Err(()), Opinion::Allow(rule)) => (VerdictChange::DenyToAllow, rule),
            (Ok(rule), Opinion::Deny) => {
                let rule = site.rule(rule).map(|(id, group)| (id.cloned(), group.clone()));
                (VerdictChange::AllowToDeny, rule)
            }
            _ => return self.agree(counts),
        };
        let port = match fact.upper {
            Upper::Tcp { destination, .. } | Upper::Udp { destination, .. } => Some(destination),
            Upper::Icmp { .. } | Upper::Opaque => None,
        };
        let ends = (fact.slot, fact.direction, remote.into(), fact.protocol, port);
        self.differ(site, change, rule, ends, Seen { counts, first: fact.at, last: fact.at });
    }

    /// Something was told and lost.
    pub(crate) fn lost(&mut self, count: u64) {
        self.lost += count;
    }

    /// What would change.
    pub(crate) fn report(&self, site: &Site) -> ShadowReport {
        let now = clock::now();
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|(one, seen), (other, more)| {
            let by_packets = more.counts.packets.cmp(&seen.counts.packets);
            by_packets
                .then_with(|| one.pod.as_str().cmp(other.pod.as_str()))
                .then_with(|| one.remote.cmp(&other.remote))
        });
        let mut more = self.more;
        rows.iter().skip(LISTED).for_each(|(_, seen)| add(&mut more, seen.counts));
        let changes = rows.into_iter().take(LISTED).map(|(row, seen)| ShadowChange {
            pod: row.pod.clone(),
            direction: row.direction,
            change: row.change,
            rule: row.rule.clone(),
            group: row.group.clone(),
            remote: row.remote,
            protocol: QueryProtocol(row.protocol),
            port: row.port,
            counts: seen.counts,
            first_seen_ms: now.0.saturating_sub(seen.first.0),
            last_seen_ms: now.0.saturating_sub(seen.last.0),
        });
        ShadowReport {
            shadow: self.status(site),
            enforced: site.snapshot().generation,
            flows_same: self.same.flows,
            packets_same: self.same.packets,
            changes: changes.collect(),
            more,
            lost: self.lost,
        }
    }

    /// That it is set.
    pub(crate) fn status(&self, site: &Site) -> ShadowStatus {
        let missing = site.pods().filter(|(slot, _)| !self.policies.contains_key(slot));
        ShadowStatus {
            generation: self.snapshot.generation,
            seconds: clock::now().0.saturating_sub(self.since.0) / 1000,
            pods_missing: missing.map(|(_, pod)| pod.name.clone()).collect(),
        }
    }

    /// What it says; nothing of a pod that it lacks.
    fn opinion(&self, slot: PodSlot, tuple: Tuple) -> Option<Opinion> {
        let policy = self.policies.get(&slot)?;
        Some(match self.judge.judge(*policy, &tuple) {
            Decision::Allow { rule, .. } => {
                let rule = self.judge.rule(rule);
                Opinion::Allow(rule.map(|rule| (rule.id().cloned(), rule.group.clone())))
            }
            Decision::Unfiltered { .. } => Opinion::Allow(None),
            Decision::Deny => Opinion::Deny,
        })
    }

    fn agree(&mut self, counts: ShadowCounts) {
        add(&mut self.same, counts);
    }

    fn differ(
        &mut self,
        site: &Site,
        change: VerdictChange,
        rule: Option<(Option<RuleId>, GroupId)>,
        (slot, direction, remote, protocol, port): (PodSlot, Direction, std::net::IpAddr, u8, Option<u16>),
        seen: Seen,
    ) {
        let Some(pod) = site.pod(slot) else { return };
        let (rule, group) = rule.map_or((None, None), |(rule, group)| (rule, Some(group)));
        let row = Row { pod: pod.name.clone(), direction, change, rule, group, remote, protocol, port };
        let full = self.rows.len() >= ROOM;
        match self.rows.entry(row) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                add(&mut known.counts, seen.counts);
                known.first = known.first.min(seen.first);
                known.last = known.last.max(seen.last);
            }
            Entry::Vacant(_) if full => add(&mut self.more, seen.counts),
            Entry::Vacant(new) => {
                new.insert(seen);
            }
        }
    }
}

/// Whether the enforced policy allows a packet, and by which rule; nothing where it has not asked about it.
fn decided(fact: &PacketFact) -> Option<Result<RuleKey, ()>> {
    // A later fragment shares its first's verdict; what it would be judged by is there.
    let has_ports = matches!(fact.protocol, TCP | UDP | ICMP | ICMPV6);
    if has_ports && fact.upper == Upper::Opaque {
        return None;
    }
    match fact.verdict {
        Ok(rule) => Some(Ok(rule?)),
        Err(reason) if reason.is_denial() => Some(Err(())),
        Err(_) => None,
    }
}

fn add(sum: &mut ShadowCounts, counts: ShadowCounts) {
    sum.flows += counts.flows;
    sum.packets += counts.packets;
}
