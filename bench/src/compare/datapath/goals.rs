//! The numbers that the data path was to reach, against the samples just taken.
//!
//! A goal of which a side was not measured is left out: `--only` and a peer that failed leave nothing to judge.

use super::Kind;
use super::cases::{
    ACCOUNTING, ALONE, ATTACH, CROWDED, FLOODED, FLOWS, IDLE, RULES, SMALL, Variant, WAYS, main_label,
    scale_label, variant_label, variants,
};
use super::load::{Flows, Way};
use super::series::Samples;
use crate::report::Report;

const OURS: &str = Kind::Espalier.label();

pub(super) fn judge(samples: &Samples, report: &mut Report) {
    against_peers(samples, report);
    against_itself(samples, report);
    flood(samples, report);
    latency(samples, report);
}

fn against_peers(samples: &Samples, report: &mut Report) {
    let raw = |case: &str| samples.median((case, Kind::Raw.label()));
    // Of the forwarders that leave the pods' receiving where the device is, as everything else here does.
    let tried = variants(Kind::Raw).iter().filter(|variant| **variant != Variant::ThreadedPods);
    let best = tried.filter_map(|variant| raw(&variant_label(*variant))).fold(0.0, f64::max);
    if let (Some(own), true) = (raw(&main_label(Way::FromTrunk, SMALL)), best > 0.0) {
        report.at_least("raw: times the best forwarder that was tried", 0.9, own / best);
    }
    for (peer, name, want) in [
        (Kind::Raw, "raw", 0.95),
        (Kind::OvsDpdk, "Open vSwitch with conntrack", 1.4),
        (Kind::NftChain, "kernel, conntrack, 1k rules as a chain", 1.5),
        (Kind::NftSets, "kernel, conntrack, 1k rules as a set", 1.2),
    ] {
        for way in WAYS {
            let case = main_label(way, SMALL);
            if let Some(ratio) = samples.ratio((&case, OURS), (&case, peer.label())) {
                report.at_least(&format!("{}, 64 bytes: times {name}", way.label()), want, ratio);
            }
        }
    }
}

fn against_itself(samples: &Samples, report: &mut Report) {
    let [direct, hairpin] = [Way::PodToPod, Way::Hairpin].map(|way| main_label(way, SMALL));
    let [many_rules, few_rules] = [10_000, 10].map(|rules| scale_label(rules, FLOWS));
    let [many_flows, one_flow] = [Flows(100_000), Flows(1)].map(|flows| scale_label(RULES, flows));
    for (what, want, over, under) in [
        ("pod to pod on the node: times over the VPC and back", 1.5, direct.as_str(), hairpin.as_str()),
        ("10k rules: times 10 rules", 0.97, &many_rules, &few_rules),
        ("100k flows: times 1 flow", 0.85, &many_flows, &one_flow),
        ("a busy pod among 250: times the same alone", 0.95, CROWDED, ALONE),
    ] {
        if let Some(ratio) = samples.ratio((over, OURS), (under, OURS)) {
            report.at_least(what, want, ratio);
        }
    }
    for (what, most, case) in [
        ("attach of each of 250 pods, ms", 20.0, ATTACH),
        ("250 idle pods: percent of a core", 2.0, IDLE),
        ("frames neither received nor counted as dropped", 0.0, ACCOUNTING),
    ] {
        if let Some(value) = samples.median((case, OURS)) {
            report.at_most(what, most, value.abs());
        }
    }
}

/// Of connection tracking, which the flood is meant for.
pub(super) fn flood(samples: &Samples, report: &mut Report) {
    if let Some(kept) = samples.median((FLOODED, OURS)) {
        report.at_least(
            "a flood of SYNs at one pod: percent of its goodput another pod's stream keeps",
            98.0,
            kept,
        );
    }
}

fn latency(samples: &Samples, report: &mut Report) {
    let main = main_label(Way::FromTrunk, SMALL);
    for (what, part, most) in [("p50", "latency-p50", 1.3), ("p99", "latency-p99", 2.0)] {
        let case = format!("{main}/{part}");
        if let Some(ratio) = samples.ratio((&case, OURS), (&case, Kind::Raw.label())) {
            report.at_most(&format!("latency at half the rate without loss, {what}: times raw"), most, ratio);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_on_both_sides_is_judged() {
        let mut samples = Samples::default();
        let case = main_label(Way::FromTrunk, SMALL);
        samples.add(0, &case, OURS, "pps", 100.0);
        let judged = |samples: &Samples| {
            let mut report = Report::new();
            judge(samples, &mut report);
            report.goals
        };
        assert!(judged(&samples).is_empty());
        samples.add(0, &case, Kind::Raw.label(), "pps", 104.0);
        samples.add(0, &case, Kind::OvsDpdk.label(), "pps", 80.0);
        samples.add(0, ACCOUNTING, OURS, "frames", -1.0);
        let met: Vec<_> = judged(&samples).iter().map(|goal| (goal.want, goal.met)).collect();
        assert_eq!(met, [(0.95, true), (1.4, false), (0.0, false)]);
    }
}
