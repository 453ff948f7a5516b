//! `pktgen sink`: takes in every frame of an interface until told to stop, then says what came.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Verdict;
use crate::args::SinkArgs;
use crate::engine::Watch;
use crate::error::PktgenError;
use crate::progress::{Progress, Shown};
use crate::received::Received;
use crate::receiver::Receiver;
use crate::report::{ReceivedReport, SinkReport, print};

/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(5);

pub(super) fn run(args: &SinkArgs, watch: &Watch) -> Result<Verdict, PktgenError> {
    let receiver = Receiver::start(&args.interface, &args.common, args.core)?;
    let shared = Arc::clone(receiver.shared());
    let progress =
        Progress::start(args.common.json, Shown { sent: None, received: Some(Arc::clone(&shared)) });
    let begun = Instant::now();
    while !watch.stopped()
        && !receiver.has_ended()
        && args.duration.is_none_or(|duration| begun.elapsed() < duration)
        && args.count.is_none_or(|count| unique(&shared.lock()) < count)
    {
        thread::sleep(LOOK);
    }
    drop(progress);
    let dropped = receiver.finish()?;
    let received = shared.lock();
    let runs = received.runs().map(|(run, tracker)| ReceivedReport::of(run.0, tracker, None)).collect();
    let report = SinkReport { runs, others: *received.others(), dropped };
    print(args.common.json, &report, SinkReport::lines).map_err(PktgenError::system("print the result"))?;
    let enough = args.count.is_none_or(|count| unique(&received) >= count);
    let damaged = report.others.corrupt + report.others.bad_header;
    let clean = report.runs.iter().all(ReceivedReport::is_clean) && damaged == 0;
    Ok(Verdict::good(enough && (clean || !args.strict)))
}

fn unique(received: &Received) -> u64 {
    received.runs().map(|(_, tracker)| tracker.counts().unique).sum()
}
