//! How long packets take a worker, and what waits in its rings: what `status` and the metrics tell of its load.
//!
//! One batch in 64 is timed, by two reads of the clock, so that the other packets pay nothing but a test a batch.

use std::time::Instant;

use espalier_api::control::{PacketTimes, WorkerRings};

use super::Worker;
use super::port::WorkerPort;

/// One batch in so many is timed.
const SAMPLE: u64 = 64;

/// Batches by nanoseconds a packet took, from the step to its place in a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pace {
    /// Batches below each bound of [`Self::BOUNDS`] and not below the one before; the last is of those above all.
    pub batches: [u64; Self::BOUNDS.len() + 1],
    /// Nanoseconds a packet took, summed over the batches timed.
    pub sum: u64,
}

/// A batch that is being timed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    since: Instant,
    packets: u64,
}

impl Pace {
    /// Upper bounds, nanoseconds a packet.
    pub const BOUNDS: [u64; 12] = [32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 8192, 65_536];

    /// Starts the clock if the batch of this number is to be timed.
    #[inline]
    pub(super) fn begin(batch: u64, packets: usize) -> Option<Timed> {
        let due = batch.is_multiple_of(SAMPLE) && packets > 0;
        due.then(|| Timed { since: Instant::now(), packets: packets as u64 })
    }

    /// Notes what a batch took.
    #[cold]
    pub(super) fn end(&mut self, timed: Timed) {
        let took = u64::try_from(timed.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.note(took / timed.packets);
    }

    fn note(&mut self, each: u64) {
        let class = Self::BOUNDS.iter().position(|bound| each < *bound).unwrap_or(Self::BOUNDS.len());
        self.batches[class] += 1;
        self.sum = self.sum.saturating_add(each);
    }

    /// The shape of the control socket.
    pub fn to_api(&self) -> PacketTimes {
        PacketTimes { bounds_ns: Self::BOUNDS.to_vec(), batches: self.batches.to_vec(), sum_ns: self.sum }
    }

    /// Batches timed.
    pub fn count(&self) -> u64 {
        self.batches.iter().sum()
    }
}

/// Frames and packets in a worker's rings at a batch boundary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingDepths {
    /// Frames in fill rings, and received but not yet taken from the receive rings.
    pub fill: usize,
    /// Frames with the kernel to send, those in unread completion rings included.
    pub tx: usize,
    /// Of those, entries of transmit rings that the kernel has not taken.
    pub unsent: usize,
    /// Packets that other workers have handed over.
    pub handover: usize,
    /// Packets held for pods on their way here.
    pub held: usize,
    /// Free frames in the worker's own pool.
    pub free: usize,
}

impl RingDepths {
    /// The shape of the control socket.
    pub fn to_api(&self) -> WorkerRings {
        let Self { fill, tx, unsent, handover, held, free } = *self;
        let [fill, tx, unsent, handover, held, free] =
            [fill, tx, unsent, handover, held, free].map(|count| count as u64);
        WorkerRings { fill, tx, unsent, handover, held, free }
    }
}

impl Worker {
    /// What is in the rings now.
    pub(super) fn ring_depths(&self) -> RingDepths {
        let ports = || self.ports.trunk.iter().chain(self.ports.pods.iter().flatten());
        RingDepths {
            fill: ports().map(WorkerPort::in_fill).sum(),
            tx: ports().map(|port| port.in_tx().0).sum(),
            unsent: ports().map(|port| port.in_tx().1).sum(),
            handover: self.rings.from.iter().map(rtrb::Consumer::slots).sum(),
            held: self.held.values().map(std::collections::VecDeque::len).sum(),
            free: self.pool.available(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_falls_into_the_class_of_its_packets() {
        let mut pace = Pace::default();
        for each in [0, 31, 32, 100, 70_000] {
            pace.note(each);
        }
        assert_eq!((pace.batches[0], pace.batches[1], pace.batches[3], pace.batches[12]), (2, 1, 1, 1));
        assert_eq!((pace.count(), pace.sum), (5, 70_163));
    }

    #[test]
    fn one_batch_in_sixty_four_is_timed() {
        assert_eq!((0..640).filter(|batch| Pace::begin(*batch, 1).is_some()).count(), 10);
        assert!(Pace::begin(64, 0).is_none());
    }
}
