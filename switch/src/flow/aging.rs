//! Ending flows without a packet: the bounded sweep of idle ones, and the removal of a pod.
//!
//! The worker calls `sweep` once a loop. A queue is in the order in which flows were queued, not in which they fall
//! idle, so the sweep looks at a flow some time after it was queued and queues it again if it is not over yet: per packet
//! the cost is one store. A flow over is never treated as live meanwhile, because `on_packet` checks the timeout itself.

use super::FlowHandle;
use super::key::PodSlot;
use super::listing::FlowRecord;
use super::state::Class;
use super::table::FlowTable;
use super::time::{Now, elapsed};
use super::timeouts::Timeouts;

/// A flow is looked at after this part of its timeout, so its entry is free at the latest when 1 1/4 timeouts are over.
const LOOKS: u32 = 4;
/// Flows of one pod and class looked at before other pods have their turn.
const TURN: usize = 32;

/// How far the sweep has come. A pass visits every pod; the next one begins with the next tick, or at once if flows that
/// are due had to be left, so that a worker that sweeps every few microseconds does not read the same queues each time.
#[derive(Default)]
pub(super) struct Sweep {
    slot: usize,
    tick: u32,
    left_some: bool,
}

impl FlowTable {
    /// Frees entries of flows that are over, in at most `budget` steps (a pod visited or a flow looked at). Returns
    /// how many were freed. Costs next to nothing when nothing is due.
    #[inline]
    pub fn sweep(&mut self, now: Now, budget: usize) -> usize {
        let idle = self.sweep.slot == 0 && !self.sweep.left_some && self.sweep.tick == now.tick();
        if idle { 0 } else { self.sweep_pods(now.tick(), budget) }
    }

    fn sweep_pods(&mut self, tick: u32, budget: usize) -> usize {
        let mut left = budget;
        let mut freed = 0;
        if self.sweep.slot == 0 {
            self.sweep.tick = tick;
            self.sweep.left_some = false;
        }
        while left > 0 {
            left -= 1;
            let slot = self.sweep.slot;
            if self.pods[slot].len() > 0 {
                for class in Class::ALL {
                    freed += self.sweep_queue(slot, class, tick, &mut left);
                }
            }
            self.sweep.slot = (slot + 1) % self.pods.len();
            if self.sweep.slot == 0 {
                break;
            }
        }
        self.stats.expired += freed as u64;
        freed
    }

    fn sweep_queue(&mut self, slot: usize, class: Class, tick: u32, left: &mut usize) -> usize {
        let limit = self.pods[slot].ticks[class as usize];
        // Half-open connections keep the order in which they began, for the eviction of the oldest.
        let pause = if class == Class::HalfOpen { limit } else { limit / LOOKS };
        let mut freed = 0;
        for turn in 0.. {
            let Some(head) = self.pods[slot].queues[class as usize].head() else { break };
            if elapsed(tick, self.links.queued(head)) <= pause {
                break;
            }
            if turn == TURN || *left == 0 {
                self.sweep.left_some = true;
                break;
            }
            *left -= 1;
            if self.is_over(head, tick) {
                self.release(head);
                freed += 1;
            } else {
                let queue = &mut self.pods[slot].queues[class as usize];
                self.links.unlink(queue, head);
                self.links.push(queue, head, tick);
            }
        }
        freed
    }

    /// Ends up to `budget` flows of a pod. Returns whether none is left; call it again until then, and give the slot
    /// to no other pod before.
    pub fn remove_pod(&mut self, slot: PodSlot, budget: usize) -> bool {
        let Some(pod) = self.pods.get(slot.index()) else { return true };
        let mut left = budget.min(pod.len() as usize);
        self.stats.removed += left as u64;
        for class in Class::ALL {
            while left > 0
                && let Some(head) = self.pods[slot.index()].queues[class as usize].head()
            {
                self.release(head);
                left -= 1;
            }
        }
        self.len_of(slot) == 0
    }

    /// Takes up to `budget` flows of a pod out, for another table; call it again until there are none. Those that are
    /// over are left out, so fewer than `budget` do not mean that none is left: [`Self::len_of`] does.
    pub fn take_pod(&mut self, slot: PodSlot, budget: usize, now: Now) -> Vec<FlowRecord> {
        let mut taken = Vec::with_capacity(budget.min(self.len_of(slot) as usize));
        for class in Class::ALL {
            while taken.len() < budget
                && let Some(head) =
                    self.pods.get(slot.index()).and_then(|pod| pod.queues[class as usize].head())
            {
                match self.record(FlowHandle(head), now) {
                    Some(record) => {
                        taken.push(record);
                        self.free(head);
                    }
                    None => self.release(head),
                }
            }
        }
        taken
    }

    /// Gives a pod its timeouts; they hold for its present flows too. Returns whether the table has such a slot.
    pub fn set_timeouts(&mut self, slot: PodSlot, timeouts: Timeouts) -> bool {
        let Some(pod) = self.pods.get_mut(slot.index()) else { return false };
        pod.ticks = timeouts.ticks();
        pod.timeouts = timeouts;
        true
    }

    /// The timeouts of a pod.
    pub fn timeouts(&self, slot: PodSlot) -> Option<Timeouts> {
        self.pods.get(slot.index()).map(|pod| pod.timeouts)
    }
}
