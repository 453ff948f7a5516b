//! `compare datapath`: frames from the trunk to pods, back, and between pods, through each way of doing it.
//!
//! Called by main.rs. The generator and the sinks are on one core, the device under test on another, the topology and
//! the frames the same for all; rounds go through the subjects in turns. A subject that cannot be started or measured
//! is reported with its error. Everything made is gone at the end, on an error and after Ctrl-C too.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use espalier_pktgen::engine::Watch;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::program::SWITCH;
use crate::report::{Failure, Report};

mod cases;
mod cores;
pub(super) mod cpu;
mod espalier;
mod fastpath;
mod flood;
mod goals;
mod huge_pages;
mod kernel;
mod kernel_threads;
mod load;
mod napi;
mod ovs;
mod raw;
mod rules;
mod scale;
mod series;
mod sink;
mod site;
mod trial;

use cases::{Case, Setup, Variant};
use cores::Cores;
use kernel::Form;
use kernel_threads::KernelThreads;
use series::Samples;
use sink::Programs;
use site::Site;
use trial::{Bed, Offer, Pace, Tools};

/// What to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Runs of each case of each subject.
    pub rounds: usize,
    /// A few cases for a moment each.
    pub quick: bool,
    /// These subjects; all of them if empty.
    pub only: Vec<Kind>,
}

/// A way of forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A forwarder on AF_XDP that looks at nothing.
    Raw,
    /// The switch.
    Espalier,
    /// Open vSwitch's userspace datapath.
    OvsDpdk,
    /// The kernel with conntrack and the rules as an nftables set.
    NftSets,
    /// The same as a linear chain of rules.
    NftChain,
    /// A prototype: flows that are known take a short cut in XDP.
    XdpShortCut,
}

impl Kind {
    /// Name in the table.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Espalier => "espalier",
            Self::OvsDpdk => "ovs-dpdk",
            Self::NftSets => "nft-sets",
            Self::NftChain => "nft-chain",
            Self::XdpShortCut => "xdp-short-cut",
        }
    }

    /// Whether the trunk's frames are tagged for it.
    fn takes_tags(self) -> bool {
        !matches!(self, Self::NftSets | Self::NftChain)
    }
}

/// The title of the flood's rounds.
const FLOOD: &str = "espalier, a flood of SYNs";

/// A device under test that runs; ends when dropped.
enum Device {
    Raw {
        _forwarder: raw::Forwarder,
    },
    Espalier {
        switch: Box<espalier::Switch>,
    },
    OvsDpdk {
        _ovs: ovs::OpenVSwitch,
    },
    /// The namespace is the device.
    Kernel,
    ShortCut {
        _program: fastpath::ShortCut,
    },
}

/// What all rounds share.
struct Comparison {
    tools: Tools,
    switch: Option<PathBuf>,
    samples: Samples,
    failures: Vec<Failure>,
    _threads: KernelThreads,
}

/// Runs everything.
pub fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new();
    let setups = cases::setups(options);
    let needs_switch = setups.iter().any(|setup| setup.kind == Kind::Espalier);
    let pace = if options.quick {
        Pace { window: Duration::from_millis(200), step: Duration::from_millis(100) }
    } else {
        Pace { window: Duration::from_millis(800), step: Duration::from_millis(300) }
    };
    let mut comparison = Comparison::new(needs_switch, pace)?;
    for round in 0..options.rounds {
        for number in 0..setups.len() {
            // Another one begins each round.
            let setup = &setups[(number + round) % setups.len()];
            tell(&format!("round {} of {}: {}", round + 1, options.rounds, setup.title()));
            comparison.attempt(&setup.title(), |all| all.measure(round, setup))?;
        }
        if needs_switch {
            comparison.flood(round, options.rounds)?;
        }
        if needs_switch && !options.quick {
            let title = format!("espalier, {} pods", scale::PODS);
            tell(&format!("round {} of {}: {title}", round + 1, options.rounds));
            comparison.attempt(&title, |all| all.measure_full(round))?;
        }
    }
    comparison.samples.rows(&mut report);
    goals::judge(&comparison.samples, &mut report);
    report.failures = comparison.failures;
    Ok(report)
}

