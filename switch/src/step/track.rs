//! One pod's view of a packet: does it belong to a flow that was allowed, or must the policy decide?
//!
//! A packet between two pods of this node comes through here twice: as egress of the one, then as ingress of the other.

use espalier_api::Direction;
use espalier_rules::{Decision, Tuple};

use super::{Shard, judge, remote};
use crate::facts::PacketFact;
use crate::flow::related::{IcmpMessage, is_error};
use crate::flow::{
    FlowHandle, FlowKey, FlowState, Found, Judgement, NewFlow, Now, Outcome, PacketFacts, PodSlot, Refused,
    RuleKey, Sought,
};
use crate::packet::{Packet, Upper};
use crate::reason::DropReason;
use crate::tables::{PodTable, Tables};

/// A packet as one pod sees it.
pub(super) struct Leg<'a> {
    pub(super) slot: PodSlot,
    pub(super) direction: Direction,
    pub(super) packet: &'a Packet,
    pub(super) head: &'a [u8],
}

impl<'a> Leg<'a> {
    /// The packet as the policy sees it.
    pub(super) fn tuple(&self) -> Tuple {
        let remote = remote(self.packet, self.direction);
        judge::tuple(self.direction, remote, self.packet.protocol, self.packet.upper())
    }

    /// The packet as an ICMP message.
    pub(super) fn message(&self) -> IcmpMessage<'a> {
        let Self { slot, direction, packet, head } = *self;
        let (source, destination) = (packet.source().into(), packet.destination().into());
        let bytes = usize::from(packet.l4)..head.len().min(packet.end as usize);
        let bytes = head.get(bytes).unwrap_or_default();
        IcmpMessage { slot, direction, source, destination, protocol: packet.protocol, bytes }
    }

    /// What there is to tell of the packet.
    pub(super) fn fact(&self, now: Now, verdict: Result<Option<RuleKey>, DropReason>) -> PacketFact {
        PacketFact::new((self.slot, self.direction), self.packet, now, verdict)
    }

    fn facts(&self) -> PacketFacts {
        facts(self.packet, self.direction)
    }
}

/// The flow that a packet would belong to. ICMP messages other than queries make none: nothing answers them.
#[inline(always)]
pub(super) fn key(slot: PodSlot, direction: Direction, packet: &Packet) -> Option<FlowKey> {
    let protocol = packet.protocol;
    let (local, remote) = match direction {
        Direction::Ingress => (packet.destination(), packet.source()),
        Direction::Egress => (packet.source(), packet.destination()),
    };
    match packet.upper() {
        Upper::Tcp { source, destination, .. } | Upper::Udp { source, destination } => {
            let (local_port, remote_port) = match direction {
                Direction::Ingress => (destination, source),
                Direction::Egress => (source, destination),
            };
            Some(FlowKey::tcp_udp(slot, local, remote, protocol, local_port, remote_port))
        }
        Upper::Icmp { kind, id, .. } => FlowKey::query(slot, local, remote, protocol, (kind, id), direction),
        Upper::Opaque => Some(FlowKey::addresses_only(slot, local, remote, protocol)),
    }
}

/// What the flow table wants to know of a packet.
#[inline(always)]
pub(super) fn facts(packet: &Packet, direction: Direction) -> PacketFacts {
    PacketFacts { direction, tcp_flags: packet.tcp_flags(), bytes: packet.end }
}

/// Passes the packet for one pod, or says why not. `known` is what the batch's lookup found; packets before this one may
/// have changed the table since. What the usual packet passes is `FlowTable::pass_steady`, which comes before this.
pub(super) fn track<P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    now: Now,
    leg: &Leg<'_>,
    known: Option<&Sought>,
) -> Result<(), DropReason> {
    let pod = tables.pod(leg.slot).ok_or(DropReason::PortUnknown)?;
    let Some(sought) = known else {
        return match key(leg.slot, leg.direction, leg.packet) {
            Some(key) => track(shard, tables, now, leg, Some(&shard.flows.seek(key))),
            None => stateless(shard, tables, now, pod, leg),
        };
    };
    if let Found::Hit(handle) = shard.flows.find_sought(sought) {
        judge_again(shard, tables, now, pod, handle);
        match shard.flows.on_packet(handle, &leg.facts(), now) {
            Outcome::Pass(_) => return Ok(()),
            Outcome::Revoked => return Err(DropReason::FlowRevoked),
            Outcome::Over(_) => {}
        }
    }
    begin(shard, tables, now, pod, leg, sought.key())
}

