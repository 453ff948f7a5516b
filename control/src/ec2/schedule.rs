//! When to ask EC2 again: soon after a change, rarely while nothing happens, and never more than the budget allows.
//!
//! Pure: the outcome of a round and a random number in, a delay out.

use std::time::{Duration, Instant};

use super::Polling;

/// After so long without a change the interval grows from the base to the ceiling.
const IDLE_AFTER: Duration = Duration::from_secs(300);

/// Longest wait after throttling or failures.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a round of requests came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Something is different from before.
    pub(crate) changed: bool,
    /// Something wanted does not exist (yet), or was there and is missing from one answer.
    pub(crate) unsettled: bool,
    /// Some part could not be read.
    pub(crate) failed: bool,
    /// EC2 asked for patience.
    pub(crate) throttled: bool,
    /// Requests it took.
    pub(crate) requests: u64,
}

/// The present interval and what decided it.
#[derive(Debug)]
pub(crate) struct Schedule {
    polling: Polling,
    interval: Duration,
    changed: Instant,
    /// Rounds in a row with something unsettled, and with failures.
    unsettled: u32,
    failed: u32,
}

impl Schedule {
    pub(crate) fn new(polling: Polling, now: Instant) -> Self {
        Self { polling, interval: polling.floor, changed: now, unsettled: 0, failed: 0 }
    }

    /// Delay before the next round; `random` lies in 0..1 and spreads the nodes.
    pub(crate) fn after(&mut self, outcome: Outcome, now: Instant, random: f64) -> Duration {
        let Polling { base, floor, ceiling, budget } = self.polling;
        self.unsettled = if outcome.unsettled { self.unsettled + 1 } else { 0 };
        self.failed = if outcome.failed { self.failed.saturating_add(1) } else { 0 };
        if outcome.changed {
            self.changed = now;
        }
        let idle = now.saturating_duration_since(self.changed) >= IDLE_AFTER;
        let limit = if idle { ceiling.max(base) } else { base };
        self.interval = if outcome.throttled {
            (self.interval.max(base) * 2).min(PATIENCE.max(ceiling))
        } else if self.failed > 0 {
            (floor * 2_u32.saturating_pow((self.failed - 1).min(16))).min(ceiling.max(base))
        } else if outcome.changed || (1..=20).contains(&self.unsettled) {
            // What is missing is looked for often at first: EC2 is eventually consistent, mostly within seconds.
            floor
        } else {
            (self.interval * 3 / 2).min(limit)
        };
        // Half of the budget is kept for what pods need at once.
        let affordable = Duration::from_secs_f64(outcome.requests as f64 * 120.0 / f64::from(budget.max(1)));
        self.interval.max(floor).max(affordable).mul_f64(0.9 + 0.2 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLLING: Polling = Polling {
        base: Duration::from_secs(10),
        floor: Duration::from_secs(2),
        ceiling: Duration::from_secs(60),
        budget: 300,
    };
    const QUIET: Outcome =
        Outcome { changed: false, unsettled: false, failed: false, throttled: false, requests: 4 };

    /// Delay with no jitter, after `count` times the same outcome, each right after its delay.
    fn after(schedule: &mut Schedule, now: &mut Instant, outcome: Outcome, count: u32) -> u64 {
        let mut delay = Duration::ZERO;
        for _ in 0..count {
            delay = schedule.after(outcome, *now, 0.5);
            *now += delay;
        }
        delay.as_secs()
    }

    #[test]
    fn it_slows_down_while_nothing_happens_and_wakes_up_with_a_change() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(POLLING, now);
        assert_eq!(after(&mut schedule, &mut now, QUIET, 1), 3);
        assert_eq!(after(&mut schedule, &mut now, QUIET, 10), 10);
        assert_eq!(after(&mut schedule, &mut now, QUIET, 40), 60);
        assert_eq!(after(&mut schedule, &mut now, Outcome { changed: true, ..QUIET }, 1), 2);
        assert_eq!(after(&mut schedule, &mut now, QUIET, 10), 10);
    }

    #[test]
    fn throttling_doubles_and_failures_back_off_to_a_limit() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(POLLING, now);
        let throttled = Outcome { throttled: true, failed: true, ..QUIET };
        assert_eq!(after(&mut schedule, &mut now, throttled, 1), 20);
        assert_eq!(after(&mut schedule, &mut now, throttled, 9), 300);
        let mut schedule = Schedule::new(POLLING, now);
        let failed = Outcome { failed: true, ..QUIET };
        assert_eq!(after(&mut schedule, &mut now, failed, 2), 4);
        assert_eq!(after(&mut schedule, &mut now, failed, 90), 60);
        assert_eq!(after(&mut schedule, &mut now, Outcome { changed: true, ..QUIET }, 1), 2);
    }

    #[test]
    fn what_does_not_exist_is_looked_for_often_at_first_only() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(POLLING, now);
        let unsettled = Outcome { unsettled: true, ..QUIET };
        assert_eq!(after(&mut schedule, &mut now, unsettled, 20), 2);
        assert_eq!(after(&mut schedule, &mut now, unsettled, 20), 10);
    }

    #[test]
    fn an_expensive_round_stretches_the_interval_to_half_of_the_budget() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(POLLING, now);
        let dear = Outcome { changed: true, requests: 170, ..QUIET };
        assert_eq!(after(&mut schedule, &mut now, dear, 1), 68);
    }
}
