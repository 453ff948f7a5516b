//! Waiting for what takes a moment. The lab and the tests that stand on it call this.

use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks until it holds, or for so long. Says whether it holds.
pub fn wait_for(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
}
