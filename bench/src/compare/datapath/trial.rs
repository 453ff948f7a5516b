//! The measurements of a device under test: throughput, the rate without loss, and latency.
//!
//! Received frames count, never sent ones. Every trial is a run of its own, so that stragglers of the one before count
//! nowhere; flows are made known to the device before anything is timed.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use espalier_pktgen::engine::Watch;
use espalier_pktgen::rate::Rate;
use espalier_pktgen::stamp::Run;
use espalier_pktgen::traffic::Traffic;

use super::cores::Cores;
use super::cpu;
use super::load::{Load, Way};
use super::napi;
use super::sink::{Ages, Programs, Sink};
use super::site::{EDGE, LOAD_CORE, Site, TRUNK};
use crate::measure::Quartiles;

/// Rate at which flows are introduced: every device here keeps up with it.
const GENTLE: Rate = Rate::Packets(150_000.0);
/// Time that introducing flows may take.
const LONGEST: Duration = Duration::from_secs(30);
/// Loss that counts as none: a frame that meets a burst of the machine's own work.
const TOLERATED_LOSS: f64 = 0.000_5;
/// Halvings of the search.
const HALVINGS: usize = 6;
/// Windows of latency, of which the medians count, each this part of one of throughput: a kernel thread that takes the
/// device's core for 8 ms, as the memory monitor does, is all that the 99th percentile of its window shows.
const LATENCY_WINDOWS: u32 = 5;
const LATENCY_PART: u32 = 4;

/// How long things are measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Of throughput.
    pub(super) window: Duration,
    /// Of one step of the search for the rate without loss.
    pub(super) step: Duration,
}

/// A trial of throughput.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throughput {
    /// Frames a second that arrived.
    pub(super) pps: f64,
    /// Frames a second that were sent: more, or the generator is what was measured.
    pub(super) offered: f64,
    /// Processor time of the whole machine for each, in ns; the generator's and the sink's included.
    pub(super) cpu: f64,
}

/// A trial of latency.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    /// The rate without loss, frames a second. Half of it was sent.
    pub(super) no_loss: f64,
    /// Median in µs.
    pub(super) p50: f64,
    /// 99th percentile in µs.
    pub(super) p99: f64,
}

/// What became of a counted number of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// What is sent in trials.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) way: Way,
    pub(super) traffic: Traffic,
    /// The answers that make flows established.
    pub(super) answers: Option<Traffic>,
}

/// What it takes to measure, whatever it is.
pub(super) struct Tools {
    pub(super) programs: Programs,
    pub(super) watch: Watch,
    pub(super) cores: Cores,
    pub(super) pace: Pace,
}

/// A site with its sinks.
pub(super) struct Bed<'a> {
    pub(super) site: &'a Site,
    tools: &'a Tools,
    run: AtomicU8,
}

impl<'a> Bed<'a> {
    pub(super) fn new(tools: &'a Tools, site: &'a Site) -> Self {
        Self { site, tools, run: AtomicU8::new(0) }
    }

    /// Frames a second under more load than the device can take.
    pub(super) fn throughput(&self, offer: &Offer) -> Result<Throughput> {
        self.on(offer, |bed, load, sink| {
            bed.tools.cores.apart(|| {
                let run = bed.begin(sink, false)?;
                let before = cpu::busy()?;
                let sent = load.send(run, Rate::Max, None, bed.tools.pace.window)?;
                let busy = cpu::busy()? - before;
                let arrived = sink.settled(sent.frames)?.frames as f64;
                let pps = sink.pps()?;
                let pps =
                    pps.with_context(|| format!("hardly a frame arrived in {:?}", bed.tools.pace.window))?;
                Ok(Throughput { pps, offered: sent.pps(), cpu: busy / arrived })
            })
        })
    }