/// The flood of SYNs alone, for the comparison of flows.
pub(super) fn flood(report: &mut Report, rounds: usize) -> Result<()> {
    let pace = Pace { window: Duration::from_millis(800), step: Duration::ZERO };
    let mut comparison = match Comparison::new(true, pace) {
        Ok(comparison) => comparison,
        Err(error) => {
            report.failures.push(failure(FLOOD, &error));
            return Ok(());
        }
    };
    (0..rounds).try_for_each(|round| comparison.flood(round, rounds))?;
    comparison.samples.rows(report);
    goals::flood(&comparison.samples, report);
    report.failures.append(&mut comparison.failures);
    Ok(())
}

impl Comparison {
    fn new(needs_switch: bool, pace: Pace) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "this makes network namespaces: run it as root");
        let cores = std::thread::available_parallelism()?.get();
        ensure!(
            cores > site::SUBJECT_CORE,
            "this takes two cores, one for the load and one for the device; {cores} is here"
        );
        let watch = Watch::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, watch.flag()).context("cannot handle signals")?;
        }
        Ok(Self {
            switch: needs_switch.then(|| SWITCH.build()).transpose()?,
            tools: Tools { programs: Programs::compile()?, watch, cores: Cores::new()?, pace },
            samples: Samples::default(),
            failures: Vec::new(),
            _threads: KernelThreads::keep_off(site::SUBJECT_CORE)?,
        })
    }

    fn flood(&mut self, round: usize, rounds: usize) -> Result<()> {
        tell(&format!("round {} of {rounds}: {FLOOD}", round + 1));
        self.attempt(FLOOD, |all| all.measure_flood(round))
    }

    /// Measures something, unless it failed before.
    fn attempt(&mut self, subject: &str, measure: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.failures.iter().any(|failure| failure.subject == subject) {
            return Ok(());
        }
        let Err(error) = measure(self) else { return Ok(()) };
        ensure!(!self.tools.watch.stopped(), "interrupted");
        self.failures.push(failure(subject, &error));
        Ok(())
    }

    /// A flood at one pod beside a stream to another.
    fn measure_flood(&mut self, round: usize) -> Result<()> {
        let program = self.switch.as_ref().context("the switch was not built")?;
        let site = Site::new()?;
        let setup = cases::main_setup(Kind::Espalier);
        let case = setup.cases.first().context("there is a first case")?;
        let _switch = espalier::Switch::start(program, &site, &setup.rules().with_syns())?;
        let bed = Bed::new(&self.tools, &site);
        let flooded = flood::measure(&bed, &offer(&site, &setup, case)?, self.tools.pace.window)?;
        self.record(round, [(cases::FLOOD, "pps", flooded.syns), (cases::FLOODED, "percent", flooded.kept)]);
        Ok(())
    }

    /// Adds what was found of the switch beside the cases that all subjects have.
    fn record<const N: usize>(&mut self, round: usize, found: [(&str, &'static str, f64); N]) {
        for (case, unit, value) in found {
            self.samples.add(round, case, Kind::Espalier.label(), unit, value);
            tell(&format!("  {case}: {value:.2} {unit}"));
        }
    }

    /// A node full of pods: attach, idling, and the one busy pod among them beside the same pod alone.
    fn measure_full(&mut self, round: usize) -> Result<()> {
        let program = self.switch.as_ref().context("the switch was not built")?;
        let site = Site::new()?;
        let _crowd = scale::Crowd::gather(&site)?;
        let setup = cases::main_setup(Kind::Espalier);
        let case = setup.cases.first().context("there is a first case")?;
        let alone = {
            let _switch = espalier::Switch::start(program, &site, &setup.rules())?;
            let bed = Bed::new(&self.tools, &site);
            bed.throughput(&offer(&site, &setup, case)?)?
        };
        let (_switch, full) = scale::fill(program, &site, &setup.rules())?;
        let bed = Bed::new(&self.tools, &site);
        let busy = bed.throughput(&offer(&site, &setup, case)?)?;
        self.record(
            round,
            [
                (cases::ATTACH, "ms", full.attach),
                (cases::IDLE, "percent", full.idle),
                (cases::ALONE, "pps", alone.pps),
                (cases::CROWDED, "pps", busy.pps),
            ],
        );
        Ok(())
    }

    fn measure(&mut self, round: usize, setup: &Setup) -> Result<()> {
        let site = Site::new()?;
        if setup.variant == Variant::ThreadedPods {
            site.receive_off_the_device()?;
        }
        let device = self.start(&site, setup)?;
        let bed = Bed::new(&self.tools, &site);
        for case in &setup.cases {
            let outcome = measure(&mut self.samples, round, setup, case, &bed);
            outcome.with_context(|| case.label(setup))?;
        }
        if let (Device::Espalier { switch }, Some(case)) = (&device, setup.cases.first()) {
            let unaccounted = espalier::unaccounted(switch, &bed, &offer(&site, setup, case)?)?;
            self.samples.add(round, cases::ACCOUNTING, Kind::Espalier.label(), "frames", unaccounted);
        }
        drop(device);
        Ok(())
    }

    fn start(&self, site: &Site, setup: &Setup) -> Result<Device> {
        Ok(match setup.kind {
            Kind::Raw => Device::Raw { _forwarder: raw::Forwarder::start(site, setup.tuning())? },
            Kind::Espalier => {
                let program = self.switch.as_ref().context("the switch was not built")?;
                let switch = espalier::Switch::start(program, site, &setup.rules())?;
                Device::Espalier { switch: Box::new(switch) }
            }
            Kind::OvsDpdk => Device::OvsDpdk { _ovs: ovs::OpenVSwitch::start(site, &setup.rules())? },
            Kind::NftSets | Kind::NftChain => {
                let form = if setup.kind == Kind::NftSets { Form::Sets } else { Form::Chain };
                kernel::start(site, form, &setup.rules())?;
                Device::Kernel
            }
            Kind::XdpShortCut => Device::ShortCut { _program: fastpath::ShortCut::start(site)? },
        })
    }
}

/// What is sent for a case.
fn offer(site: &Site, setup: &Setup, case: &Case) -> Result<Offer> {
    let tagged = setup.kind.takes_tags();
    Ok(Offer {
        way: case.way,
        traffic: site.traffic(case.way, case.size, case.flows, tagged)?,
        // The short cut is one way.
        answers: match setup.kind {
            Kind::XdpShortCut => None,
            _ => site.answers(case.way, case.flows, tagged)?,
        },
    })
}

/// One case: throughput, and latency where it is asked for.
fn measure(samples: &mut Samples, round: usize, setup: &Setup, case: &Case, bed: &Bed<'_>) -> Result<()> {
    let offer = offer(bed.site, setup, case)?;
    let (label, subject) = (case.label(setup), setup.kind.label());
    let through = bed.throughput(&offer)?;
    samples.add(round, &label, subject, "pps", through.pps);
    samples.add(round, &format!("{label}/cpu"), subject, "ns", through.cpu);
    tell(&format!(
        "  {label}: {:.0} of {:.0} pps, {:.0} ns of the machine each",
        through.pps, through.offered, through.cpu
    ));
    if case.latency {
        let latency = bed.latency(&offer, through.pps * 1.1)?;
        samples.add(round, &format!("{label}/no-loss"), subject, "pps", latency.no_loss);
        samples.add(round, &format!("{label}/latency-p50"), subject, "us", latency.p50);
        samples.add(round, &format!("{label}/latency-p99"), subject, "us", latency.p99);
    }
    Ok(())
}

/// What could not be measured, told at once.
fn failure(subject: &str, error: &anyhow::Error) -> Failure {
    tell(&format!("{subject}: {error:#}"));
    Failure { subject: subject.to_owned(), error: format!("{error:#}") }
}

#[expect(clippy::print_stderr, reason = "progress is for people who wait")]
pub(super) fn tell(line: &str) {
    eprintln!("{line}");
}
