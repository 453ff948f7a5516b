//! A port in a worker's hands: its socket, the packets on their way out, and what each counts as. And all of them.

use espalier_xsk::{FramePool, MAX_SEGMENTS, Packet, Port, PortStatistics, SteerFlags, SteerMeta, Umem};
use rustix::event::epoll::{self, EventData};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::fair;
use crate::counters::{Blame, Exit, ShardCounters};
use crate::flow::PodSlot;
use crate::packet;
use crate::reason::DropReason;
use crate::step::{From, Handed, Shard};

/// Which of its worker's ports one is: a pod's, by slot, or one of the trunk's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// The first place that is no pod's.
const FIRST_TRUNK: u32 = 1 << 16;

impl Place {
    /// The trunk's queue that the worker sends by.
    pub(super) const TRUNK: Self = Self(FIRST_TRUNK);
    pub(super) const WAKE: Self = Self(u32::MAX);

    /// The pod's place, or the trunk's (`None`).
    pub(super) fn of(slot: Option<PodSlot>) -> Self {
        slot.map_or(Self::TRUNK, |slot| Self(slot.0.into()))
    }

    /// The place of the worker's `nth` queue of the trunk.
    pub(super) fn trunk(nth: usize) -> Self {
        Self(FIRST_TRUNK + nth as u32)
    }

    pub(super) fn as_event(self) -> EventData {
        EventData::new_u64(self.0.into())
    }

    pub(super) fn of_event(data: EventData) -> Self {
        Self(data.u64() as u32)
    }

    pub(super) fn slot(self) -> Option<PodSlot> {
        u16::try_from(self.0).ok().map(PodSlot)
    }

    /// Where a packet that was received here came from. What a pod sent is told by the frame alone: the metadata lies in
    /// a line of its own, which would have to come from the core that wrote it.
    pub(super) fn from(self, umem: &Umem, packet: &Packet) -> From {
        match self.slot() {
            Some(slot) => From::Pod { slot, tagged: packet::has_tag(umem.bytes(packet.head())) },
            None => From::Trunk { vlan: popped(umem.steer_meta(packet.head())) },
        }
    }

    /// Has what tells where a packet came from, and its headers, on their way to this core's cache.
    pub(super) fn prefetch(self, umem: &Umem, packet: &Packet) {
        match self.slot() {
            Some(_) => umem.prefetch(packet.head()),
            None => umem.prefetch_with_meta(packet.head()),
        }
    }
}

/// Where a packet came from that another worker handed over. The metadata lies before the frame, where no sender can
/// write.
pub(super) fn handed(umem: &Umem, packet: &Packet) -> From {
    let meta = umem.steer_meta(packet.head());
    From::Peer(match meta.flags.contains(SteerFlags::POD) {
        true => Handed::Pod,
        false => Handed::Trunk { vlan: popped(meta) },
    })
}

/// The VLAN of the tag that the trunk program took off. A frame that it did not untag has VLAN 0, which no pod has.
fn popped(meta: SteerMeta) -> u16 {
    if meta.flags.contains(SteerFlags::POPPED) { meta.vlan() } else { 0 }
}

/// The ports of one worker.
pub(super) struct Ports {
    /// The trunk's queues; the first is sent by.
    pub(super) trunk: Vec<WorkerPort>,
    /// The pods' ports, by slot.
    pub(super) pods: Vec<Option<WorkerPort>>,
}

impl Ports {
    /// None yet, of `slots` pods.
    pub(super) fn new(slots: usize) -> Self {
        Self { trunk: Vec::new(), pods: (0..slots).map(|_| None).collect() }
    }

    pub(super) fn get(&self, place: Place) -> Option<&WorkerPort> {
        match place.slot() {
            Some(slot) => self.pods.get(slot.index())?.as_ref(),
            None => self.trunk.get((place.0 - FIRST_TRUNK) as usize),
        }
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut WorkerPort> {
        match place.slot() {
            Some(slot) => self.pods.get_mut(slot.index())?.as_mut(),
            None => self.trunk.get_mut((place.0 - FIRST_TRUNK) as usize),
        }
    }
}

/// What a packet in a transmit queue counts as.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cargo {
    /// Received by the switch.
    Forwarded {
        /// The port it waits at.
        exit: Exit,
        /// Its length.
        bytes: u32,
    },
    /// Made by the switch.
    Originated,
}