    /// The highest rate without loss by halving (RFC 2544, section 26.1), and the latency at half of it: medians of some
    /// windows.
    pub(super) fn latency(&self, offer: &Offer, most: f64) -> Result<Latency> {
        self.on(offer, |bed, load, sink| {
            let (mut good, mut bad) = (0.0, most);
            for _ in 0..HALVINGS {
                let rate = f64::midpoint(good, bad);
                let once = || bed.account(load, sink, rate, bed.tools.pace.step);
                let Account { sent, received } = bed.tools.cores.apart(once)?;
                let lost = 1.0 - received as f64 / sent as f64;
                if lost <= TOLERATED_LOSS { good = rate } else { bad = rate }
            }
            ensure!(good > 0.0, "even {bad:.0} frames a second are not carried without loss");
            let (mut p50, mut p99) = (Vec::new(), Vec::new());
            for _ in 0..LATENCY_WINDOWS {
                let ages = bed.tools.cores.apart(|| bed.ages(load, sink, good / 2.0))?;
                let quantile = |share| ages.quantile(share).context("no frame arrived");
                p50.push(quantile(0.5)? / 1e3);
                p99.push(quantile(0.99)? / 1e3);
            }
            Ok(Latency { no_loss: good, p50: Quartiles::of(p50).median, p99: Quartiles::of(p99).median })
        })
    }

    /// How old frames are when they arrive, at this rate.
    fn ages(&self, load: &mut Load, sink: &mut Sink, rate: f64) -> Result<Ages> {
        let run = self.begin(sink, true)?;
        load.send(run, Rate::Packets(rate), None, self.tools.pace.window / LATENCY_PART)?;
        sink.settled(u64::MAX)?;
        sink.ages()
    }

    /// Sends at a rate for a time, and waits for what is under way. Flows are established before, so that every frame
    /// should pass.
    pub(super) fn counted(&self, offer: &Offer, rate: f64, time: Duration) -> Result<Account> {
        self.on(offer, |bed, load, sink| bed.account(load, sink, rate, time))
    }

    pub(super) fn account(
        &self,
        load: &mut Load,
        sink: &mut Sink,
        rate: f64,
        time: Duration,
    ) -> Result<Account> {
        let run = self.begin(sink, false)?;
        let sent = load.send(run, Rate::Packets(rate), None, time)?.frames;
        ensure!(sent > 0, "nothing was sent at {rate:.0} frames a second");
        Ok(Account { sent, received: sink.settled(sent)?.frames })
    }

    /// Opens both ends of a way and establishes every flow: a frame each way, twice.
    pub(super) fn on<T: Send>(
        &self,
        offer: &Offer,
        work: impl FnOnce(&Self, &mut Load, &mut Sink) -> Result<T> + Send,
    ) -> Result<T> {
        let way = offer.way;
        let (source, destination) = (self.site.source(way), self.site.destination(way));
        let mut sink = Sink::attach(&self.tools.programs, destination)?;
        let _router = match way {
            Way::Hairpin => {
                // The VPC's work is none of the node's.
                self.site.node.offload(TRUNK, "tso off")?;
                napi::receive_on(&self.site.outside, EDGE, LOAD_CORE)?;
                Some(Sink::hairpin(&self.tools.programs, self.site)?)
            }
            _ => None,
        };
        let frames = u64::from(offer.traffic.flows);
        let first = self.begin(&mut sink, false)?;
        Load::with(source, &offer.traffic, &self.tools.watch, |load| {
            load.send(first, GENTLE, Some(frames), LONGEST)
        })?;
        let arrived = sink.settled(frames)?.frames;
        ensure!(arrived > 0, "the device forwards nothing ({})", way.label());
        if let Some(answers) = &offer.answers {
            // Whoever asked must not find the answers: its kernel would refuse them.
            let mut back = Sink::attach(&self.tools.programs, source)?;
            let run = self.begin(&mut back, false)?;
            Load::with(destination, answers, &self.tools.watch, |load| {
                load.send(run, GENTLE, Some(frames), LONGEST)
            })?;
            let arrived = back.settled(frames)?.frames;
            ensure!(arrived > 0, "the device forwards no answers ({})", way.label());
        }
        let done = Load::with(source, &offer.traffic, &self.tools.watch, |load| {
            let run = self.begin(&mut sink, false)?;
            load.send(run, GENTLE, Some(frames), LONGEST)?;
            work(self, load, &mut sink)
        });
        ensure!(!self.tools.watch.stopped(), "interrupted");
        done
    }

    /// For what is sent beside.
    pub(super) fn watch(&self) -> &Watch {
        &self.tools.watch
    }

    /// A run of its own; a sink counts it once it is told to.
    pub(super) fn next_run(&self) -> Run {
        Run(self.run.fetch_add(1, Ordering::Relaxed))
    }

    fn begin(&self, sink: &mut Sink, ages: bool) -> Result<Run> {
        ensure!(!self.tools.watch.stopped(), "interrupted");
        let run = self.next_run();
        sink.count(run, ages)?;
        Ok(run)
    }
}
