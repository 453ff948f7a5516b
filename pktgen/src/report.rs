//! Results: what was sent, what arrived, as one JSON object for programs or some lines for people.

use std::io::{self, Write};

use serde::Serialize;

use crate::args::EngineKind;
use crate::engine::Sent;
use crate::rate::scaled;
use crate::received::Others;
use crate::tracker::Tracker;

/// What a sender sent.
#[derive(Debug, Clone, Serialize)]
pub struct SentReport {
    /// Frames the kernel took.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// Frames a second.
    pub pps: f64,
    /// Bits of frames a second.
    pub bps: f64,
}

/// What arrived of one run.
#[derive(Debug, Clone, Serialize)]
pub struct ReceivedReport {
    /// The run's number in the stamps.
    pub run: u8,
    /// Frames, every copy counted.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Different frames.
    pub unique: u64,
    /// Different frames that did not arrive: of those sent, or, where that is not known, below the highest number
    /// that arrived.
    pub lost: u64,
    /// The share of that in percent.
    pub loss_percent: f64,
    /// Frames that came again.
    pub duplicates: u64,
    /// Frames that came after a later one of their flow.
    pub reordered: u64,
    /// Frames too far behind to be judged.
    pub late: u64,
    /// From the first arrival to the last.
    pub seconds: f64,
    /// Frames a second.
    pub pps: f64,
    /// Bits of frames a second.
    pub bps: f64,
    /// Latency in nanoseconds.
    pub latency_ns: Latency,
}

/// A latency distribution in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// The least.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: u64,
    /// 90 % are at most this.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The most.
    pub max: u64,
}

/// What a receiving station dropped before anybody saw it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Dropped {
    /// The RX ring was full: the receiver was too slow.
    pub ring_full: u64,
    /// No frame was left to receive into, or the packet was too long.
    pub no_frame: u64,
}

/// The result of `pktgen send`.
#[derive(Debug, Clone, Serialize)]
pub struct SendReport {
    /// How frames were made.
    pub engine: EngineKind,
    /// The rate asked for.
    pub rate: String,
    /// Frame sizes.
    pub size: String,
    /// Flows.
    pub flows: u32,
    /// What was sent.
    pub sent: SentReport,
    /// What arrived, where that was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<ReceivedReport>,
    /// Frames of no run that came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<Others>,
    /// What the receiver dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// The result of `pktgen sink`.
#[derive(Debug, Clone, Serialize)]
pub struct SinkReport {
    /// By run, in the order of their numbers.
    pub runs: Vec<ReceivedReport>,
    /// Frames of no run.
    pub others: Others,
    /// What was dropped.
    pub dropped: Dropped,
}

/// The result of `pktgen reflect`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ReflectReport {
    /// Frames that came.
    pub received: u64,
    /// Frames sent back.
    pub reflected: u64,
    /// Frames that are not IPv4 or IPv6 with UDP, TCP or ICMP, and were not.
    pub ignored: u64,
    /// What was dropped.
    pub dropped: Dropped,
}

impl From<&Sent> for SentReport {
    fn from(sent: &Sent) -> Self {
        let seconds = sent.seconds();
        Self {
            frames: sent.frames,
            bytes: sent.bytes,
            seconds,
            pps: sent.pps(),
            bps: sent.bytes as f64 * 8.0 / seconds,
        }
    }
}

impl ReceivedReport {
    /// The account of a run of which `sent` frames were sent, if that is known.
    #[must_use]
    pub fn of(run: u8, tracker: &Tracker, sent: Option<u64>) -> Self {
        let counts = tracker.counts();
        let sent = sent.unwrap_or(tracker.highest());
        // Frames too late to be judged did arrive.
        let lost = sent.saturating_sub(counts.unique + counts.late);
        let seconds = (counts.last - counts.first).max(1) as f64 / 1e9;
        let several = counts.frames > 1;
        Self {
            run,
            frames: counts.frames,
            bytes: counts.bytes,
            unique: counts.unique,
            lost,
            loss_percent: if sent == 0 { 0.0 } else { lost as f64 * 100.0 / sent as f64 },
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            late: counts.late,
            seconds,
            pps: if several { counts.frames as f64 / seconds } else { 0.0 },
            bps: if several { counts.bytes as f64 * 8.0 / seconds } else { 0.0 },
            latency_ns: Latency::of(tracker),
        }
    }

    /// Whether every frame came once, whole and in order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        (self.lost, self.duplicates, self.reordered, self.late) == (0, 0, 0, 0)
    }
}

impl Latency {
    fn of(tracker: &Tracker) -> Self {
        let latency = tracker.latency();
        Self {
            min: latency.min(),
            mean: latency.mean(),
            p50: latency.value_at_quantile(0.5),
            p90: latency.value_at_quantile(0.9),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
        }
    }
}

/// Writes a report to standard output: as JSON, or as `lines` has it.
pub fn print<T: Serialize>(json: bool, report: &T, lines: impl FnOnce(&T) -> Vec<String>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
    } else {
        for line in lines(report) {
            writeln!(out, "{line}")?;
        }
    }
    out.flush()
}

impl SendReport {
    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let sent = &self.sent;
        let mut lines = vec![format!(
            "sent      {} frames in {:.3} s: {}pps, {}bps ({} flows, size {}, rate {})",
            sent.frames,
            sent.seconds,
            scaled(sent.pps),
            scaled(sent.bps),
            self.flows,
            self.size,
            self.rate
        )];
        lines.extend(self.received.iter().flat_map(ReceivedReport::lines));
        lines.extend(self.others.iter().flat_map(others));
        lines.extend(self.dropped.iter().flat_map(Dropped::lines));
        lines
    }
}

impl SinkReport {
    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for run in &self.runs {
            lines.push(format!("run {}", run.run));
            lines.extend(run.lines());
        }
        if self.runs.is_empty() {
            lines.push("no frame of this generator came".to_owned());
        }
        lines.extend(others(&self.others));
        lines.extend(self.dropped.lines());
        lines
    }
}

impl ReflectReport {
    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Self { received, reflected, ignored, dropped } = self;
        let mut lines =
            vec![format!("{received} frames came, {reflected} went back, {ignored} were ignored")];
        lines.extend(dropped.lines());
        lines
    }
}

impl ReceivedReport {
    fn lines(&self) -> Vec<String> {
        let latency = &self.latency_ns;
        let us = |ns: u64| ns as f64 / 1e3;
        vec![
            format!(
                "received  {} frames in {:.3} s: {}pps, {}bps",
                self.frames,
                self.seconds,
                scaled(self.pps),
                scaled(self.bps)
            ),
            format!(
                "          {} lost ({:.4} %), {} duplicates, {} reordered, {} late",
                self.lost, self.loss_percent, self.duplicates, self.reordered, self.late
            ),
            format!(
                "latency   min {:.1} µs, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
                us(latency.min),
                us(latency.p50),
                us(latency.p90),
                us(latency.p99),
                us(latency.p999),
                us(latency.max)
            ),
        ]
    }
}

impl Dropped {
    fn lines(&self) -> Option<String> {
        (self.ring_full + self.no_frame > 0).then(|| {
            format!("dropped   {} by a full ring, {} without a frame", self.ring_full, self.no_frame)
        })
    }
}

fn others(others: &Others) -> Option<String> {
    let Others { foreign, corrupt, bad_header, .. } = others;
    (foreign + corrupt + bad_header > 0).then(|| {
        format!("others    {foreign} foreign, {corrupt} corrupt, {bad_header} with a wrong header checksum")
    })
}
