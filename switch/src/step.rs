//! One batch of packets through the stages: parse ▸ guard ▸ track ▸ judge ▸ forward, each in its file.
//!
//! Pure: frames, tables and time come in; outcomes, counters and frames to originate go out. The worker calls [`step`]
//! with real frames, tests and replay with frames on the heap.

use std::net::IpAddr;

use crate::counters::{Blame, ShardCounters};
use crate::flow::{FlowTable, Now, PodSlot};
use crate::neighbour::Links;
use crate::packet::Packet;
use crate::reason::DropReason;
use crate::responder::Originated;
use crate::tables::Tables;

mod forward;
mod guard;
mod judge;
mod track;

/// Access to the bytes of packets, wherever they lie.
pub trait Memory {
    /// A packet, maybe of several segments.
    type Packet;
    /// The first segment; all headers lie there.
    fn head<'a>(&'a self, packet: &'a Self::Packet) -> &'a [u8];
    /// The first segment, to rewrite headers.
    fn head_mut<'a>(&'a self, packet: &'a mut Self::Packet) -> &'a mut [u8];
    /// Bytes of all segments.
    fn len(&self, packet: &Self::Packet) -> usize;
    /// The segments, in order.
    fn segments<'a>(&'a self, packet: &'a Self::Packet) -> impl Iterator<Item = &'a [u8]>;
}

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The trunk, with this VLAN (its tag is already off).
    Trunk {
        /// VLAN of the tag.
        vlan: u16,
    },
    /// A pod.
    Pod {
        /// Which one.
        slot: PodSlot,
        /// Whether the steering program wrote the branch's tag into the frame.
        tagged: bool,
    },
}

impl From {
    /// The pod, if it came from one.
    pub fn pod(self) -> Option<PodSlot> {
        match self {
            Self::Trunk { .. } => None,
            Self::Pod { slot, .. } => Some(slot),
        }
    }
}

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Send it to the pod, or to the trunk (`None`). `blame` is whose drop it is if the port does not take it.
    Forward {
        /// Where to.
        to: Option<PodSlot>,
        /// Whose drop it is if the port does not take it.
        blame: Blame,
    },
    /// Free it.
    Consumed,
    /// Free it, counted.
    Drop(DropReason),
}

/// What one worker owns and the step changes.
pub struct Shard {
    /// Its flows.
    pub flows: FlowTable,
    /// Its neighbours.
    pub links: Links,
    /// Its counters.
    pub counters: ShardCounters,
    /// Frames to send on behalf of the switch.
    pub originated: Vec<Originated>,
}

/// The two policies that a packet must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Path {
    /// The pod that sends it, if it is one of ours.
    source: Option<PodSlot>,
    /// The pod that gets it, if it is one of ours.
    destination: Option<PodSlot>,
}

/// Why a stage ended a packet's way.
struct Stop {
    outcome: Outcome,
    blame: Blame,
}

impl Stop {
    fn drop(reason: DropReason, blame: Blame) -> Self {
        Self { outcome: Outcome::Drop(reason), blame }
    }

    fn consumed() -> Self {
        Self { outcome: Outcome::Consumed, blame: Blame::Nobody }
    }
}

/// Decides one packet, rewrites its headers if it is to be forwarded, and counts everything but the forwarding itself,
/// which the worker counts when a port has taken the packet.
pub fn step<M: Memory>(
    memory: &M,
    shard: &mut Shard,
    tables: &Tables,
    now: Now,
    from: From,
    packet: &mut M::Packet,
) -> Outcome {
    shard.counters.received(from.pod(), memory.len(packet));
    match decide(memory, shard, tables, now, from, packet) {
        Ok(outcome) => outcome,
        Err(Stop { outcome, blame }) => {
            match outcome {
                Outcome::Drop(reason) => shard.counters.dropped(reason, blame),
                _ => shard.counters.consumed(),
            }
            outcome
        }
    }
}

/// Before the first snapshot nobody may send anything.
pub fn without_tables(shard: &mut Shard, from: From, bytes: usize) -> Outcome {
    shard.counters.received(from.pod(), bytes);
    let blame = from.pod().map_or(Blame::Nobody, Blame::Egress);
    shard.counters.dropped(DropReason::PortUnknown, blame);
    Outcome::Drop(DropReason::PortUnknown)
}

fn decide<M: Memory>(
    memory: &M,
    shard: &mut Shard,
    tables: &Tables,
    now: Now,
    from: From,
    packet: &mut M::Packet,
) -> Result<Outcome, Stop> {
    let (parsed, path) = guard::guard(memory.head(packet), memory.len(packet), from, tables, shard)?;
    if let Some(slot) = path.source {
        track::track(shard, tables, now, &track::Leg::egress(slot, &parsed))
            .map_err(|reason| Stop::drop(reason, Blame::Egress(slot)))?;
    }
    if let Some(slot) = path.destination {
        track::track(shard, tables, now, &track::Leg::ingress(slot, &parsed))
            .map_err(|reason| Stop::drop(reason, Blame::Ingress(slot)))?;
    }
    forward::forward(memory, &shard.links, tables, &parsed, path, packet)
}

/// The far end of a packet, seen from a pod.
fn remote(packet: &Packet, direction: espalier_api::Direction) -> IpAddr {
    match direction {
        espalier_api::Direction::Ingress => packet.source,
        espalier_api::Direction::Egress => packet.destination,
    }
}
