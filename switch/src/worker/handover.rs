//! Packets on their way from the worker that received them to the home of the pod they are for.
//!
//! One bounded ring for each pair of workers, written and read in batches. A worker that does not keep up has its
//! packets dropped where they come from, counted. Made once by [`rings`]; used by the worker only.

use std::sync::Arc;

use espalier_xsk::{FramePool, Packet};
use rtrb::{Consumer, Producer, RingBuffer};

use super::doorbell::Doorbell;
use super::fair;
use crate::counters::{Blame, ShardCounters};
use crate::reason::DropReason;

/// Packets a ring has room for: twice the default of a port's receive ring, so that what a worker takes in while its
/// peer is busy elsewhere for a moment is not lost.
const RING: usize = 4096;

/// The ends of the rings that one worker has, by the number of the other worker; none for itself.
pub(super) struct Rings {
    pub(super) to: Vec<Option<Outlet>>,
    pub(super) from: Vec<Consumer<Packet>>,
}

/// The way to one other worker.
pub(super) struct Outlet {
    ring: Producer<Packet>,
    bell: Arc<Doorbell>,
    staged: Vec<Packet>,
    blames: Vec<Blame>,
}

/// The rings between workers with these doorbells.
pub(super) fn rings(bells: &[Arc<Doorbell>]) -> Vec<Rings> {
    let mut all: Vec<Rings> = bells.iter().map(|_| Rings { to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..bells.len() {
        for (to, bell) in bells.iter().enumerate() {
            if to == from {
                all[from].to.push(None);
                continue;
            }
            let (producer, consumer) = RingBuffer::new(RING);
            all[from].to.push(Some(Outlet {
                ring: producer,
                bell: Arc::clone(bell),
                staged: Vec::new(),
                blames: Vec::new(),
            }));
            all[to].from.push(consumer);
        }
    }
    all
}

impl Outlet {
    /// Takes a packet for the next [`Self::flush`].
    pub(super) fn stage(&mut self, packet: Packet, blame: Blame) {
        self.staged.push(packet);
        self.blames.push(blame);
    }

    /// Hands over what was staged, in order, as far as there is room, which the pods share evenly; the rest is dropped.
    pub(super) fn flush(&mut self, pool: &mut FramePool, counters: &mut ShardCounters) {
        if self.staged.is_empty() {
            return;
        }
        let room = self.ring.slots();
        if room < self.staged.len() {
            fair::take_turns(&mut self.staged, &mut self.blames, |_, blame| (*blame, 1));
            for (packet, blame) in self.staged.drain(room..).zip(self.blames.drain(room..)) {
                pool.free_packet(packet);
                counters.dropped(DropReason::HandoverRingFull, blame);
            }
        }
        let count = self.staged.len();
        self.blames.clear();
        let Ok(chunk) = self.ring.write_chunk_uninit(count) else {
            debug_assert!(false, "the room was asked for, and only this worker takes it");
            return;
        };
        let handed = chunk.fill_from_iter(self.staged.drain(..));
        counters.handed_out(handed);
        self.bell.ring_if_asleep();
    }
}
