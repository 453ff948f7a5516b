//! Labs with the real switch, for the tests beside this folder.

use std::time::{Duration, Instant};

use espalier_api::control::Status;
use espalier_lab::{Lab, Options, Scenario};

#[path = "built.rs"]
mod built;

pub(crate) use built::switch;

/// Longest wait for anything, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A lab of its own that is up, with further flags for its switch.
pub(crate) fn up(tag: &str, scenario: &str, mtu: Option<u32>, flags: &[&str]) -> Lab {
    let switch_flags = flags.iter().map(Into::into).collect();
    up_with(tag, Scenario::load(scenario).unwrap(), Options { mtu, switch_flags, ..Options::default() })
}

/// A lab of its own that is up; name and switch program are put into the options.
pub(crate) fn up_with(tag: &str, scenario: Scenario, options: Options) -> Lab {
    let name = format!("s{tag}{}", std::process::id()).parse().unwrap();
    Lab::up(&Options { name, switch: Some(switch().into()), ..options }, scenario).unwrap()
}

/// The status once nothing is under way: every packet and every frame has its place.
#[track_caller]
pub(crate) fn settled(lab: &Lab) -> Status {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = lab.control().status().unwrap();
        let frames = status.frames;
        let owned = frames.free + frames.fill + frames.rx + frames.worker + frames.tx;
        if status.counters.rx == status.counters.accounted() && owned == frames.total {
            return status;
        }
        assert!(Instant::now() < deadline, "does not balance: {:?} {frames:?}", status.counters);
        std::thread::sleep(Duration::from_millis(50));
    }
}
