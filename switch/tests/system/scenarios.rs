//! The shipped scenarios: every probe as expected, and nothing lost from the books.

use espalier_lab::Scenario;

use crate::site::Site;

fn all_as_expected(name: &str) {
    let site = Site::up(Scenario::load(name).unwrap());
    let report = site.run_probes().unwrap();
    assert!(report.is_success(), "\n{}", report.table(false));
    let status = site.assert_balanced();
    assert_eq!(status.problems, Vec::<String>::new());
    assert!(status.counters.dropped.keys().any(|reason| reason.starts_with("denied-")));
}

#[test]
fn rds() {
    all_as_expected("rds");
}

#[test]
fn stars() {
    all_as_expected("stars");
}

#[test]
fn rules_tour() {
    all_as_expected("rules-tour");
}

#[test]
fn dual_stack() {
    all_as_expected("dual-stack");
}
