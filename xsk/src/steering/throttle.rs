//! How a trunk queue whose reader is behind is shared: the reader says so, and the program drops what is over a branch's
//! share before it takes room in the ring from the others. Belongs to the port that reads the queue.

use std::fmt;

use aya::maps::MapData;

use super::mapped::MappedArray;
use super::object::TRUNK_QUEUES;
use super::tables::map_error;
use super::{Steering, SteeringError};

/// The reader is behind when more than this part of what its ring or its frames have room for waits, and until no more
/// than the second part does: between two looks of a reader that also sends, a flood fills nearly half.
const BEHIND: usize = 2;
const AT_EASE: usize = 8;
/// Rounds after which a branch that sent nothing may have all that it may have at once (steer.bpf.c): that long before the
/// first one, so that it is how each branch begins.
const FULL_AFTER: u32 = 4;
/// Batches of a round.
const BATCHES: u32 = 4;

/// Tells the program how one queue of the trunk is being read. Dropped, it leaves the queue unthrottled.
pub struct Throttle {
    rounds: MappedArray,
    queue: u32,
    round: u32,
    /// Batches read since the last round began; nothing while the reader is not behind.
    batches: Option<u32>,
}

impl Steering {
    /// For the reader of a queue of the trunk, which is not throttled from now on.
    pub fn throttle(&self, queue: u32) -> Result<Throttle, SteeringError> {
        let pinned = MapData::from_pin(self.pins.map("trunk_rounds"));
        let pinned = pinned.map_err(|e| map_error("trunk_rounds", "open".to_owned(), &e))?;
        let rounds = MappedArray::new(&pinned, TRUNK_QUEUES);
        let rounds = rounds.map_err(|e| map_error("trunk_rounds", "map".to_owned(), &e))?;
        let cleared = rounds.set(queue, 0);
        cleared.map_err(|e| map_error("trunk_rounds", format!("clear queue {queue}"), &e))?;
        Ok(Throttle { rounds, queue, round: FULL_AFTER, batches: None })
    }
}

impl Throttle {
    /// After each batch that was read: so many descriptors wait in a ring that has room for so many.
    pub fn read(&mut self, waiting: usize, room: usize) {
        let part = if self.batches.is_some() { AT_EASE } else { BEHIND };
        if waiting <= room / part {
            if self.batches.take().is_some() {
                self.tell(0);
            }
            return;
        }
        let batches = self.batches.map_or(BATCHES, |batches| batches + 1);
        if batches == BATCHES {
            self.round = self.round.wrapping_add(1).max(1);
            self.tell(self.round);
        }
        self.batches = Some(batches % BATCHES);
    }

    fn tell(&mut self, round: u32) {
        // The queue is there, it was written when this was made.
        let told = self.rounds.set(self.queue, round);
        debug_assert!(told.is_ok(), "{told:?}");
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, round, batches, rounds: _ } = self;
        f.debug_struct("Throttle")
            .field("queue", queue)
            .field("round", round)
            .field("batches", batches)
            .finish_non_exhaustive()
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.tell(0);
    }
}
