//! `pktgen send --pcap`: the frames of a capture as they are, at their own pace or at a rate.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::Verdict;
use super::session::{check_mtu, open_receiver, settle};
use crate::args::{EngineKind, ReceiveAt, SendArgs};
use crate::capture::{self, Captured};
use crate::clock;
use crate::endpoint::pin;
use crate::engine::{Sent, Watch};
use crate::error::PktgenError;
use crate::progress::{Progress, Shown};
use crate::rate::Pacer;
use crate::received::{Others, Received, Shared};
use crate::report::{Dropped, ReceivedReport, SentReport, SinkReport, print};
use crate::stamp::Run;
use crate::station::{Role, Station};

/// How long the kernel may take no frame before the replay is given up.
const STALLED: u64 = 5_000_000_000;

/// A replay with more time than this before the next frame sleeps until shortly before it.
const SLEEP_FROM: u64 = 150_000;
const WAKE_BEFORE: u64 = 100_000;
const LONGEST_SLEEP: u64 = 20_000_000;

/// The result.
#[derive(Debug, Clone, Serialize)]
struct ReplayReport {
    sent: SentReport,
    /// Frames that arrived, of whatever kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    arrived: Option<u64>,
    /// Frames sent that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
    /// What arrived that carries stamps of this generator, by run.
    runs: Vec<ReceivedReport>,
    others: Others,
    dropped: Dropped,
}

/// When frames are due.
enum Pace {
    /// As in the capture; each pass begins when the one before has ended.
    Own,
    At(Pacer),
}

pub(super) fn run(args: &SendArgs, watch: &Watch) -> Result<Verdict, PktgenError> {
    if args.engine == EngineKind::Kernel || args.receive == Some(ReceiveAt::Itself) {
        let text =
            "a capture is replayed through --engine af-xdp, and received at another interface or not at all";
        return Err(PktgenError::Usage(text.to_owned()));
    }
    let Some(path) = &args.replay.pcap else {
        return Err(PktgenError::Usage("--pcap FILE is missing".to_owned()));
    };
    let frames = capture::read(path)?;
    let receiver = open_receiver(args)?;
    pin(args.core)?;
    args.interface.enter()?;
    let mut station = Station::open(&args.interface, Role::Send { queue: args.queue }, args.common.xdp)?;
    check_mtu(station.interface(), frames.iter().map(|frame| frame.bytes.len()).max().unwrap_or(0))?;
    let shared = receiver.as_ref().map(|receiver| Arc::clone(receiver.shared()));
    let progress =
        Progress::start(args.common.json, Shown { sent: Some(watch.clone()), received: shared.clone() });
    let sent = replay(&mut station, &frames, args, watch)?;
    drop(station);
    if let Some(shared) = &shared {
        settle(shared, args.settle, sent.frames, Received::total, || Ok(0))?;
    }
    drop(progress);
    let dropped = receiver.map(|receiver| receiver.finish()).transpose()?;
    let report = report(&sent, shared.as_deref(), dropped.unwrap_or_default());
    print(args.common.json, &report, ReplayReport::lines).map_err(PktgenError::system("print the result"))?;
    Ok(Verdict::good(report.is_good(args)))
}

fn replay(
    station: &mut Station,
    frames: &[Captured],
    args: &SendArgs,
    watch: &Watch,
) -> Result<Sent, PktgenError> {
    let mean = frames.iter().map(|frame| frame.bytes.len() as f64).sum::<f64>() / frames.len() as f64;
    let start = clock::now();
    let end = args.duration.map_or(u64::MAX, |d| start.saturating_add(d.as_nanos() as u64));
    let mut pace = match args.rate {
        Some(rate) => Pace::At(Pacer::new(start, rate.interval(mean))),
        None => Pace::Own,
    };
    let (mut count, mut bytes, mut last) = (0, 0, start);
    'passes: for _ in 0..args.replay.repeat {
        let begun = clock::now();
        for frame in frames {
            if !wait_until_due(station, &mut pace, begun, frame, end, watch)? {
                break 'passes;
            }
            station.queue_bytes(&frame.bytes);
            count += 1;
            bytes += frame.bytes.len() as u64;
            last = clock::now();
        }
    }
    push_all(station, watch)?;
    Ok(Sent { run: Run(0), frames: count, bytes, elapsed: clock::now().max(last) - start })
}

/// Waits until the frame is due and there is room for it. False when the replay is to end.
fn wait_until_due(
    station: &mut Station,
    pace: &mut Pace,
    begun: u64,
    frame: &Captured,
    end: u64,
    watch: &Watch,
) -> Result<bool, PktgenError> {
    loop {
        let now = clock::now();
        if now >= end || watch.stopped() {
            return Ok(false);
        }
        let wait = match pace {
            Pace::Own => (begun + frame.at).saturating_sub(now),
            Pace::At(pacer) => pacer.until_due(now),
        };
        if wait == 0 {
            // Frames that are due together leave together.
            if station.room_beside_queued() == 0 {
                push_all(station, watch)?;
            }
            if let Pace::At(pacer) = pace {
                pacer.take(now, 1);
            }
            return Ok(true);
        }
        push_all(station, watch)?;
        if wait > SLEEP_FROM {
            thread::sleep(Duration::from_nanos((wait - WAKE_BEFORE).min(LONGEST_SLEEP)));
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Pushes until the kernel has taken everything.
fn push_all(station: &mut Station, watch: &Watch) -> Result<(), PktgenError> {
    let mut moved = clock::now();
    while station.unsent() > 0 {
        let waiting = station.unsent();
        watch.add(station.push()? as u64);
        if station.unsent() < waiting {
            moved = clock::now();
        } else if clock::now() - moved > STALLED {
            let interface = station.interface().name.clone();
            return Err(PktgenError::Stalled { interface, seconds: STALLED / 1_000_000_000 });
        }
    }
    Ok(())
}

fn report(sent: &Sent, shared: Option<&Shared>, dropped: Dropped) -> ReplayReport {
    let sent = SentReport::from(sent);
    let Some(shared) = shared else {
        let others = Others::default();
        return ReplayReport { sent, arrived: None, missing: None, runs: Vec::new(), others, dropped };
    };
    let received = shared.lock();
    let arrived = received.total();
    ReplayReport {
        missing: Some(sent.frames.saturating_sub(arrived)),
        arrived: Some(arrived),
        runs: received.runs().map(|(run, tracker)| ReceivedReport::of(run.0, tracker, None)).collect(),
        others: *received.others(),
        dropped,
        sent,
    }
}

impl ReplayReport {
    fn is_good(&self, args: &SendArgs) -> bool {
        let missing = self.missing.unwrap_or(0) as f64 * 100.0 / self.sent.frames.max(1) as f64;
        let clean = self.runs.iter().all(ReceivedReport::is_clean)
            && self.others.corrupt + self.others.bad_header == 0;
        args.max_loss.is_none_or(|most| missing <= most) && (clean || !args.strict)
    }

    fn lines(&self) -> Vec<String> {
        let sent = &self.sent;
        let mut lines =
            vec![format!("sent      {} frames, {} bytes in {:.3} s", sent.frames, sent.bytes, sent.seconds)];
        if let (Some(arrived), Some(missing)) = (self.arrived, self.missing) {
            lines.push(format!("arrived   {arrived} frames, {missing} are missing"));
            let Self { runs, others, dropped, .. } = self.clone();
            lines.extend(SinkReport { runs, others, dropped }.lines());
        }
        lines
    }
}
