//! A port in a worker's hands: its socket, the packets on their way out, and what each counts as.

use espalier_xsk::{FramePool, Packet, Port, PortStatistics, SteerFlags, SteerMeta};
use rustix::event::epoll::EventData;
use rustix::fd::{AsFd, BorrowedFd};

use crate::counters::{Blame, ShardCounters};
use crate::flow::PodSlot;
use crate::reason::DropReason;
use crate::step::From;

/// Index of a port in its worker: the trunk, then the pods by slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub(super) usize);

impl Place {
    pub(super) const TRUNK: Self = Self(0);
    pub(super) const WAKE: Self = Self(usize::MAX);

    /// The pod's place, or the trunk's (`None`).
    pub(super) fn of(slot: Option<PodSlot>) -> Self {
        slot.map_or(Self::TRUNK, |slot| Self(usize::from(slot.0) + 1))
    }

    pub(super) fn index(self) -> usize {
        self.0
    }

    pub(super) fn as_event(self) -> EventData {
        EventData::new_u64(self.0 as u64)
    }

    pub(super) fn of_event(data: EventData) -> Self {
        Self(data.u64() as usize)
    }

    fn slot(self) -> Option<PodSlot> {
        self.0.checked_sub(1).map(|slot| PodSlot(slot as u16))
    }

    /// Where a packet with this metadata came from. One that the trunk program did not untag has VLAN 0, which no pod has.
    pub(super) fn from(self, meta: SteerMeta) -> From {
        match self.slot() {
            Some(slot) => From::Pod { slot, tagged: meta.flags.contains(SteerFlags::PUSHED) },
            None if meta.flags.contains(SteerFlags::POPPED) => From::Trunk { vlan: meta.tci & 0x0fff },
            None => From::Trunk { vlan: 0 },
        }
    }
}

/// What a packet in a transmit queue counts as.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cargo {
    /// Received by the switch.
    Forwarded {
        /// Whose drop it is if it is lost.
        blame: Blame,
        /// Its length.
        bytes: usize,
    },
    /// Made by the switch.
    Originated,
}

impl Cargo {
    fn sent(self, counters: &mut ShardCounters, place: Place) {
        match self {
            Self::Forwarded { bytes, .. } => counters.forwarded(place.slot(), bytes),
            Self::Originated => counters.originated(),
        }
    }

    pub(super) fn lost(self, counters: &mut ShardCounters, reason: DropReason) {
        if let Self::Forwarded { blame, .. } = self {
            counters.dropped(reason, blame);
        }
    }
}

/// A port and its queue.
pub(super) struct WorkerPort {
    port: Port,
    packets: Vec<Packet>,
    cargo: Vec<Cargo>,
    /// Whether the kernel has been told of everything that was queued.
    flushed: bool,
    /// Whether the worker has this port on its list of those that send.
    sending: bool,
    empty_rounds: u32,
}

impl WorkerPort {
    pub(super) fn new(port: Port) -> Self {
        Self { port, packets: Vec::new(), cargo: Vec::new(), flushed: true, sending: false, empty_rounds: 0 }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }

    pub(super) fn receive(&mut self, out: &mut Vec<Packet>, max: usize) -> usize {
        let count = self.port.receive(out, max);
        self.empty_rounds = if count == 0 { self.empty_rounds + 1 } else { 0 };
        count
    }

    /// Whether it has been empty for `rounds` receives; if so, the count starts again.
    pub(super) fn cools(&mut self, rounds: u32) -> bool {
        let cold = self.empty_rounds >= rounds;
        if cold {
            self.empty_rounds = 0;
        }
        cold
    }

    /// Frames it holds to receive into.
    pub(super) fn in_fill(&self) -> usize {
        self.port.in_fill()
    }

    pub(super) fn statistics(&self) -> PortStatistics {
        self.port.statistics()
    }

    /// Has the port hold that many frames to receive into; fewer as packets come, where it holds more.
    pub(super) fn refill(&mut self, pool: &mut FramePool, target: usize) {
        self.port.set_keep_filled(target as u32);
        self.port.refill(pool);
    }

    /// Queues a packet. Says whether the port had nothing to send until now.
    pub(super) fn enqueue(&mut self, packet: Packet, cargo: Cargo) -> bool {
        self.packets.push(packet);
        self.cargo.push(cargo);
        !std::mem::replace(&mut self.sending, true)
    }

    /// Hands the queue to the kernel. What does not fit even after reclaiming is dropped, counted. Says whether the
    /// kernel still has packets of this port.
    pub(super) fn transmit(
        &mut self,
        pool: &mut FramePool,
        counters: &mut ShardCounters,
        place: Place,
    ) -> bool {
        self.port.complete(pool);
        if !self.packets.is_empty() || !self.flushed {
            self.send(counters, place);
            self.flush(place);
            self.port.complete(pool);
        }
        if !self.packets.is_empty() {
            self.send(counters, place);
            self.flush(place);
        }
        for (packet, cargo) in self.packets.drain(..).zip(self.cargo.drain(..)) {
            pool.free_packet(packet);
            cargo.lost(counters, DropReason::TransmitRingFull);
        }
        self.sending = !self.flushed || self.port.in_tx() > 0;
        self.sending
    }

    fn send(&mut self, counters: &mut ShardCounters, place: Place) {
        let taken = self.port.send(&mut self.packets);
        self.cargo.drain(..taken).for_each(|cargo| cargo.sent(counters, place));
    }

    fn flush(&mut self, place: Place) {
        self.flushed = self.port.flush().unwrap_or_else(|error| {
            tracing::debug!(place = place.index(), %error, "the kernel does not send for a port");
            // The interface is down or gone; the link watcher takes the port away.
            true
        });
    }

    /// Gives the socket back; what was queued is dropped.
    pub(super) fn dismantle(mut self, pool: &mut FramePool, counters: &mut ShardCounters) -> Port {
        for (packet, cargo) in self.packets.drain(..).zip(self.cargo.drain(..)) {
            pool.free_packet(packet);
            cargo.lost(counters, DropReason::PortDown);
        }
        self.port.complete(pool);
        self.port
    }
}