impl Cargo {
    fn sent(self, counters: &mut ShardCounters) {
        match self {
            Self::Forwarded { exit, bytes } => counters.forwarded(exit, bytes as usize),
            Self::Originated => counters.originated(),
        }
    }

    /// Whom the packet is counted against where packets compete for room.
    fn claimant(self) -> Blame {
        match self {
            Self::Forwarded { exit, .. } => exit.blame(),
            Self::Originated => Blame::Nobody,
        }
    }
}

/// What it takes to end a packet's way.
pub(super) struct Sink<'a> {
    pub(super) shard: &'a mut Shard<Packet>,
    pub(super) pool: &'a mut FramePool,
    pub(super) umem: &'a Umem,
}

impl Sink<'_> {
    /// Drops a packet, counted unless the switch made it.
    pub(super) fn lose(&mut self, packet: Packet, cargo: Cargo, reason: DropReason) {
        match cargo {
            Cargo::Forwarded { exit, .. } => self.drop(packet, exit.blame(), reason),
            Cargo::Originated => self.pool.free_packet(packet),
        }
    }

    /// Drops a packet that was received, counted.
    pub(super) fn drop(&mut self, packet: Packet, blame: Blame, reason: DropReason) {
        self.shard.lost(self.umem, &packet, blame, reason);
        self.pool.free_packet(packet);
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
    /// Whether the worker has it on its list of those that are polled.
    polled: bool,
    /// Whether epoll tells of it.
    watched: bool,
    /// Rounds in which nothing came or was sent.
    quiet_rounds: u32,
    /// Packets in and out since it was last left to epoll.
    moved: u32,
}

/// Quiet rounds after which a port waits in epoll.
const COLD_AFTER: u32 = 32;
/// Packets after which epoll is not told of a port for as long as it is polled. In copy mode the kernel wakes who waits at
/// a socket for each packet it has sent (net/core/sock.c, `sock_wfree`), and epoll's answer, that nobody asked for room to
/// send, took a twelfth of a packet's time. Less traffic is not worth the two calls.
const BUSY_AFTER: u32 = 256;

impl WorkerPort {
    pub(super) fn new(port: Port) -> Self {
        // A port that was another worker's may have packets that the kernel has not sent.
        let flushed = port.unsent() == 0;
        Self {
            port,
            packets: Vec::new(),
            cargo: Vec::new(),
            flushed,
            sending: false,
            polled: false,
            watched: false,
            quiet_rounds: 0,
            moved: 0,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }

    pub(super) fn receive(&mut self, out: &mut Vec<Packet>, max: usize) -> usize {
        let count = self.port.receive(out, max);
        self.quiet_rounds = self.quiet_rounds.saturating_add(1);
        self.count(count);
        count
    }

    fn count(&mut self, packets: usize) {
        if packets > 0 {
            self.quiet_rounds = 0;
            self.moved = self.moved.saturating_add(packets as u32);
        }
    }

    /// Has it polled. Says whether it was not until now.
    pub(super) fn poll(&mut self) -> bool {
        !std::mem::replace(&mut self.polled, true)
    }

    /// Leaves it to epoll alone, if it has been quiet for long. Says whether epoll took it.
    pub(super) fn cools(&mut self, epoll: &OwnedFd, place: Place) -> bool {
        if self.quiet_rounds < COLD_AFTER {
            return false;
        }
        self.quiet_rounds = 0;
        self.polled = self.watch(epoll, place).is_err();
        !self.polled
    }

    /// Has epoll tell of it.
    pub(super) fn watch(&mut self, epoll: &OwnedFd, place: Place) -> std::io::Result<()> {
        self.moved = 0;
        if !self.watched {
            epoll::add(epoll, self.fd(), place.as_event(), epoll::EventFlags::IN)?;
            self.watched = true;
        }
        Ok(())
    }

    /// Takes it out of epoll if that has become worth its while.
    pub(super) fn unwatch_if_busy(&mut self, epoll: &OwnedFd) {
        if self.watched && self.moved >= BUSY_AFTER {
            self.watched = epoll::delete(epoll, self.fd()).is_err();
        }
    }

    /// Frames it holds to receive into.
    pub(super) fn in_fill(&self) -> usize {
        self.port.in_fill()
    }

    /// Frames with the kernel for sending, and TX ring entries of those that it has not taken.
    pub(super) fn in_tx(&self) -> (usize, usize) {
        (self.port.in_tx(), self.port.unsent())
    }

    pub(super) fn statistics(&self) -> PortStatistics {
        self.port.statistics()
    }

    /// Has the port hold that many frames to receive into; fewer as packets come, where it holds more.
    pub(super) fn refill(&mut self, pool: &mut FramePool, target: usize) {
        self.port.set_keep_filled(target as u32);
        self.port.refill(pool);
    }

    /// The trunk's queue it is bound to.
    pub(super) fn queue(&self) -> u32 {
        self.port.queue()
    }

    /// Whether the kernel has taken all that was sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.flushed
    }

