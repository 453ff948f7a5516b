//! The numbers that the data path was to reach, against the samples just taken.
//!
//! A goal of which a side was not measured is left out: `--only` and a peer that failed leave nothing to judge.

use super::Kind;
use super::cases::{
    ALONE, ATTACH, CROWDED, FLOWS, IDLE, RULES, SMALL, Variant, WAYS, main_label, scale_label, variant_label,
    variants,
};
use super::load::{Flows, Way};
use super::series::Samples;
use crate::report::Report;

pub(super) fn judge(samples: &Samples, report: &mut Report) {
    let small = |way| main_label(way, SMALL);
    let against = |way: Way, peer: Kind| {
        let case = small(way);
        samples.ratio((&case, Kind::Espalier.label()), (&case, peer.label()))
    };
    let raw = |case: &str| samples.median((case, Kind::Raw.label()));
    // Of the forwarders that leave the pods' receiving where the device is, as everything else here does.
    let tried = variants(Kind::Raw).iter().filter(|variant| **variant != Variant::ThreadedPods);
    let best = tried.filter_map(|variant| raw(&variant_label(*variant))).fold(0.0, f64::max);
    if let (Some(own), true) = (raw(&small(Way::FromTrunk)), best > 0.0) {
        report.at_least("raw: times the best forwarder that was tried", 0.9, own / best);
    }
    for way in WAYS {
        if let Some(ratio) = against(way, Kind::Raw) {
            report.at_least(&format!("{}, 64 bytes: times raw", way.label()), 0.95, ratio);
        }
    }
    for (peer, name, want) in [
        (Kind::OvsDpdk, "Open vSwitch with conntrack", 1.4),
        (Kind::NftChain, "kernel, conntrack, 1k rules as a chain", 1.5),
        (Kind::NftSets, "kernel, conntrack, 1k rules as a set", 1.2),
    ] {
        for way in WAYS {
            if let Some(ratio) = against(way, peer) {
                report.at_least(&format!("{}, 64 bytes: times {name}", way.label()), want, ratio);
            }
        }
    }
    let ours = Kind::Espalier.label();
    let of = |over: &str, under: &str| samples.ratio((over, ours), (under, ours));
    if let Some(ratio) = of(&small(Way::PodToPod), &small(Way::Hairpin)) {
        report.at_least("pod to pod on the node: times over the VPC and back", 1.5, ratio);
    }
    if let Some(frames) = samples.median(("datapath/accounting", ours)) {
        report.at_most("frames neither received nor counted as dropped", 0.0, frames.abs());
    }
    for (case, what, most) in
        [(ATTACH, "attach of each of 250 pods, ms", 20.0), (IDLE, "250 idle pods: percent of a core", 2.0)]
    {
        if let Some(value) = samples.median((case, ours)) {
            report.at_most(what, most, value);
        }
    }
    if let Some(ratio) = of(CROWDED, ALONE) {
        report.at_least("a busy pod among 250: times the same alone", 0.95, ratio);
    }
    let main = small(Way::FromTrunk);
    if let Some(ratio) = of(&scale_label(10_000, FLOWS), &scale_label(10, FLOWS)) {
        report.at_least("10k rules: times 10 rules", 0.97, ratio);
    }
    if let Some(ratio) = of(&scale_label(RULES, Flows(100_000)), &scale_label(RULES, Flows(1))) {
        report.at_least("100k flows: times 1 flow", 0.85, ratio);
    }
    for (what, part, most) in [("p50", "latency-p50", 1.3), ("p99", "latency-p99", 2.0)] {
        let case = format!("{main}/{part}");
        if let Some(ratio) = samples.ratio((&case, ours), (&case, Kind::Raw.label())) {
            report.at_most(&format!("latency at half the rate without loss, {what}: times raw"), most, ratio);
        }
    }
}
