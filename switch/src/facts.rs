//! What flows and policy decisions become known outside a worker: flows that ended, and packets judged without a flow.
//!
//! Nothing is told unless somebody listens (flow logs, shadow). A worker writes into bounded rings and never waits: what
//! finds no room is counted as lost. What live flows carry is not told but read, page by page, from the flow table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use espalier_api::Direction;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::flow::{FlowRecord, Now, PodSlot, RuleKey};
use crate::ip::Ip;
use crate::packet::{Packet, Upper};
use crate::reason::DropReason;

/// A packet that policy decided and that no flow counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketFact {
    /// When.
    pub at: Now,
    /// The pod whose policy decided.
    pub slot: PodSlot,
    /// Towards the pod or from it.
    pub direction: Direction,
    /// Its source.
    pub source: Ip,
    /// Its destination.
    pub destination: Ip,
    /// Its protocol.
    pub protocol: u8,
    /// Its ports, type or nothing.
    pub upper: Upper,
    /// Bytes from Ethernet header to the packet's end, as flows count them.
    pub bytes: u32,
    /// Whether it may pass, and the rule that says so; a later fragment passes with its first.
    pub verdict: Result<Option<RuleKey>, DropReason>,
    /// Whether it passed although denied: the pod is in audit mode.
    pub audited: bool,
}

impl PacketFact {
    /// What is to be told of a packet, as the pod in `slot` saw it.
    pub(crate) fn new(
        (slot, direction): (PodSlot, Direction),
        packet: &Packet,
        now: Now,
        verdict: Result<Option<RuleKey>, DropReason>,
    ) -> Self {
        Self {
            at: now,
            slot,
            direction,
            source: packet.source(),
            destination: packet.destination(),
            protocol: packet.protocol,
            upper: packet.upper(),
            bytes: packet.end,
            verdict,
            audited: false,
        }
    }
}

/// A flow that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedFlow {
    /// As it was with its last packet.
    pub flow: FlowRecord,
    /// When that was, to 64 milliseconds.
    pub last: Now,
}

/// The worker's end of a ring.
pub struct Teller<T> {
    ring: Producer<T>,
    lost: Arc<AtomicU64>,
    told: u64,
}

impl<T> Teller<T> {
    /// Tells, if there is room.
    #[cold]
    pub(crate) fn tell(&mut self, fact: T) {
        match self.ring.push(fact) {
            Ok(()) => self.told += 1,
            Err(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Facts that found room so far: what is read of the flows now comes after just these.
    pub fn told(&self) -> u64 {
        self.told
    }
}

/// The listener's end of a ring.
pub struct Listener<T> {
    ring: Consumer<T>,
    lost: Arc<AtomicU64>,
}

impl<T> Iterator for Listener<T> {
    type Item = T;

    /// The next fact; nothing while there is none.
    fn next(&mut self) -> Option<T> {
        self.ring.pop().ok()
    }
}

impl<T> Listener<T> {
    /// Facts that found no room, since the ring was made.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A ring for so many facts.
pub fn ring<T>(capacity: usize) -> (Teller<T>, Listener<T>) {
    let (producer, consumer) = RingBuffer::new(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    (Teller { ring: producer, lost: Arc::clone(&lost), told: 0 }, Listener { ring: consumer, lost })
}

/// A worker's ends of both rings.
pub struct Tellers {
    /// Flows that ended: their last counts.
    pub ended: Teller<EndedFlow>,
    /// Packets without a flow.
    pub packets: Teller<PacketFact>,
}

/// The listener's ends of one worker's rings.
pub struct Listeners {
    /// Flows that ended: their last counts.
    pub ended: Listener<EndedFlow>,
    /// Packets without a flow.
    pub packets: Listener<PacketFact>,
}

/// Rings for so many facts of each kind.
pub fn rings(capacity: usize) -> (Tellers, Listeners) {
    let (ended, ended_listener) = ring(capacity);
    let (packets, packets_listener) = ring(capacity);
    (Tellers { ended, packets }, Listeners { ended: ended_listener, packets: packets_listener })
}
