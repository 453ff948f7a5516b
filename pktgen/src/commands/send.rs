//! `pktgen send`: one run, a search of many, or a replay.

use std::time::Duration;

use super::session::Session;
use super::{Verdict, replay, search};
use crate::args::SendArgs;
use crate::engine::{Order, Watch};
use crate::error::PktgenError;
use crate::progress::{Progress, Shown};
use crate::rate::Rate;
use crate::report::{SendReport, SentReport, print};
use crate::stamp::Run;

/// How long a run without --count and --duration lasts.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

pub(super) fn run(args: &SendArgs, watch: &Watch) -> Result<Verdict, PktgenError> {
    if args.replay.pcap.is_some() {
        return replay::run(args, watch);
    }
    if args.search.search {
        return search::run(args, watch);
    }
    let report = measure(args, watch)?;
    print(args.common.json, &report, SendReport::lines).map_err(PktgenError::system("print the result"))?;
    Ok(Verdict::good(is_good(args, &report)))
}

/// One run, with its report: what `pktgen send` does before it prints. Moves the calling thread into the network
/// namespace it sends from, for good.
pub fn measure(args: &SendArgs, watch: &Watch) -> Result<SendReport, PktgenError> {
    let mut session = Session::open(args)?;
    let shown = Shown { sent: Some(watch.clone()), received: session.shared() };
    let progress = Progress::start(args.common.json, shown);
    let rate = args.rate.unwrap_or(Rate::Max);
    let duration = args.duration.or(args.count.is_none().then_some(DEFAULT_DURATION));
    let order = Order { run: Run(0), frames: args.count, duration, rate };
    let trial = session.trial(&order, watch)?;
    drop(progress);
    let flows = session.flows();
    let end = session.close()?;
    Ok(SendReport {
        engine: args.engine,
        rate: rate.to_string(),
        size: args.traffic.size.to_string(),
        flows,
        sent: SentReport::from(&trial.sent),
        received: trial.received,
        others: end.others,
        dropped: end.dropped,
    })
}

fn is_good(args: &SendArgs, report: &SendReport) -> bool {
    let Some(received) = &report.received else { return true };
    let intact = report.others.is_none_or(|others| others.corrupt + others.bad_header == 0);
    let in_order = (received.duplicates, received.reordered, received.late) == (0, 0, 0);
    args.max_loss.is_none_or(|most| received.loss_percent <= most) && (!args.strict || (in_order && intact))
}
