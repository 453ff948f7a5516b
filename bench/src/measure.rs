//! Timing of several subjects in turns, so that what disturbs the machine disturbs all of them, and the middle of it.

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

/// The middle and the quarters of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quartiles {
    /// Half of the samples are below.
    pub median: f64,
    /// A quarter is below.
    pub p25: f64,
    /// Three quarters are below.
    pub p75: f64,
    /// Number of samples.
    pub runs: usize,
}

impl Quartiles {
    /// Of some samples; zeros without any.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = ((samples.len().max(1) - 1) as f64 * share).round() as usize;
            samples.get(place).copied().unwrap_or(0.0)
        };
        Self { median: at(0.5), p25: at(0.25), p75: at(0.75), runs: samples.len() }
    }
}

/// Something measured: runs once and says what one unit of work took.
pub struct Subject<'a> {
    /// Name in the table.
    pub name: &'static str,
    /// One run.
    pub run: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Subject<'a> {
    /// A subject from its name and one run.
    pub fn new(name: &'static str, run: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Runs the subjects in turns, after one run each that does not count.
pub fn in_turns(subjects: &mut [Subject<'_>], rounds: usize) -> Result<Vec<Quartiles>> {
    let mut samples = vec![Vec::with_capacity(rounds); subjects.len()];
    for round in 0..=rounds {
        for (subject, samples) in subjects.iter_mut().zip(&mut samples) {
            let sample = (subject.run)()?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    Ok(samples.into_iter().map(Quartiles::of).collect())
}

/// Nanoseconds of this thread's CPU time that `work` took for each of `count` units. CPU time, because a lookup does
/// not wait for anything: what a busy machine gives to others meanwhile is not its cost. The peers count the same way.
pub fn nanoseconds_each(count: usize, work: impl FnOnce()) -> f64 {
    let start = cpu_nanoseconds();
    work();
    (cpu_nanoseconds() - start) as f64 / count as f64
}

/// CPU time of this thread so far.
pub(crate) fn cpu_nanoseconds() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_samples() {
        let quartiles = Quartiles::of(vec![5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((quartiles.p25, quartiles.median, quartiles.p75, quartiles.runs), (2.0, 3.0, 4.0, 5));
        assert_eq!(Quartiles::of(vec![]).runs, 0);
    }
}
