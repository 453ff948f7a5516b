//! Whether the load's core and the device's are two: a hypervisor may run both as threads of one for a while, and what is
//! measured meanwhile is how they get along.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use espalier_pktgen::endpoint::pin;

use super::site::{LOAD_CORE, SUBJECT_CORE};
use super::tell;
use crate::measure::cpu_nanoseconds;

/// Processor time of one look.
const LOOK: i64 = 10_000_000;
/// Looks for the rate of a core alone; the best counts.
const LOOKS: usize = 8;
/// Part of that rate below which the cores are not two. Threads of one core reach some 0.65 of it.
const SHARED: f64 = 0.85;
/// Attempts to measure while they are.
const ATTEMPTS: usize = 8;
/// Time given to the hypervisor to think again.
const PAUSE: Duration = Duration::from_millis(250);

/// The two cores.
#[derive(Debug)]
pub(super) struct Cores {
    /// What one calculates in a nanosecond while the other rests; 0 if they are never two, and need not be.
    alone: f64,
}

impl Cores {
    /// Finds out how fast one is, and whether they are ever two.
    pub(super) fn new() -> Result<Self> {
        let alone = (0..LOOKS).try_fold(0.0, |best: f64, _| rate(false).map(|rate| best.max(rate)))?;
        let cores = Self { alone };
        for _ in 0..ATTEMPTS {
            if cores.are_two()? {
                return Ok(cores);
            }
            thread::sleep(PAUSE);
        }
        tell("both cores are threads of one, and that is what is measured");
        Ok(Self { alone: 0.0 })
    }

    /// Measures while they are two.
    pub(super) fn apart<T>(&self, measure: impl FnMut() -> Result<T>) -> Result<T> {
        between(|| self.are_two(), measure)
    }

    fn are_two(&self) -> Result<bool> {
        Ok(rate(true)? > SHARED * self.alone)
    }
}

/// Measures when a look before it and one after are good; again if they were not. The last attempt counts in any case.
fn between<T>(mut look: impl FnMut() -> Result<bool>, mut measure: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..ATTEMPTS {
        if look()? {
            let measured = measure()?;
            if look()? {
                return Ok(measured);
            }
        }
        tell("  both cores are one's threads: once more");
        thread::sleep(PAUSE);
    }
    tell("  both cores are one's threads, and that is what is measured");
    measure()
}

/// What the load's core calculates in a nanosecond, while the other does so too or not.
fn rate(both: bool) -> Result<f64> {
    let (done, begin) = (AtomicBool::new(!both), Barrier::new(2));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let pinned = pin(Some(SUBJECT_CORE));
            begin.wait();
            while !done.load(Ordering::Relaxed) {
                calculate();
            }
            pinned
        });
        let load = scope.spawn(|| {
            let pinned = pin(Some(LOAD_CORE));
            begin.wait();
            let start = cpu_nanoseconds();
            let mut turns = 0;
            while cpu_nanoseconds() - start < LOOK {
                calculate();
                turns += 1;
            }
            done.store(true, Ordering::Relaxed);
            pinned.map(|()| f64::from(turns) / (cpu_nanoseconds() - start) as f64)
        });
        let (rate, pinned) =
            load.join().ok().zip(other.join().ok()).context("the look at the cores panicked")?;
        pinned.and(rate).context("cannot look at the cores")
    })
}

/// A few microseconds of work for the units that threads of one core share.
fn calculate() {
    let mut lanes: [u64; 6] = black_box([1, 2, 3, 4, 5, 6]);
    for _ in 0..1000 {
        for (lane, factor) in lanes.iter_mut().zip([3, 5, 7, 9, 11, 13]) {
            *lane = lane.wrapping_mul(factor) ^ (*lane >> 7);
        }
    }
    black_box(lanes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts of the measurements 1, 2, 3…, with these looks and then bad ones.
    fn counted(looks: &[bool]) -> usize {
        let (mut looks, mut measured) = (looks.iter(), 0);
        between(
            || Ok(looks.next().copied().unwrap_or(false)),
            || {
                measured += 1;
                Ok(measured)
            },
        )
        .unwrap()
    }

    #[test]
    fn a_measurement_counts_between_two_good_looks() {
        assert_eq!(counted(&[true, true]), 1);
        assert_eq!(counted(&[false, true, false, true, true]), 2);
        assert_eq!(counted(&[true, false, true, false]), 3, "the last attempt");
    }
}
