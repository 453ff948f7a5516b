//! What would become of a packet: the very step, run on a copy of all that the packet would meet.
//!
//! The copy has the worker's neighbours and, of its flows, those that the packet or an ICMP error in it is about. So a
//! trace changes nothing, counts nothing, and cannot tell another story than the step would.

use std::sync::mpsc;

use super::track::{self, Leg};
use super::{From, Handed, Heap, Outcome, Path, Shard, ShardParts, guard, step};
use crate::flow::fragment::{FragmentConfig, Fragments};
use crate::flow::{FlowConfig, FlowState, FlowTable, Found, Now};
use crate::observe::{End, Observer, Sample, Seen, Watch};
use crate::packet::{Frame, Packet};
use crate::reason::DropReason;
use crate::tables::Tables;

/// Flows that one packet can be about, and some.
const FLOWS: u32 = 16;

/// What would become of a packet.
#[derive(Debug)]
pub struct Traced {
    /// What was seen on its way; nothing if it would be handed over unseen.
    pub seen: Option<Sample>,
    /// The end of its way with this worker.
    pub outcome: Outcome,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Takes a frame through a copy of the shard.
pub fn trace<P>(shard: &Shard<P>, tables: &Tables, now: Now, from: From, frame: Vec<u8>) -> Traced {
    let mut copy = copy(shard, tables);
    copy_flows(shard, &mut copy, tables, now, from, &frame);
    let (witness, seen) = mpsc::channel();
    copy.watch = Some(Box::new(Watch::new(Box::new(Witness(witness)))));
    let before = frame.clone();
    let mut decided = Vec::new();
    step(&Heap, &mut copy, tables, now, |_| from, &mut vec![frame], &mut decided);
    // A fragment may be held.
    let (frame, outcome) = decided.pop().unwrap_or((before, Outcome::Consumed));
    let mut traced = Traced { seen: seen.try_recv().ok(), outcome, frame };
    if let Some(refused) = without_room(shard, &traced, now) {
        refuse(&mut traced, refused);
    }
    traced
}

/// Keeps what it sees.
pub(crate) struct Witness(pub(crate) mpsc::Sender<Sample>);

impl Observer for Witness {
    fn seen(&mut self, seen: &Seen<'_>) -> bool {
        // Whoever had it look waits for it.
        self.0.send(Sample::of(seen)).is_ok()
    }
}

fn copy<P>(shard: &Shard<P>, tables: &Tables) -> Shard<Vec<u8>> {
    let slots = shard.presence.len();
    let pods = u16::try_from(slots).unwrap_or(u16::MAX).max(1);
    let (config, seed) = (FragmentConfig::for_pods(pods), [0; 2]);
    let mut copy = Shard::new(ShardParts {
        flows: FlowTable::new(&FlowConfig::sized(FLOWS, pods, seed)).expect("a small table has its memory"),
        fragments: Fragments::new(config).expect("the configuration is the worker's own"),
        related_errors: shard.related_errors,
        slots,
    });
    copy.presence.clone_from(&shard.presence);
    copy.links = shard.links.clone();
    for (slot, pod) in tables.pods() {
        copy.flows.set_timeouts(slot, pod.timeouts);
    }
    copy
}

/// Copies the flows that the packet is about.
fn copy_flows<P>(
    shard: &Shard<P>,
    copy: &mut Shard<Vec<u8>>,
    tables: &Tables,
    now: Now,
    from: From,
    frame: &[u8],
) {
    let arrived = |tagged| Frame::new((frame, frame.len()), tagged);
    let guarded = match from {
        From::Trunk { vlan } | From::Peer(Handed::Trunk { vlan }) => {
            guard::from_trunk(arrived(false), vlan, tables, copy)
        }
        From::Pod { slot, tagged } => guard::from_pod(arrived(tagged), slot, tables, copy),
        From::Peer(Handed::Pod) => guard::let_out(arrived(false), tables, copy),
    };
    // What the guard answers for itself is no flow's.
    copy.originated.clear();
    copy.links = shard.links.clone();
    let Ok((packet, path)) = guarded else { return };
    for leg in legs(path, &packet, frame) {
        let handle = match track::key(leg.slot, leg.direction, &packet) {
            Some(key) => shard.flows.find(&key).handle(),
            None => shard.flows.related(&leg.message(), now).ok(),
        };
        if let Some(flow) = handle.and_then(|handle| shard.flows.record(handle, now)) {
            // It is not over, and there is room.
            let _restored = copy.flows.restore(&flow, now);
        }
    }
}

fn legs<'a>(path: Path, packet: &'a Packet, frame: &'a [u8]) -> impl Iterator<Item = Leg<'a>> {
    let policies = path.policies().into_iter().flatten();
    policies.map(move |(slot, direction)| Leg { slot, direction, packet, head: frame })
}

/// The first leg that begins a flow for which the real table has no room.
fn without_room<P>(shard: &Shard<P>, traced: &Traced, now: Now) -> Option<(usize, DropReason)> {
    let legs = &traced.seen.as_ref()?.legs;
    legs.iter().enumerate().find_map(|(index, leg)| {
        let flow = leg.after.filter(|_| leg.before.is_none())?;
        // The step forwards an untracked flow without an entry.
        let tracked = flow.state != FlowState::Untracked;
        match shard.flows.find(&flow.key) {
            Found::Miss if tracked => Some((index, track::reason(shard.flows.room_for(&flow, now).err()?))),
            _ => None,
        }
    })
}

fn refuse(traced: &mut Traced, (leg, reason): (usize, DropReason)) {
    traced.outcome = Outcome::Drop(reason);
    if let Some(seen) = &mut traced.seen {
        seen.end = End::Decided(traced.outcome);
        seen.legs.truncate(leg + 1);
        if let Some(leg) = seen.legs.last_mut() {
            leg.after = None;
            leg.verdict = Err(reason);
        }
    }
}
