//! Notices workers that stall or die.
//!
//! Each worker shows once a loop that it lives, and its loop takes a quarter of a second at most. One that has not for
//! two seconds is reported, until it does again; one whose thread has ended ends the process: pods without a worker are
//! better dropped by the pinned steering, and started anew, than half served.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use espalier_api::control::WorkerState;

use crate::clock;
use crate::flow::Now;
use crate::worker::Doorbell;

/// The workers as the watchdog sees them: there from the moment they start, without asking anybody who may be waiting.
pub type Vitals = Arc<OnceLock<Vec<Arc<Doorbell>>>>;

/// Looks at the workers until one has died.
pub async fn watch(vitals: Vitals) -> WorkerDied {
    let mut watchdog = Watchdog::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = clock::now();
        let states = vitals.get().into_iter().flatten().map(|bell| bell.state(now));
        if let Err(died) = watchdog.look(states) {
            return died;
        }
    }
}

/// A worker that has shown no life for so long is stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(2);
/// Pause between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Exit code of a process whose worker has died (EX_SOFTWARE of sysexits.h).
pub const EXIT_DEAD: u8 = 70;

/// A worker's thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("worker {0} has died: branch traffic is dropped until espalier-switch runs again; its log says why")]
pub struct WorkerDied(pub usize);

/// The state of a worker that last showed life at `beat`, and whose thread has or has not ended.
pub fn state(beat: Now, ended: bool, now: Now) -> WorkerState {
    if ended {
        WorkerState::Dead
    } else if now.0.saturating_sub(beat.0) > STALLED_AFTER.as_millis() as u64 {
        WorkerState::Stalled
    } else {
        WorkerState::Running
    }
}

/// What is wrong with a worker in this state, in words.
pub fn problem(worker: usize, state: WorkerState) -> Option<String> {
    match state {
        WorkerState::Running => None,
        WorkerState::Stalled => Some(format!(
            "worker {worker}: no sign of life for more than {} s: is its core taken by something of higher priority?",
            STALLED_AFTER.as_secs()
        )),
        WorkerState::Dead => Some(WorkerDied(worker).to_string()),
    }
}

/// What was seen at the last look, so that each change is told once.
#[derive(Debug, Default)]
pub struct Watchdog {
    seen: Vec<WorkerState>,
}

impl Watchdog {
    /// Looks at all workers' states; tells of changes in the log.
    ///
    /// # Errors
    /// The first worker that has died.
    pub fn look(&mut self, states: impl IntoIterator<Item = WorkerState>) -> Result<(), WorkerDied> {
        for (worker, state) in states.into_iter().enumerate() {
            if worker == self.seen.len() {
                self.seen.push(WorkerState::Running);
            }
            let before = std::mem::replace(&mut self.seen[worker], state);
            match (before, state) {
                (_, WorkerState::Dead) => return Err(WorkerDied(worker)),
                (WorkerState::Running, WorkerState::Stalled) => {
                    tracing::warn!(
                        worker,
                        "the worker is stalled: it has shown no life for more than two seconds"
                    );
                }
                (WorkerState::Stalled, WorkerState::Running) => {
                    tracing::warn!(worker, "the worker lives again")
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    #[test]
    fn two_seconds_without_a_beat_are_a_stall_and_an_end_is_an_end() {
        let beat = Now(10_000);
        assert_eq!(state(beat, false, Now(12_000)), WorkerState::Running);
        assert_eq!(state(beat, false, Now(12_001)), WorkerState::Stalled);
        assert_eq!(state(beat, false, Now(9_999)), WorkerState::Running, "a beat after the look began");
        assert_eq!(state(beat, true, Now(10_000)), WorkerState::Dead);
    }

    /// A thread that beats as a worker does, until it is told to stop beating or to panic.
    #[test]
    fn a_thread_that_stops_beating_is_seen_to_stall_to_live_again_and_to_die() {
        let (beat, stuck) = (Arc::new(AtomicU64::new(clock::now().0)), Arc::new(AtomicBool::new(false)));
        let dies = Arc::new(AtomicBool::new(false));
        let thread = {
            let (beat, stuck, dies) = (Arc::clone(&beat), Arc::clone(&stuck), Arc::clone(&dies));
            std::thread::spawn(move || {
                while !dies.load(Ordering::Relaxed) {
                    if !stuck.load(Ordering::Relaxed) {
                        beat.store(clock::now().0, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        };
        let mut dog = Watchdog::default();
        let mut until = |wanted: WorkerState| {
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            loop {
                let state = state(Now(beat.load(Ordering::Relaxed)), thread.is_finished(), clock::now());
                let looked = dog.look([WorkerState::Running, state]);
                if state == wanted || std::time::Instant::now() > deadline {
                    return (state, looked);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        assert_eq!(until(WorkerState::Running), (WorkerState::Running, Ok(())));
        stuck.store(true, Ordering::Relaxed);
        assert_eq!(until(WorkerState::Stalled), (WorkerState::Stalled, Ok(())));
        stuck.store(false, Ordering::Relaxed);
        assert_eq!(until(WorkerState::Running), (WorkerState::Running, Ok(())));
        dies.store(true, Ordering::Relaxed);
        assert_eq!(until(WorkerState::Dead), (WorkerState::Dead, Err(WorkerDied(1))));
        assert!(problem(1, WorkerState::Dead).unwrap().starts_with("worker 1 has died"));
        thread.join().unwrap();
    }
}
