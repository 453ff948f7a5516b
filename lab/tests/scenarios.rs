//! The shipped scenarios against the real switch: every probe as expected, every packet accounted for, nothing left.
//!
//! The switch is built here unless `ESPALIER_SWITCH` names one: a binary of another package does not come with a test.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use espalier_api::control::Status;
use espalier_lab::{Lab, Options, Report, Scenario};

const PATIENCE: Duration = Duration::from_secs(20);

/// The switch program, up to date.
fn switch() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("ESPALIER_SWITCH") {
            return path.into();
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--package", "espalier-switch", "--bins"]);
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        // This test lies in <target>/<profile>/deps.
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().join("espalier-switch")
    })
}

fn up(tag: &str, scenario: &str, mtu: Option<u32>) -> Lab {
    let name = format!("s{tag}{}", std::process::id()).parse().unwrap();
    let options = Options { name, mtu, switch: Some(switch().into()), ..Options::default() };
    Lab::up(&options, Scenario::load(scenario).unwrap()).unwrap()
}

/// The status once nothing is under way: every packet and every frame has its place.
#[track_caller]
fn settled(lab: &Lab) -> Status {
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

#[track_caller]
fn assert_as_expected(report: &Report) {
    assert!(report.is_success(), "\n{}", report.table(false));
    assert_eq!(report.passed, report.probes.len());
}

fn run(tag: &str, scenario: &str) {
    let lab = up(tag, scenario, None);
    settled(&lab);
    assert_as_expected(&lab.run_probes().unwrap());
    let status = settled(&lab);
    assert!(status.counters.dropped.contains_key("denied-egress"), "{:?}", status.counters);
    lab.remove().unwrap();
}

#[test]
fn rds() {
    run("a", "rds");
}

#[test]
fn stars() {
    run("b", "stars");
}

#[test]
fn rules_tour() {
    run("c", "rules-tour");
}

#[test]
fn dual_stack() {
    run("d", "dual-stack");
}
