//! Which subjects are measured with which rules on which cases.

use clap::ValueEnum as _;

use super::load::{Flows, Size, Way};
use super::raw::Tuning;
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

/// Frames that nobody can tell the end of.
pub(super) const ACCOUNTING: &str = "datapath/accounting";
/// Attaching 250 pods.
pub(super) const ATTACH: &str = "datapath/250-pods/attach";
/// 250 idle pods.
pub(super) const IDLE: &str = "datapath/250-pods/idle-cpu";
/// SYNs to one pod, more than the worker can take.
pub(super) const FLOOD: &str = "datapath/syn-flood/sent";
/// A slow stream to another pod meanwhile.
pub(super) const FLOODED: &str = "datapath/syn-flood/goodput-kept";
/// One busy pod of two.
pub(super) const ALONE: &str = "datapath/trunk-to-pod/64/of-2-pods";
/// One busy pod of 250.
pub(super) const CROWDED: &str = "datapath/trunk-to-pod/64/of-250-pods";

/// What is tried beside what everything else is measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// Nothing.
    Plain,
    /// The raw forwarder takes other batches.
    Batch(usize),
    /// The raw forwarder has other rings.
    Ring(u32),
    /// The pods receive on threads that are not on the device's core.
    ThreadedPods,
}

/// A subject with its rules, started once a round.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) kind: Kind,
    rules: usize,
    pub(super) variant: Variant,
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

/// A subject of the main comparison.
pub(super) fn main_setup(kind: Kind) -> Setup {
    Setup { kind, rules: RULES, variant: Variant::Plain, cases: main_cases(kind, false) }
}

/// Everything of a round.
pub(super) fn setups(options: &Options) -> Vec<Setup> {
    let mut setups = Vec::new();
    for kind in Kind::value_variants() {
        if !options.only.is_empty() && !options.only.contains(kind) {
            continue;
        }
        let kind = *kind;
        let variant = Variant::Plain;
        setups.push(Setup { kind, rules: RULES, variant, cases: main_cases(kind, options.quick) });
        if options.quick {
            continue;
        }
        if kind == Kind::Espalier {
            for rules in [10, 10_000] {
                let cases = flow_cases([Flows(1), FLOWS, Flows(100_000)]);
                setups.push(Setup { kind, rules, variant, cases });
            }
        }
        for variant in variants(kind) {
            setups.push(Setup { kind, rules: RULES, variant: *variant, cases: flow_cases([FLOWS]) });
        }
    }
    setups
}

/// What is tried on a subject.
pub(super) fn variants(kind: Kind) -> &'static [Variant] {
    use Variant::{Batch, Ring, ThreadedPods};
    match kind {
        Kind::Raw => &[Batch(16), Batch(32), Batch(64), Ring(512), Ring(8192), ThreadedPods],
        Kind::Espalier => &[ThreadedPods],
        Kind::OvsDpdk | Kind::NftSets | Kind::NftChain | Kind::XdpShortCut => &[],
    }
}

/// The name of a variant's case.
pub(super) fn variant_label(variant: Variant) -> String {
    let case = main_label(Way::FromTrunk, SMALL);
    match variant {
        Variant::Plain => case,
        Variant::Batch(packets) => format!("{case}/batch-{packets}"),
        Variant::Ring(entries) => format!("{case}/ring-{entries}"),
        Variant::ThreadedPods => format!("{case}/threaded-pods"),
    }
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
        let variant = match self.variant {
            Variant::Plain => String::new(),
            variant => format!(", {variant:?}"),
        };
        match self.kind {
            Kind::Raw | Kind::XdpShortCut => format!("{}{variant}", self.kind.label()),
            kind => format!("{}, {} rules{variant}", kind.label(), self.rules),
        }
    }

    /// How the raw forwarder runs.
    pub(super) fn tuning(&self) -> Tuning {
        match self.variant {
            Variant::Batch(batch) => Tuning { batch, ..Tuning::BEST },
            Variant::Ring(ring) => Tuning { ring, ..Tuning::BEST },
            Variant::Plain | Variant::ThreadedPods => Tuning::BEST,
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
        if setup.variant != Variant::Plain {
            variant_label(setup.variant)
        } else if setup.rules == RULES && self.flows == FLOWS {
            main_label(self.way, self.size)
        } else {
            scale_label(setup.rules, self.flows)
        }
    }
}

fn main_cases(kind: Kind, quick: bool) -> Vec<Case> {
    let sizes: &[Size] = if quick { &[SMALL] } else { &SIZES };
    let mut cases = Vec::new();
    let ways = if kind == Kind::XdpShortCut { &WAYS[..1] } else { &WAYS };
    for way in ways.iter().copied() {
        for size in sizes.iter().copied() {
            let latency = way == Way::FromTrunk && size == SMALL && !quick && kind != Kind::XdpShortCut;
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
