//! Which subjects are measured with which rules on which cases.

use clap::ValueEnum as _;

use super::load::{Flows, Size, Way};
use super::rules::Rules;
use super::{Kind, Options};

/// Rules of the main comparison.
pub(super) const RULES: usize = 1000;
/// Flows of the main comparison.
pub(super) const FLOWS: Flows = Flows(1000);
/// Sizes of the main comparison.
const SIZES: [Size; 4] = [Size::Bytes(64), Size::Bytes(512), Size::Bytes(1500), Size::Imix];
/// Directions of the main comparison.
pub(super) const WAYS: [Way; 3] = [Way::FromTrunk, Way::ToTrunk, Way::PodToPod];
/// The case that everything is compared on.
pub(super) const SMALL: Size = Size::Bytes(64);

/// A subject with its rules, started once a round.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) kind: Kind,
    rules: usize,
    pub(super) cases: Vec<Case>,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) way: Way,
    pub(super) size: Size,
    pub(super) flows: Flows,
    /// Whether the rate without loss and latencies are measured, too.
    pub(super) latency: bool,
}

/// Everything of a round.
pub(super) fn setups(options: &Options) -> Vec<Setup> {
    let mut setups = Vec::new();
    for kind in Kind::value_variants() {
        if !options.only.is_empty() && !options.only.contains(kind) {
            continue;
        }
        let kind = *kind;
        setups.push(Setup { kind, rules: RULES, cases: main_cases(kind, options.quick) });
        if kind == Kind::Espalier && !options.quick {
            for rules in [10, 10_000] {
                setups.push(Setup { kind, rules, cases: flow_cases([Flows(1), FLOWS, Flows(100_000)]) });
            }
        }
    }
    setups
}

/// The name of a case of the main comparison.
pub(super) fn main_label(way: Way, size: Size) -> String {
    format!("datapath/{}/{}", way.label(), size.label())
}

/// The name of a case with other rules or flows.
pub(super) fn scale_label(rules: usize, flows: Flows) -> String {
    format!("{}/{}-rules/{}-flows", main_label(Way::FromTrunk, SMALL), short(rules), short(flows.0 as usize))
}

impl Setup {
    /// For people.
    pub(super) fn title(&self) -> String {
        match self.kind {
            Kind::Raw => self.kind.label().to_owned(),
            kind => format!("{}, {} rules", kind.label(), self.rules),
        }
    }

    /// Its rules.
    pub(super) fn rules(&self) -> Rules {
        Rules::new(self.rules)
    }
}

impl Case {
    /// Name of the case in rows.
    pub(super) fn label(&self, setup: &Setup) -> String {
        if setup.rules == RULES && self.flows == FLOWS {
            main_label(self.way, self.size)
        } else {
            scale_label(setup.rules, self.flows)
        }
    }
}

fn main_cases(kind: Kind, quick: bool) -> Vec<Case> {
    let sizes: &[Size] = if quick { &[SMALL] } else { &SIZES };
    let mut cases = Vec::new();
    for way in WAYS {
        for size in sizes.iter().copied() {
            let latency = way == Way::FromTrunk && size == SMALL && !quick;
            cases.push(Case { way, size, flows: FLOWS, latency });
        }
    }
    if kind == Kind::Espalier {
        cases.push(Case { way: Way::Hairpin, size: SMALL, flows: FLOWS, latency: false });
        if !quick {
            cases.extend(flow_cases([Flows(1), Flows(100_000)]));
        }
    }
    cases
}

fn flow_cases(flows: impl IntoIterator<Item = Flows>) -> Vec<Case> {
    let case = |flows| Case { way: Way::FromTrunk, size: SMALL, flows, latency: false };
    flows.into_iter().map(case).collect()
}

/// `10`, `1k`, `100k`.
fn short(number: usize) -> String {
    if number >= 1000 { format!("{}k", number / 1000) } else { number.to_string() }
}
