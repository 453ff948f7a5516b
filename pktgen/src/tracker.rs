//! What became of one run's frames: arrived once, twice, out of order, or not at all, and how long they took.
//!
//! The receiver records every stamp here. A window of sequence numbers makes duplicates exact: a frame that comes
//! more than [`WINDOW`] frames after its turn is counted as `late` and as nothing else.

use hdrhistogram::Histogram;

use crate::stamp::Stamp;

/// Sequence numbers behind the highest one seen within which a duplicate is told from a first arrival.
pub const WINDOW: u64 = 1 << 21;

/// The longest latency recorded, in ns: what a stamp's time can tell.
const LONGEST: u64 = 1 << 40;

/// Significant digits of recorded latencies.
const DIGITS: u8 = 3;

/// The account of one run.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// One bit for each sequence number of the window, by its low bits.
    seen: Vec<u64>,
    /// One more than the highest sequence number that arrived.
    next: u64,
    /// By flow: one more than the highest sequence number of its own.
    flows: Vec<u64>,
    latency: Histogram<u64>,
    counts: Counts,
}

/// The numbers of a [`Tracker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames that arrived, every copy counted.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Different frames that arrived.
    pub unique: u64,
    /// Frames that had arrived before.
    pub duplicates: u64,
    /// Frames that arrived after a later one of their flow (RFC 4737, reordered singleton).
    pub reordered: u64,
    /// Frames too far behind to tell whether they are duplicates.
    pub late: u64,
    /// CLOCK_MONOTONIC of the first arrival in ns.
    pub first: u64,
    /// And of the last.
    pub last: u64,
}

impl Tracker {
    /// Nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self {
            seen: vec![0; (WINDOW / 64) as usize],
            next: 0,
            flows: Vec::new(),
            latency: Histogram::new_with_bounds(1, LONGEST, DIGITS)
                .expect("the bounds are 1 and more than 2, the digits at most 5"),
            counts: Counts::default(),
        }
    }

    /// Takes the arrival of a frame of `bytes` bytes at `now` into account. Allocates when a new flow comes.
    pub fn record(&mut self, stamp: &Stamp, bytes: usize, now: u64) {
        let counts = &mut self.counts;
        if counts.frames == 0 {
            counts.first = now;
        }
        counts.frames += 1;
        counts.bytes += bytes as u64;
        counts.last = now;
        let sequence = stamp.sequence;
        if self.next.saturating_sub(sequence) > WINDOW {
            self.counts.late += 1;
            return;
        }
        self.advance(sequence);
        let (word, bit) = place(sequence);
        if self.seen[word] & bit != 0 {
            self.counts.duplicates += 1;
            return;
        }
        self.seen[word] |= bit;
        self.counts.unique += 1;
        self.latency.saturating_record(stamp.age(now));
        let flow = stamp.flow as usize;
        if flow >= self.flows.len() {
            self.flows.resize(flow + 1, 0);
        }
        if sequence < self.flows[flow] {
            self.counts.reordered += 1;
        } else {
            self.flows[flow] = sequence + 1;
        }
    }

    /// The numbers so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Latencies in nanoseconds, of first arrivals.
    #[must_use]
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// One more than the highest sequence number that arrived: the fewest frames that were sent.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.next
    }

    /// Makes room in the window up to `sequence`.
    fn advance(&mut self, sequence: u64) {
        if sequence < self.next {
            return;
        }
        if sequence - self.next >= WINDOW {
            self.seen.fill(0);
        } else {
            for passed in self.next..=sequence {
                let (word, bit) = place(passed);
                self.seen[word] &= !bit;
            }
        }
        self.next = sequence + 1;
    }
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let at = sequence % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Run;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    fn record(tracker: &mut Tracker, flow: u32, sequence: u64) {
        let stamp = Stamp { run: Run(0), flow, sequence, time: 0 };
        tracker.record(&stamp, 60, 1000 + sequence);
    }

    #[test]
    fn reordering_is_within_a_flow_and_duplicates_are_no_reordering() {
        let mut tracker = Tracker::new();
        for (flow, sequence) in [(0, 0), (1, 3), (0, 2), (1, 1), (0, 2), (0, 4)] {
            record(&mut tracker, flow, sequence);
        }
        let counts = tracker.counts();
        assert_eq!((counts.frames, counts.unique, counts.duplicates, counts.reordered), (6, 5, 1, 1));
        assert_eq!((counts.late, counts.bytes, tracker.highest()), (0, 360, 5));
        assert_eq!((counts.first, counts.last, tracker.latency().len()), (1000, 1004, 5));
    }

    #[test]
    fn the_window_forgets_what_is_too_old() {
        let mut tracker = Tracker::new();
        record(&mut tracker, 0, 0);
        record(&mut tracker, 0, WINDOW - 1);
        record(&mut tracker, 0, 0);
        assert_eq!(tracker.counts().duplicates, 1);
        record(&mut tracker, 0, WINDOW);
        record(&mut tracker, 0, 0);
        assert_eq!((tracker.counts().duplicates, tracker.counts().late), (1, 1));
        // A jump over the whole window leaves no bit of before.
        record(&mut tracker, 0, 10 * WINDOW + 1);
        record(&mut tracker, 0, 10 * WINDOW);
        assert_eq!((tracker.counts().unique, tracker.counts().reordered), (5, 1));
    }

    proptest! {
        #[test]
        fn counts_agree_with_sets(frames in prop::collection::vec((0..4_u32, 0..300_u64), 0..400)) {
            let mut tracker = Tracker::new();
            let (mut seen, mut last) = (HashSet::new(), HashMap::new());
            let (mut duplicates, mut reordered) = (0, 0);
            for (flow, sequence) in frames {
                record(&mut tracker, flow, sequence);
                if !seen.insert(sequence) {
                    duplicates += 1;
                } else if last.get(&flow).is_some_and(|highest| sequence < *highest) {
                    reordered += 1;
                } else {
                    last.insert(flow, sequence);
                }
            }
            let counts = tracker.counts();
            prop_assert_eq!(counts.unique, seen.len() as u64);
            prop_assert_eq!((counts.duplicates, counts.reordered, counts.late), (duplicates, reordered, 0));
        }
    }
}
