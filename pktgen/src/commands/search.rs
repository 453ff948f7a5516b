//! The search for the highest rate without loss: halving, as RFC 2544 section 26.1 has it.
//!
//! The first trial is at the highest rate allowed. A trial is good if no more than --max-loss of its frames were
//! lost. What counts is the rate a trial really sent at, not the one it was told.

use serde::Serialize;

use super::Verdict;
use super::session::Session;
use crate::args::{EngineKind, SearchArgs, SendArgs};
use crate::engine::{Order, Watch};
use crate::error::PktgenError;
use crate::progress::{Progress, Shown};
use crate::rate::{Rate, scaled};
use crate::report::{Latency, print};
use crate::stamp::Run;

/// Trials at most; halving needs seven for one percent.
const MOST_TRIALS: usize = 40;

/// Rates below this are taken for nothing, in frames a second.
const LEAST_RATE: f64 = 1.0;

/// One trial, as it is reported.
#[derive(Debug, Clone, Serialize)]
struct TrialReport {
    /// What it was told.
    rate: String,
    /// Frames a second it sent.
    pps: f64,
    sent: u64,
    lost: u64,
    loss_percent: f64,
    latency_ns: Latency,
    good: bool,
}

/// The result of the search.
#[derive(Debug, Clone, Serialize)]
struct SearchReport {
    engine: EngineKind,
    size: String,
    flows: u32,
    max_loss_percent: f64,
    trial_seconds: f64,
    /// The highest rate of a good trial; none if there was no good one.
    best: Option<TrialReport>,
    trials: Vec<TrialReport>,
}

/// Where the search stands: the best good rate and the least bad one.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    good: f64,
    bad: Option<f64>,
}

pub(super) fn run(args: &SendArgs, watch: &Watch) -> Result<Verdict, PktgenError> {
    let mut session = Session::open(args)?;
    let shown = Shown { sent: Some(watch.clone()), received: session.shared() };
    let progress = Progress::start(args.common.json, shown);
    let most_loss = args.max_loss.unwrap_or(0.0);
    let mut bounds = Bounds::default();
    let mut trials: Vec<TrialReport> = Vec::new();
    let mut rate = args.rate.unwrap_or(Rate::Max);
    while trials.len() < MOST_TRIALS && !watch.stopped() {
        let trial = one(&mut session, args, rate, most_loss, watch)?;
        // A trial cut short by a signal says nothing.
        if watch.stopped() {
            break;
        }
        bounds.learn(trial.pps, trial.good);
        trials.push(trial);
        match bounds.next(&args.search) {
            Some(next) => rate = Rate::Packets(next),
            None => break,
        }
    }
    drop(progress);
    let flows = session.flows();
    session.close()?;
    let best = trials.iter().filter(|trial| trial.good).max_by(|a, b| a.pps.total_cmp(&b.pps)).cloned();
    let found = best.is_some();
    let report = SearchReport {
        engine: args.engine,
        size: args.traffic.size.to_string(),
        flows,
        max_loss_percent: most_loss,
        trial_seconds: args.search.trial.as_secs_f64(),
        best,
        trials,
    };
    print(args.common.json, &report, SearchReport::lines).map_err(PktgenError::system("print the result"))?;
    Ok(Verdict::good(found))
}

fn one(
    session: &mut Session,
    args: &SendArgs,
    rate: Rate,
    most_loss: f64,
    watch: &Watch,
) -> Result<TrialReport, PktgenError> {
    let order = Order { run: Run(0), frames: args.count, duration: Some(args.search.trial), rate };
    let trial = session.trial(&order, watch)?;
    let received = trial
        .received
        .ok_or_else(|| PktgenError::Usage("--search needs --receive, to see what is lost".to_owned()))?;
    Ok(TrialReport {
        rate: rate.to_string(),
        pps: trial.sent.pps(),
        sent: trial.sent.frames,
        lost: received.lost,
        loss_percent: received.loss_percent,
        latency_ns: received.latency_ns,
        good: trial.sent.frames > 0 && received.loss_percent <= most_loss,
    })
}

impl Bounds {
    fn learn(&mut self, pps: f64, good: bool) {
        if good {
            self.good = self.good.max(pps);
        } else {
            self.bad = Some(self.bad.map_or(pps, |bad| bad.min(pps)));
        }
    }

    /// The rate to try next; none when the answer is known well enough.
    fn next(&self, search: &SearchArgs) -> Option<f64> {
        let bad = self.bad?;
        let next = f64::midpoint(self.good, bad);
        let known = bad - self.good <= bad * search.precision.max(0.01) / 100.0;
        (!known && next >= LEAST_RATE).then_some(next)
    }
}

impl SearchReport {
    fn lines(&self) -> Vec<String> {
        let line = |trial: &TrialReport| {
            let latency = &trial.latency_ns;
            format!(
                "{:>10}pps  {:>10} sent  {:>9} lost ({:.4} %)  p50 {:.1} µs, p99 {:.1} µs  {}",
                scaled(trial.pps.round()),
                trial.sent,
                trial.lost,
                trial.loss_percent,
                latency.p50 as f64 / 1e3,
                latency.p99 as f64 / 1e3,
                if trial.good { "good" } else { "loss" }
            )
        };
        let mut lines: Vec<String> = self.trials.iter().map(line).collect();
        lines.push(match &self.best {
            Some(best) => format!(
                "no-loss rate: {}pps at size {} with {} flows (loss up to {} %, {} s a trial)",
                scaled(best.pps.round()),
                self.size,
                self.flows,
                self.max_loss_percent,
                self.trial_seconds
            ),
            None => "no rate without loss was found".to_owned(),
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Searches a device that loses above `capacity`, fed by a sender that can do `sender`.
    fn search(capacity: f64, sender: f64) -> (f64, usize) {
        let args = SearchArgs { search: true, trial: Duration::from_secs(1), precision: 1.0 };
        let (mut bounds, mut rate, mut trials) = (Bounds::default(), f64::INFINITY, 0);
        loop {
            let pps = rate.min(sender);
            bounds.learn(pps, pps <= capacity);
            trials += 1;
            match bounds.next(&args) {
                Some(next) => rate = next,
                None => return (bounds.good, trials),
            }
        }
    }

    #[test]
    fn halving_finds_the_capacity_to_the_precision() {
        for capacity in [123_456.0, 999_000.0, 40_000.0] {
            let (found, trials) = search(capacity, 1e6);
            assert!(found <= capacity && found >= capacity * 0.98, "{found} of {capacity}");
            assert!(trials <= 14, "{trials} trials");
        }
        assert_eq!(search(2e6, 1e6), (1e6, 1), "a sender slower than the device needs one trial");
        let (found, trials) = search(0.0, 1e6);
        assert!(found == 0.0 && trials < MOST_TRIALS);
    }
}
