//! The shipped scenarios against the real switch: every probe as expected, every packet accounted for, nothing left.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/with_switch.rs"]
mod with_switch;

use espalier_lab::Report;
use with_switch::{settled, up};

#[track_caller]
fn assert_as_expected(report: &Report) {
    assert!(report.is_success(), "\n{}", report.table(false));
    assert_eq!(report.passed, report.probes.len());
}

fn run(tag: &str, scenario: &str) {
    let lab = up(tag, scenario, None, &[]);
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
