//! The request budget: at most so many requests in any 60 seconds, whatever happens.
//!
//! Pure: time comes in. EC2's buckets are shared by the whole account, so one node must not empty them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use espalier_api::agent::RequestUse;

const WINDOW: Duration = Duration::from_secs(60);

/// Requests of the last minute.
#[derive(Debug)]
pub(crate) struct Budget {
    per_minute: u32,
    made: VecDeque<Instant>,
    total: u64,
}

impl Budget {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.max(1), made: VecDeque::new(), total: 0 }
    }

    /// Counts a request, or says how long to wait before it may be made.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.forget(now);
        if self.made.len() < self.per_minute as usize {
            self.made.push_back(now);
            self.total += 1;
            return Ok(());
        }
        let oldest = self.made.front().copied().unwrap_or(now);
        Err((oldest + WINDOW).saturating_duration_since(now).max(Duration::from_millis(1)))
    }

    /// Requests since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn used(&mut self, now: Instant) -> RequestUse {
        self.forget(now);
        let last_minute = u32::try_from(self.made.len()).unwrap_or(u32::MAX);
        RequestUse { last_minute, budget: self.per_minute, total: self.total }
    }

    fn forget(&mut self, now: Instant) {
        while self.made.front().is_some_and(|made| now.saturating_duration_since(*made) >= WINDOW) {
            self.made.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_minute_sees_more_than_the_budget(gaps in prop::collection::vec(0_u64..3_000, 1..400), budget in 1_u32..50) {
            let start = Instant::now();
            let mut now = start;
            let mut spent = Budget::new(budget);
            let mut made: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                while let Err(wait) = spent.take(now) {
                    now += wait;
                }
                made.push(now);
                let recent = made.iter().filter(|at| now.duration_since(**at) < WINDOW).count();
                prop_assert!(recent <= budget as usize);
            }
            prop_assert_eq!(spent.used(now).total, made.len() as u64);
        }
    }
}
