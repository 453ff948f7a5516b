//! What one worker knows of another: whether it sleeps, how to wake it, and when it last showed life.
//!
//! Each worker has one [`Doorbell`], which the others, the manager and the watchdog hold. What is written often lies on
//! a cache line of its own and is written by the worker alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;
use espalier_api::control::WorkerState;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::flow::Now;
use crate::watchdog;

/// The shared face of one worker.
pub struct Doorbell {
    wake: OwnedFd,
    asleep: CachePadded<AtomicBool>,
    beat: CachePadded<AtomicU64>,
    ended: AtomicBool,
}

/// Lives as long as the worker's thread; its end, however it comes, is noted.
pub(super) struct Alive(Arc<Doorbell>);

impl Alive {
    pub(super) fn new(bell: &Arc<Doorbell>) -> Self {
        Self(Arc::clone(bell))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

impl Doorbell {
    /// Of a worker that is about to start.
    pub fn new(now: Now) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            asleep: CachePadded::new(AtomicBool::new(false)),
            beat: CachePadded::new(AtomicU64::new(now.0)),
            ended: AtomicBool::new(false),
        }))
    }

    /// What the worker waits on.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Wakes the worker, now or before it next sleeps.
    pub(super) fn ring(&self) {
        // Only an overflowing counter fails, and then the worker has been woken already.
        let _woken = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Wakes the worker if it sleeps. To be called after something was put where it looks before it sleeps.
    pub(super) fn ring_if_asleep(&self) {
        // Together with the fence of `lies_down`: either this sees the flag, or the worker sees what was put there.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// The worker is about to sleep. It must look once more for work after this, and call [`Self::gets_up`] after all.
    pub(super) fn lies_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn gets_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Forgets earlier rings, so that the next one wakes again.
    pub(super) fn hush(&self) {
        let _reset = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// The worker lives at this moment.
    pub(super) fn beat(&self, now: Now) {
        self.beat.store(now.0, Ordering::Relaxed);
    }

    /// How the worker is at this moment.
    pub fn state(&self, now: Now) -> WorkerState {
        watchdog::state(Now(self.beat.load(Ordering::Relaxed)), self.ended.load(Ordering::Acquire), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_thread_is_noted_also_when_it_panics() {
        for panics in [false, true] {
            let bell = Doorbell::new(Now(5000)).unwrap();
            let alive = Alive::new(&bell);
            assert_eq!(bell.state(Now(5000)), WorkerState::Running);
            let thread = std::thread::spawn(move || {
                let _alive = alive;
                assert!(!panics, "as a worker with a bug would");
            });
            assert_eq!(thread.join().is_err(), panics);
            assert_eq!(bell.state(Now(5000)), WorkerState::Dead);
        }
    }

    #[test]
    fn a_sleeper_is_woken_and_one_awake_is_not_disturbed() {
        let bell = Doorbell::new(Now(0)).unwrap();
        let rung = || rustix::io::read(bell.wake(), &mut [0; 8]).is_ok();
        bell.ring_if_asleep();
        assert!(!rung());
        bell.lies_down();
        bell.ring_if_asleep();
        assert!(rung());
        bell.gets_up();
        bell.ring_if_asleep();
        assert!(!rung());
        bell.beat(Now(3000));
        assert_eq!(
            (bell.state(Now(5000)), bell.state(Now(5001))),
            (WorkerState::Running, WorkerState::Stalled)
        );
    }
}
