//! The step with somebody looking: the same stages, one packet at a time, with a word to the watch at each.

use super::track::{self, Leg, key};
use super::{Decided, From, Held, Memory, Path, Shard, batch, is_audited, judge};
use crate::flow::{Now, Sought};
use crate::observe::LegSeen;
use crate::packet::Packet;
use crate::reason::DropReason;
use crate::tables::Tables;

/// Decides packets one by one, so that each is shown with what the ones before it left behind.
#[cold]
pub(super) fn each<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: &Tables,
    now: Now,
    mut from: impl FnMut(&M::Packet) -> From,
    packets: &mut Vec<M::Packet>,
    decided: &mut Decided<M::Packet>,
) {
    let mut one = Vec::with_capacity(1);
    for packet in packets.drain(..) {
        let from = from(&packet);
        if let Some(watch) = &mut shard.watch {
            watch.begin(now, tables.stamp, from);
            watch.keep(memory.head(&packet), memory.len(&packet));
        }
        one.push(packet);
        batch::<true, M>(memory, shard, tables, now, |_| from, &mut one, decided);
    }
    shard.watch.take_if(|watch| watch.is_over());
}

/// Tells the watch that a held fragment's way ends.
#[cold]
pub(super) fn held<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: Option<&Tables>,
    now: Now,
    held: &Held<M::Packet>,
) {
    let from = held.from(tables);
    let Some(watch) = &mut shard.watch else { return };
    watch.begin(now, tables.map_or(0, |tables| tables.stamp), from);
    watch.keep(memory.head(&held.packet), memory.len(&held.packet));
}

/// One pod's policy, as [`track::track`] has it, and what it read.
#[cold]
pub(super) fn track<P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    now: Now,
    leg: &Leg<'_>,
    known: Option<&Sought>,
) -> Result<(), DropReason> {
    let flow = key(leg.slot, leg.direction, leg.packet);
    let handle = match &flow {
        Some(key) => shard.flows.find(key).handle(),
        None if shard.related_errors => shard.flows.related(&leg.message(), now).ok(),
        None => None,
    };
    let before = handle.and_then(|handle| shard.flows.record(handle, now));
    let stale = handle.is_some_and(|handle| shard.flows.needs_judgement(handle, tables.stamp));
    let reopened = shard.flows.stats().reopened;
    let verdict = track::track(shard, tables, now, leg, known);
    let asked = before.is_none() || stale || shard.flows.stats().reopened > reopened;
    let after = match &flow {
        Some(key) => shard.flows.find(key).handle(),
        None => handle,
    };
    let after = after.and_then(|handle| shard.flows.record(handle, now));
    // An error that is about a flow is judged again as that flow, not as itself.
    let tuple = match (&flow, &before) {
        (_, Some(flow)) if stale => judge::opening(&flow.key, flow.initiator()),
        _ => leg.tuple(),
    };
    let decision = tables.pod(leg.slot).filter(|_| asked).map(|pod| judge::judge(tables, pod, tuple));
    if let Some(watch) = &mut shard.watch {
        watch.leg(LegSeen {
            slot: leg.slot,
            direction: leg.direction,
            before,
            after,
            decision,
            verdict,
            audited: verdict.is_err_and(|reason| is_audited(tables, leg.slot, reason)),
        });
    }
    verdict
}

impl<P> Held<P> {
    /// Where it came from.
    fn from(&self, tables: Option<&Tables>) -> From {
        let Self { parsed, path, .. } = self;
        let is_local = |packet: &Packet| tables.is_some_and(|t| t.slot_of_address(packet.source()).is_some());
        match *path {
            Path::Out { from } | Path::Across { from, .. } | Path::Away { from, .. } => {
                From::Pod { slot: from, tagged: parsed.is_tagged() }
            }
            Path::In { .. } if is_local(parsed) => From::Peer(super::Handed::Pod),
            Path::In { to } => {
                let pod = tables.and_then(|tables| tables.pod(to));
                From::Trunk { vlan: pod.map_or(0, |pod| pod.vlan) }
            }
        }
    }
}
