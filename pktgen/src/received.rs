//! Everything that came in, by run, and the thread that takes it in.
//!
//! One receiving thread records, others read in between (progress, the search, the report): the lock is taken once a
//! batch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::PktgenError;
use crate::layout::Layout;
use crate::stamp::{Reading, Run};
use crate::station::Station;
use crate::tracker::Tracker;

/// How long an idle receiver sleeps before it looks at its stop flag.
const PATIENCE: Duration = Duration::from_millis(20);

/// The account of all runs.
#[derive(Debug)]
pub struct Received {
    runs: Vec<Option<Box<Tracker>>>,
    others: Others,
}

/// Frames that belong to no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Others {
    /// Frames without a stamp.
    pub foreign: u64,
    /// Their bytes.
    pub foreign_bytes: u64,
    /// Frames whose stamp was damaged.
    pub corrupt: u64,
    /// Frames with a wrong IPv4 header checksum, stamped or not: any receiver would drop them.
    pub bad_header: u64,
}

/// A [`Received`] between threads.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Received>);

impl Received {
    /// Takes one frame into account: its first bytes, its whole length and when it was taken in.
    pub fn record(&mut self, head: &[u8], length: usize, now: u64) {
        let layout = Layout::of(head);
        if layout.is_some_and(|layout| !layout.header_intact) {
            self.others.bad_header += 1;
            return;
        }
        match layout.map_or(Reading::Foreign, |layout| Reading::of(&head[layout.payload..])) {
            Reading::Stamp(stamp) => {
                let run = &mut self.runs[usize::from(stamp.run.0)];
                run.get_or_insert_with(Box::default).record(&stamp, length, now);
            }
            Reading::Corrupt => self.others.corrupt += 1,
            Reading::Foreign => {
                self.others.foreign += 1;
                self.others.foreign_bytes += length as u64;
            }
        }
    }

    /// The account of one run, if anything of it came.
    #[must_use]
    pub fn run(&self, run: Run) -> Option<&Tracker> {
        self.runs[usize::from(run.0)].as_deref()
    }

    /// The runs of which something came.
    pub fn runs(&self) -> impl Iterator<Item = (Run, &Tracker)> {
        (0..=u8::MAX).map(Run).zip(&self.runs).filter_map(|(run, tracker)| Some((run, tracker.as_deref()?)))
    }

    /// Forgets a run, so that its number can be used again.
    pub fn forget(&mut self, run: Run) {
        self.runs[usize::from(run.0)] = None;
    }

    /// Frames of no run.
    #[must_use]
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// Frames that came, of whatever kind.
    #[must_use]
    pub fn total(&self) -> u64 {
        let stamped: u64 = self.runs().map(|(_, tracker)| tracker.counts().frames).sum();
        stamped + self.others.foreign + self.others.corrupt + self.others.bad_header
    }
}

impl Default for Received {
    fn default() -> Self {
        Self { runs: vec![None; 256], others: Others::default() }
    }
}

impl Shared {
    /// Looks at the account.
    pub fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is there. Returns how many frames that was.
    pub fn take(&self, station: &mut Station) -> usize {
        let mut received = self.lock();
        station.receive(|head, length, now| received.record(head, length, now))
    }

    /// Takes frames in until `stop` is set. An idle receiver sleeps, or spins if `spin`.
    pub fn run(&self, station: &mut Station, stop: &AtomicBool, spin: bool) -> Result<(), PktgenError> {
        while !stop.load(Ordering::Relaxed) {
            if self.take(station) == 0 {
                if spin {
                    std::hint::spin_loop();
                } else {
                    station.wait(PATIENCE)?;
                }
            }
        }
        while self.take(station) > 0 {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Protocol;
    use crate::frame::tests::headers;
    use crate::stamp::{STAMP_LEN, Stamp};

    #[test]
    fn frames_are_sorted_by_run_and_kind() {
        let headers = headers(Protocol::Udp, false, Some(7));
        let at = usize::from(headers.bytes());
        let mut frame = headers.build(100).unwrap();
        let mut received = Received::default();
        received.record(&frame, 100, 50);
        for (run, sequence) in [(1, 0), (1, 1), (2, 0)] {
            let stamp = Stamp { run: Run(run), flow: 0, sequence, time: 10 };
            frame[at..at + STAMP_LEN].copy_from_slice(&stamp.to_bytes());
            received.record(&frame, 100, 50);
        }
        frame[at + 12] ^= 1;
        received.record(&frame, 100, 50);
        frame[18 + 8] ^= 1;
        received.record(&frame, 100, 50);
        let runs: Vec<_> = received.runs().map(|(run, tracker)| (run.0, tracker.counts().unique)).collect();
        assert_eq!(runs, [(1, 2), (2, 1)]);
        let others = Others { foreign: 1, foreign_bytes: 100, corrupt: 1, bad_header: 1 };
        assert_eq!((*received.others(), received.total()), (others, 6));
        received.forget(Run(1));
        assert!(received.run(Run(1)).is_none());
    }
}
