//! An observer that copies the packets it wants into a bounded ring: a worker's end of a capture or a live trace.
//!
//! All memory is taken when the tap is made. A packet that finds no free sample is counted as lost; the worker never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};
use rustix::time::{ClockId, clock_gettime};

use super::{End, LegSeen, Observer, Seen};
use crate::packet::Packet;
use crate::reason::DropReason;
use crate::step::From;

/// Bytes that the samples of one tap may take.
const MEMORY: usize = 8 << 20;
/// What a sample takes beside the packet's bytes.
const OVERHEAD: usize = size_of::<Sample>() + 2 * size_of::<LegSeen>();

/// A copy of what was seen.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When, in nanoseconds of Unix time.
    pub unix_ns: u64,
    /// The generation of the tables in use.
    pub generation: u32,
    /// See [`Seen`].
    pub from: Option<From>,
    /// The beginning of [`Seen::bytes`].
    pub bytes: Vec<u8>,
    /// See [`Seen`].
    pub len: usize,
    /// See [`Seen`].
    pub parsed: Option<Packet>,
    /// See [`Seen`].
    pub legs: Vec<LegSeen>,
    /// See [`Seen`].
    pub end: End,
}

impl Sample {
    /// A copy of all of it.
    pub fn of(seen: &Seen<'_>) -> Self {
        let mut sample = Self::blank(seen.bytes.len());
        sample.fill(seen);
        sample
    }

    fn blank(snaplen: usize) -> Self {
        Self {
            unix_ns: 0,
            generation: 0,
            from: None,
            bytes: Vec::with_capacity(snaplen),
            len: 0,
            parsed: None,
            legs: Vec::with_capacity(2),
            end: End::Decided(crate::step::Outcome::Drop(DropReason::FrameTooShort)),
        }
    }

    /// Copies, without more memory than there is.
    fn fill(&mut self, seen: &Seen<'_>) {
        let time = clock_gettime(ClockId::Realtime);
        self.unix_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        self.generation = seen.generation;
        self.from = seen.from;
        self.bytes.clear();
        self.bytes.extend_from_slice(&seen.bytes[..seen.bytes.len().min(self.bytes.capacity())]);
        self.len = seen.len;
        self.parsed = seen.parsed.copied();
        self.legs.clear();
        self.legs.extend(seen.legs.iter().take(self.legs.capacity()));
        self.end = seen.end;
    }
}

/// Whether a tap wants a packet.
pub type Wanted = Box<dyn Fn(&Seen<'_>) -> bool + Send>;

/// The worker's end.
pub struct Tap {
    wanted: Wanted,
    free: Consumer<Sample>,
    full: Producer<Sample>,
    lost: Arc<AtomicU64>,
}

/// The reader's end.
pub struct Samples {
    free: Producer<Sample>,
    full: Consumer<Sample>,
    lost: Arc<AtomicU64>,
}

/// A tap that keeps up to `snaplen` bytes of each packet that is `wanted`.
pub fn tap(snaplen: usize, wanted: Wanted) -> (Tap, Samples) {
    let count = MEMORY / (snaplen + OVERHEAD);
    let (mut give_back, free) = RingBuffer::new(count);
    let (full, samples) = RingBuffer::new(count);
    for _ in 0..count {
        // The ring has just been made for that many.
        let _pushed = give_back.push(Sample::blank(snaplen));
    }
    let lost = Arc::new(AtomicU64::new(0));
    (Tap { wanted, free, full, lost: Arc::clone(&lost) }, Samples { free: give_back, full: samples, lost })
}

impl Observer for Tap {
    fn seen(&mut self, seen: &Seen<'_>) -> bool {
        if (self.wanted)(seen) {
            match self.free.pop() {
                Ok(mut sample) => {
                    sample.fill(seen);
                    // There are as many places as samples.
                    let _pushed = self.full.push(sample);
                }
                Err(_) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        !self.full.is_abandoned()
    }
}

impl Samples {
    /// Shows the next sample to `look`; nothing while there is none.
    pub fn next<T>(&mut self, look: impl FnOnce(&Sample) -> T) -> Option<T> {
        let sample = self.full.pop().ok()?;
        let looked = look(&sample);
        // There are as many places as samples.
        let _pushed = self.free.push(sample);
        Some(looked)
    }

    /// Whether there is no sample at present.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }

    /// Packets that found no free sample.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Now;
    use crate::step::Outcome;

    fn seen(bytes: &[u8]) -> Seen<'_> {
        let end = End::Decided(Outcome::Consumed);
        Seen { now: Now(0), generation: 7, from: None, bytes, len: bytes.len(), parsed: None, legs: &[], end }
    }

    #[test]
    fn a_full_tap_loses_and_counts_what_comes_and_goes_on_when_there_is_room() {
        let (mut tap, mut samples) = tap(MEMORY / 4, Box::new(|seen| seen.bytes[0] < 100));
        let room = samples.free.buffer().capacity();
        assert!(room >= 2, "{room}");
        for _ in 0..room + 5 {
            assert!(tap.seen(&seen(&[1, 2, 3])));
        }
        assert!(tap.seen(&seen(&[200])));
        assert_eq!(samples.lost(), 5);
        assert_eq!(
            samples.next(|sample| (sample.bytes.clone(), sample.generation)),
            Some((vec![1, 2, 3], 7))
        );
        assert!(tap.seen(&seen(&[4])));
        for _ in 0..room - 1 {
            samples.next(|_| ()).unwrap();
        }
        assert_eq!(samples.next(|sample| sample.bytes[0]), Some(4));
        assert_eq!((samples.next(|_| ()), samples.lost()), (None, 5));
    }

    #[test]
    fn a_tap_ends_when_nobody_reads() {
        let (mut tap, samples) = tap(64, Box::new(|_| true));
        let long = [5; 500];
        assert!(tap.seen(&seen(&long)));
        drop(samples);
        assert!(!tap.seen(&seen(&long)));
    }

    #[test]
    fn no_more_than_the_snap_length_is_kept() {
        let (mut tap, mut samples) = tap(64, Box::new(|_| true));
        tap.seen(&seen(&[5; 500]));
        assert_eq!(samples.next(|sample| (sample.bytes.len() >= 64, sample.len)), Some((true, 500)));
    }
}
