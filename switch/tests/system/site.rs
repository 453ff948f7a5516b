//! A lab with the switch under test, and what tests ask of it: wait for a condition, balance, reach, count.

use std::ffi::OsString;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use espalier_api::control::{Counters, Frames, Status};
use espalier_lab::{Lab, Options, Scenario};

/// The longest wait for anything, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) const SWITCH: &str = env!("CARGO_BIN_EXE_espalier-switch");

/// A lab whose switch runs; gone on drop.
pub(crate) struct Site {
    pub(crate) lab: Lab,
}

impl Deref for Site {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Site {
    /// A shipped scenario.
    pub(crate) fn shipped(name: &str) -> Self {
        Self::with(Scenario::load(name).unwrap(), None, &[])
    }

    /// A scenario with an MTU and flags for the switch.
    pub(crate) fn with(scenario: Scenario, mtu: Option<u32>, flags: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sy{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = Options {
            name: name.parse().unwrap(),
            mtu,
            switch: Some(SWITCH.into()),
            switch_flags: flags.iter().map(OsString::from).collect(),
            ..Options::default()
        };
        Self { lab: Lab::up(&options, scenario).unwrap_or_else(|error| panic!("{error}")) }
    }

    /// The switch's own account.
    pub(crate) fn status(&self) -> Status {
        self.control().status().unwrap()
    }

    /// Waits until nothing is under way, and checks that every packet ended in a counter and every frame has an owner.
    #[track_caller]
    pub(crate) fn assert_balanced(&self) -> Status {
        let mut last = self.status();
        let balanced = wait_for(|| {
            let status = self.status();
            let quiet = status.counters == last.counters && status.frames == last.frames;
            last = status;
            quiet && adds_up(&last.counters) && is_whole(&last.frames)
        });
        assert!(balanced, "not balanced: {:?} {:?}", last.counters, last.frames);
        last
    }
}

/// `rx == forwarded + Σ dropped + consumed`.
pub(crate) fn adds_up(counters: &Counters) -> bool {
    counters.rx == counters.accounted()
}

/// Whether the owners' frames are all frames.
pub(crate) fn is_whole(frames: &Frames) -> bool {
    let Frames { free, fill, rx, worker, tx, total } = *frames;
    free + fill + rx + worker + tx == total
}

/// Looks until it holds, or for as long as anybody would wait.
pub(crate) fn wait_for(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
