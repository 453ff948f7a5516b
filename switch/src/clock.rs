//! The clock of a worker: coarse monotonic time, read once a round.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::flow::Now;

/// The time since the machine started.
pub(crate) fn now() -> Now {
    let time = clock_gettime(ClockId::Monotonic);
    Now(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
}

/// The moment `pause` after `now`.
pub(crate) fn after(now: Now, pause: Duration) -> Now {
    Now(now.0.saturating_add(pause.as_millis() as u64))
}

/// How long from `now` to `then`; nothing if it is past.
pub(crate) fn until(now: Now, then: Now) -> Duration {
    Duration::from_millis(then.0.saturating_sub(now.0))
}