/// ICMP other than queries: an error about a live flow passes with it, anything else needs a rule. Neither makes state.
fn stateless<P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    now: Now,
    pod: &PodTable,
    leg: &Leg<'_>,
) -> Result<(), DropReason> {
    let is_error =
        matches!(leg.packet.upper(), Upper::Icmp { kind, .. } if is_error(leg.packet.protocol, kind));
    if is_error
        && shard.related_errors
        && let Ok(handle) = shard.flows.related(&leg.message(), now)
    {
        judge_again(shard, tables, now, pod, handle);
        if !matches!(shard.flows.state(handle), None | Some(FlowState::Revoked)) {
            let (account, initiator) = shard.flows.account_of(handle);
            passed(shard, now, leg, account, leg.direction != initiator);
            return Ok(());
        }
    }
    match allowed(judge::judge(tables, pod, leg.tuple()), leg) {
        Err(_) if is_error => Err(DropReason::IcmpErrorUnrelated),
        Ok(Some((rule, _))) => {
            passed(shard, now, leg, RuleKey { rule, generation: tables.stamp }, false);
            Ok(())
        }
        Ok(None) => {
            unfiltered(shard, now, leg);
            Ok(())
        }
        Err(reason) => Err(reason),
    }
}

/// Counts a packet that a rule let pass and no flow counts, and tells of it.
fn passed<P>(shard: &mut Shard<P>, now: Now, leg: &Leg<'_>, account: RuleKey, reply: bool) {
    shard.flows.credit(account, reply, leg.packet.end, now);
    if let Some(facts) = &mut shard.facts {
        facts.tell(leg.fact(now, Ok(Some(account))));
    }
}

/// Counts a packet of a service that is never filtered.
fn unfiltered<P>(shard: &mut Shard<P>, now: Now, leg: &Leg<'_>) {
    shard.flows.credit(RuleKey::NONE, false, leg.packet.end, now);
}

/// Brings a flow that depends on the present rules up to date with them.
fn judge_again<P>(shard: &mut Shard<P>, tables: &Tables, now: Now, pod: &PodTable, handle: FlowHandle) {
    if !shard.flows.needs_judgement(handle, tables.stamp) {
        return;
    }
    let opening = judge::opening(&shard.flows.key(handle), shard.flows.initiator(handle));
    match judge::judge(tables, pod, opening) {
        Decision::Allow { rule, tracked } => {
            let judgement = Judgement {
                rule: rule.index() as u32,
                generation: tables.stamp,
                tracked,
                revoke_on_change: pod.revoke,
            };
            shard.flows.renew(handle, &judgement, now);
        }
        // A service that is never filtered makes no state.
        Decision::Unfiltered { .. } => shard.flows.remove(handle),
        Decision::Deny => shard.flows.revoke(handle, tables.stamp, now),
    }
}

/// Judges a packet that belongs to no flow, and enters the flow it begins.
fn begin<P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    now: Now,
    pod: &PodTable,
    leg: &Leg<'_>,
    key: &FlowKey,
) -> Result<(), DropReason> {
    let Some((rule, tracked)) = allowed(judge::judge(tables, pod, leg.tuple()), leg)? else {
        unfiltered(shard, now, leg);
        return Ok(());
    };
    let account = RuleKey { rule, generation: tables.stamp };
    let flow = NewFlow {
        initiator: leg.direction,
        rule,
        generation: tables.stamp,
        tracked,
        revoke_on_change: pod.revoke,
        first: leg.facts(),
    };
    match shard.flows.insert(key, &flow, now) {
        Err(refused) if tracked => {
            shard.flows.credit_refused(account);
            Err(reason(refused))
        }
        Ok(_) => Ok(()),
        // An untracked flow needs no entry: its replies pass by the rules of the other direction.
        Err(_) => {
            passed(shard, now, leg, account, false);
            Ok(())
        }
    }
}

/// Why a tracked flow without an entry is dropped.
pub(super) fn reason(refused: Refused) -> DropReason {
    match refused {
        Refused::Full => DropReason::FlowTableFull,
        Refused::PodQuota => DropReason::FlowQuota,
        Refused::PodUnknown => DropReason::PortUnknown,
    }
}

/// The rule and manner of an allowed flow; nothing for a service that is never filtered.
fn allowed(decision: Decision, leg: &Leg<'_>) -> Result<Option<(u32, bool)>, DropReason> {
    match decision {
        Decision::Allow { rule, tracked } => Ok(Some((rule.index() as u32, tracked))),
        Decision::Unfiltered { .. } => Ok(None),
        Decision::Deny => Err(match leg.direction {
            Direction::Ingress => DropReason::DeniedIngress,
            Direction::Egress => DropReason::DeniedEgress,
        }),
    }
}
