//! The numbers that the flow table and the step were to reach, against the rows just measured.

use anyhow::{Context, Result};

use super::{ALLOCATIONS, DIFFERENCE, FRESH, KERNEL, LOOKUP, MEMORY, STEP};
use crate::report::Report;

pub(super) fn judge(report: &mut Report) -> Result<()> {
    let get = |case: &str, subject: &str| {
        report.median(case, subject).with_context(|| format!("{case} was not measured for {subject}"))
    };
    let [lookup_10k, lookup_1m] = LOOKUP.map(|(case, _)| get(case, "espalier v4"));
    let mut steps = [0.0; 2];
    let mut v6_times = 0.0_f64;
    for ((case, _), step) in STEP.into_iter().zip(&mut steps) {
        let (tcp4, udp4) = (get(case, "espalier tcp4")?, get(case, "espalier udp4")?);
        *step = tcp4.max(udp4);
        v6_times = v6_times.max(get(case, "espalier tcp6")? / tcp4).max(get(case, "espalier udp6")? / udp4);
    }
    let [new_10k, new_1m] = FRESH.map(|(case, _)| get(case, "espalier"));
    let kernel = get(KERNEL, DIFFERENCE)?;
    let memory = get(MEMORY, "espalier")?;
    let allocations = get(ALLOCATIONS, "espalier")?;
    let (lookup_10k, lookup_1m, new_10k, new_1m) = (lookup_10k?, lookup_1m?, new_10k?, new_1m?);
    let [step_10k, step_1m] = steps;

    report.at_most("lookup and state update, batched, 10k flows, ns", 10.0, lookup_10k);
    report.at_most("lookup and state update, batched, 1M flows, ns", 30.0, lookup_1m);
    report.at_most("step, established 64-byte TCP and UDP, 10k flows, ns (the slower)", 40.0, step_10k);
    report.at_most("step, established 64-byte TCP and UDP, 1M flows, ns (the slower)", 65.0, step_1m);
    report.at_most("step, IPv6: times IPv4 (the worst of TCP and UDP, 10k and 1M)", 1.3, v6_times);
    report.at_most("new flow with verdict and insert, 1k rules, beside 10k flows, ns", 200.0, new_10k);
    report.at_most("new flow with verdict and insert, 1k rules, beside 1M flows, ns", 200.0, new_1m);
    let ratio = kernel / step_10k;
    report.at_least("step: times cheaper than the kernel's conntrack and nftables alone", 5.0, ratio);
    report.at_most("memory per IPv4 flow at 1M flows, bytes", 96.0, memory);
    report.at_most("allocations per packet", 0.0, allocations);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Quartiles;

    /// A report whose rows all say `value`.
    fn measured(value: f64) -> Report {
        let mut report = Report::new();
        let steps = ["espalier tcp4", "espalier udp4", "espalier tcp6", "espalier udp6"];
        let cases = STEP.iter().flat_map(|(case, _)| steps.map(|subject| (*case, subject)));
        let cases = cases.chain(LOOKUP.iter().map(|(case, _)| (*case, "espalier v4")));
        let cases = cases.chain(FRESH.iter().map(|(case, _)| (*case, "espalier")));
        let single = [(KERNEL, DIFFERENCE), (MEMORY, "espalier"), (ALLOCATIONS, "espalier")];
        for (case, subject) in cases.chain(single) {
            report.row(case, subject, "ns", Quartiles::of(vec![value]));
        }
        report
    }

    #[test]
    fn the_json_names_every_goal_and_says_whether_it_was_met() {
        let mut report = measured(35.0);
        judge(&mut report).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        for field in ["machine", "rows", "goals"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        let goals = json["goals"].as_array().unwrap();
        let met: Vec<bool> = goals.iter().map(|goal| goal["met"].as_bool().unwrap()).collect();
        assert_eq!(met, [false, false, true, true, true, true, true, false, true, false]);
        for (goal, want) in goals.iter().zip([10.0, 30.0, 40.0, 65.0, 1.3, 200.0, 200.0, 5.0, 96.0, 0.0]) {
            assert_eq!(goal["want"].as_f64(), Some(want), "{goal}");
            assert!(goal["goal"].is_string() && goal["got"].is_number(), "{goal}");
        }
    }

    #[test]
    fn what_was_not_measured_is_an_error_that_names_it() {
        let mut report = measured(1.0);
        report.rows.retain(|row| row.case != KERNEL);
        let error = judge(&mut report).unwrap_err().to_string();
        assert_eq!(error, "flows/kernel/10k was not measured for conntrack and nftables alone");
    }
}
