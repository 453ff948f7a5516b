//! The recorder's end of one worker's rings.

use crate::facts::{EndedFlow, Listeners, PacketFact};
use crate::worker::{Handle, WorkerFailed};

/// Facts of each kind that a worker may be ahead of the recorder.
const CAPACITY: usize = 1 << 15;

/// The recorder's end of one worker's rings.
pub(super) struct Ear {
    worker: Handle,
    rings: Listeners,
    /// Ended flows taken out so far.
    heard: u64,
    lost: u64,
}

impl Ear {
    /// Has the worker tell from now on.
    pub(super) fn listen(worker: &Handle) -> Result<Self, WorkerFailed> {
        Ok(Self { rings: worker.listen(CAPACITY)?, worker: worker.clone(), heard: 0, lost: 0 })
    }

    /// The worker.
    pub(super) fn worker(&self) -> &Handle {
        &self.worker
    }

    /// The flows that ended, up to the one with this number; not more than fit into the ring.
    pub(super) fn ended(&mut self, until: u64, mut each: impl FnMut(EndedFlow)) {
        let room = (CAPACITY as u64).min(until.saturating_sub(self.heard));
        for fact in self.rings.ended.by_ref().take(room as usize) {
            self.heard += 1;
            each(fact);
        }
    }

    /// The packets that no flow counts; not more than fit into the ring.
    pub(super) fn packets(&mut self, each: impl FnMut(PacketFact)) {
        self.rings.packets.by_ref().take(CAPACITY).for_each(each);
    }

    /// Facts that found no room since the last call.
    pub(super) fn newly_lost(&mut self) -> u64 {
        let lost = self.rings.ended.lost() + self.rings.packets.lost();
        lost - std::mem::replace(&mut self.lost, lost)
    }

    /// Has the worker tell nobody any more.
    pub(super) fn hush(&self) {
        if let Err(error) = self.worker.hush() {
            tracing::debug!(%error, "nobody listens to it any more");
        }
    }
}