    /// Has the worker look at what the kernel still has of this port. Says whether it did not until now.
    pub(super) fn resume(&mut self) -> bool {
        let unfinished = !self.flushed || self.port.in_tx() > 0;
        unfinished && !std::mem::replace(&mut self.sending, true)
    }

    /// Queues a packet. Says whether the port had nothing to send until now.
    pub(super) fn enqueue(&mut self, packet: Packet, cargo: Cargo) -> bool {
        self.packets.push(packet);
        self.cargo.push(cargo);
        !std::mem::replace(&mut self.sending, true)
    }

    /// Hands the queue to the kernel. What does not fit even after reclaiming is dropped, counted. Says whether the
    /// kernel still has packets of this port.
    pub(super) fn transmit(&mut self, sink: &mut Sink<'_>, place: Place) -> bool {
        self.port.complete(sink.pool);
        if self.port.unsent() + self.packets.len() * MAX_SEGMENTS > self.port.tx_ring() {
            self.take_turns();
        }
        if !self.packets.is_empty() || !self.flushed {
            self.send(&mut sink.shard.counters);
            self.flush(place);
            self.port.complete(sink.pool);
        }
        if !self.packets.is_empty() {
            self.send(&mut sink.shard.counters);
            self.flush(place);
        }
        for (packet, cargo) in self.packets.drain(..).zip(self.cargo.drain(..)) {
            sink.lose(packet, cargo, DropReason::TransmitRingFull);
        }
        self.sending = !self.flushed || self.port.in_tx() > 0;
        self.sending
    }

    /// Puts what the pods have queued into an order in which none is at another's mercy, if there is no room for all.
    fn take_turns(&mut self) {
        let wanted: usize = self.packets.iter().map(Packet::segment_count).sum();
        if wanted > self.port.tx_room() {
            fair::take_turns(&mut self.packets, &mut self.cargo, |packet, cargo| {
                (cargo.claimant(), packet.segment_count())
            });
        }
    }

    fn send(&mut self, counters: &mut ShardCounters) {
        let taken = self.port.send(&mut self.packets);
        self.count(taken);
        self.cargo.drain(..taken).for_each(|cargo| cargo.sent(counters));
    }

    fn flush(&mut self, place: Place) {
        self.flushed = self.port.flush().unwrap_or_else(|error| {
            tracing::debug!(place = place.0, %error, "the kernel does not send for a port");
            // The interface is down or gone; the link watcher takes the port away.
            true
        });
    }

    /// Gives the socket back; what was queued is dropped.
    pub(super) fn dismantle(mut self, sink: &mut Sink<'_>) -> Port {
        for (packet, cargo) in self.packets.drain(..).zip(self.cargo.drain(..)) {
            sink.lose(packet, cargo, DropReason::PortDown);
        }
        self.port.complete(sink.pool);
        self.port
    }
}
