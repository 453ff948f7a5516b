//! VPC flow logs: what the interfaces of pods sent and received, and what of it was denied, in AWS's records.
//!
//! The recorder owns a [`FlowLog`] and shows it facts; nothing here is near a worker. An interval that is over becomes
//! lines, which a thread of their own writes. Bounded in memory; what is lost is counted and said in the log.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use espalier_api::recording::FlowLogStatus;

mod aggregate;
mod field;
mod file;
mod record;
mod settings;
mod writer;

pub use field::{Field, Format};
pub use settings::{FlowLogSettings, Traffic};

use crate::clock;
use crate::facts::PacketFact;
use crate::flow::{Now, PodSlot};
use crate::manager::recorder::{Progress, Site};
use aggregate::{Aggregator, Interval};
use file::LogFile;
use record::{Interface, Said, Seconds};
use writer::{Chunk, Writer, Written};

/// The flow log, from facts to the queue of its writer.
pub(crate) struct FlowLog {
    settings: FlowLogSettings,
    path: String,
    table: Aggregator,
    writer: Writer,
    /// When the present interval began, and when it ends.
    interval: (Seconds, Seconds),
    /// Pods of whose records some found no room on the way to the file; the next interval says so.
    refused: HashSet<PodSlot>,
}

impl FlowLog {
    /// Begins the log, if the settings want one. A file that cannot be written is a problem for `espalier status`.
    pub(crate) fn start(settings: &FlowLogSettings) -> std::io::Result<Option<Self>> {
        let Some(path) = &settings.file else { return Ok(None) };
        let file = LogFile::new(path, settings);
        let name = file.name();
        let writer = Writer::start(settings, file)?;
        let now = wall();
        Ok(Some(Self {
            table: Aggregator::new(settings.records as usize, settings.traffic, clock::now()),
            settings: settings.clone(),
            path: name,
            writer,
            interval: (now, end_of_interval(now, settings.interval)),
            refused: HashSet::new(),
        }))
    }

    /// What a flow has carried since it was last shown.
    pub(crate) fn flow(&mut self, progress: &Progress) {
        self.table.flow(progress);
    }

    /// A packet that no flow counts.
    pub(crate) fn packet(&mut self, fact: &PacketFact) {
        self.table.packet(fact);
    }

    /// Something was lost of what this pod did.
    pub(crate) fn skip(&mut self, slot: PodSlot, count: u64) {
        self.table.skip(slot, count);
    }

    /// How long the present interval lasts yet.
    pub(crate) fn remaining(&self) -> Duration {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(self.interval.1);
        end.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// Packets that found no room in the table.
    pub(crate) fn lost(&self) -> u64 {
        self.table.lost()
    }

    /// Ends the interval: its records go to the writer.
    pub(crate) fn close(&mut self, site: &Site) {
        let intervals = self.table.close(clock::now());
        let pods: Vec<PodSlot> = site.pods().map(|(slot, _)| slot).collect();
        self.write(site, &pods, intervals);
        let now = wall();
        self.interval = (now, end_of_interval(now, self.settings.interval));
    }

    /// Ends the interval of pods that leave.
    pub(crate) fn leave(&mut self, site: &Site, gone: &[PodSlot]) {
        let intervals = self.table.take(|slot| gone.contains(&slot));
        self.write(site, gone, intervals);
        self.refused.retain(|slot| !gone.contains(slot));
    }

    fn write(&mut self, site: &Site, slots: &[PodSlot], mut intervals: BTreeMap<PodSlot, Interval>) {
        let (now, wall) = (clock::now(), wall());
        // The clock of the workers counts from another moment.
        let since_1970 = |at: Now| wall.saturating_sub(now.0.saturating_sub(at.0) / 1000);
        let times = (self.interval.0, wall.min(self.interval.1).max(self.interval.0));
        for slot in slots {
            let Some(pod) = site.pod(*slot) else { continue };
            let mut interval = intervals.remove(slot).unwrap_or_default();
            interval.skipped += u64::from(self.refused.remove(slot));
            let interface = Interface {
                settings: &self.settings,
                pod: &pod.name,
                eni: pod.eni_id.as_str(),
                vpc: site.vpc_id(),
                cidrs: site.vpc_cidrs(),
            };
            let chunk = lines(&interface, &interval, site, times, since_1970);
            if self.writer.send(chunk, site.pods().count()).is_err() {
                self.refused.insert(*slot);
            }
        }
    }

    /// Writes what is left, within reason.
    pub(crate) fn stop(mut self, site: &Site) {
        self.close(site);
        self.writer.stop();
    }

    /// What the manager asks about without asking the recorder.
    pub(crate) fn watch(&self) -> FlowLogWatch {
        FlowLogWatch { path: self.path.clone(), written: Arc::clone(self.writer.written()) }
    }
}

fn lines(
    interface: &Interface<'_>,
    interval: &Interval,
    site: &Site,
    times: (Seconds, Seconds),
    since_1970: impl Fn(Now) -> Seconds,
) -> Chunk {
    let mut chunk = Chunk { records: 0, bytes: Vec::new() };
    let mut write = |said: &Said<'_>, times| {
        interface.write(said, times, &mut chunk.bytes);
        chunk.records += 1;
    };
    for (key, sum) in &interval.records {
        let rule = key.verdict.rule().and_then(|account| site.rule(account));
        let rule = rule
            .map_or((None, None), |rule| (rule.0.map(espalier_api::RuleId::as_str), Some(rule.1.as_str())));
        write(&Said::Ok { key, sum, rule }, (since_1970(sum.first), since_1970(sum.last)));
    }
    if interval.skipped > 0 {
        write(&Said::SkipData, times);
    } else if !interval.traffic {
        write(&Said::NoData, times);
    }
    chunk
}

fn wall() -> Seconds {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Intervals end at multiples of their length, as in EC2.
fn end_of_interval(now: Seconds, length: u32) -> Seconds {
    (now / u64::from(length) + 1) * u64::from(length)
}

/// The log's own account; any thread may read it.
#[derive(Clone)]
pub(crate) struct FlowLogWatch {
    path: String,
    written: Arc<Written>,
}

impl FlowLogWatch {
    /// For status; what was lost before the records were made comes from the recorder.
    pub(crate) fn status(&self, facts_lost: u64) -> FlowLogStatus {
        FlowLogStatus {
            file: self.path.clone(),
            records: self.written.records(),
            waiting: self.written.waiting(),
            records_lost: self.written.lost(),
            facts_lost,
            errors: self.written.errors(),
        }
    }

    /// Why nothing can be written, if so.
    pub(crate) fn problem(&self) -> Option<String> {
        self.written.problem()
    }
}
