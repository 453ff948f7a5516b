//! The one listener to what workers tell of flows and packets: a thread that hands it to flow logs and to a shadow.
//!
//! It runs only while one of the two is wanted; without it no worker tells anything. It empties the workers' rings, reads
//! live flows page by page, and never waits for a disk. The manager tells it of each generation before the workers use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use espalier_api::Generation;
use espalier_api::recording::{FlowLogStatus, ShadowReport, ShadowStatus};

mod baseline;
mod ears;
mod site;

use baseline::Baseline;
use ears::Ear;

pub(crate) use baseline::Progress;
pub(crate) use site::{Published, Site};

use crate::clock;
use crate::facts::PacketFact;
use crate::flow::{PodSlot, RuleKey};
use crate::flowlog::{FlowLog, FlowLogSettings, FlowLogWatch};
use crate::reason::DropReason;
use crate::shadow::Shadow;
use crate::worker::{FlowMatch, Handle, WorkerFailed};

/// How often the rings are emptied.
const ROUND: Duration = Duration::from_millis(20);
/// Table entries that a worker looks at between two batches.
const STRETCH: u32 = 4096;
/// How long the manager waits for the thread. It is busy for longer only if a worker does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What policy made of a packet or of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// A rule let it pass, where it is known which.
    Accept(Option<RuleKey>),
    /// It passed because the pod is in audit mode.
    WouldDeny(DropReason),
    /// It did not pass.
    Reject(DropReason),
}

impl Verdict {
    /// Of a packet.
    pub(crate) fn of(fact: &PacketFact) -> Self {
        match fact.verdict {
            Ok(rule) => Self::Accept(rule),
            Err(reason) if fact.audited => Self::WouldDeny(reason),
            Err(reason) => Self::Reject(reason),
        }
    }

    /// Whether it went on.
    pub(crate) fn passes(self) -> bool {
        !matches!(self, Self::Reject(_))
    }

    /// The rule.
    pub(crate) fn rule(self) -> Option<RuleKey> {
        match self {
            Self::Accept(rule) => rule,
            Self::WouldDeny(_) | Self::Reject(_) => None,
        }
    }

    /// Why it was denied, or would have been.
    pub(crate) fn reason_label(self) -> Option<String> {
        match self {
            Self::Accept(_) => None,
            Self::WouldDeny(reason) => Some(format!("would-deny:{}", reason.label())),
            Self::Reject(reason) => Some(reason.label().to_owned()),
        }
    }
}

/// The thread could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecorderError {
    /// A worker does not answer.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
    /// The system refused a thread.
    #[error("a thread to record traffic cannot be started: {0}")]
    Start(#[from] std::io::Error),
    /// It has ended.
    #[error("the thread that records traffic has ended: restart espalier-switch")]
    Gone,
}

/// The running thread.
pub(crate) struct Recorder {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
    log: Option<FlowLogWatch>,
    lost: Arc<AtomicU64>,
    /// The shadow's generation.
    shadow: Option<Generation>,
}

enum Order {
    /// This generation is about to be published.
    Publish(Box<Published>, Sender<()>),
    /// Judge this beside the enforced snapshot, or nothing; the reply is what was judged before.
    Shadow(Option<Box<Shadow>>, Sender<Option<ShadowStatus>>),
    /// Tell what the shadow would change.
    Report(Sender<Option<ShadowReport>>),
    /// Write what is left and end.
    Stop,
}

impl Recorder {
    /// Listens to these workers from now on. What their flows have carried until now is not recorded.
    pub(crate) fn start(
        workers: &[Handle],
        published: Published,
        settings: &FlowLogSettings,
    ) -> Result<Self, RecorderError> {
        let log = FlowLog::start(settings)?;
        let watch = log.as_ref().map(FlowLog::watch);
        let lost = Arc::new(AtomicU64::new(0));
        let mut scribe = Scribe {
            ears: workers.iter().map(Ear::listen).collect::<Result<_, _>>()?,
            baseline: Baseline::default(),
            books: Books { site: Site::new(published), log, shadow: None },
            ring_lost: 0,
            lost: Arc::clone(&lost),
        };
        scribe.sweep(|_, _| {});
        let (orders, inbox) = unbounded();
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || scribe.run(&inbox))?;
        Ok(Self { orders, thread, log: watch, lost, shadow: None })
    }

    /// A generation is about to be published. Returns when what was told before it has been dealt with.
    pub(crate) fn publish(&self, published: Published) -> Result<(), RecorderError> {
        self.ask(|reply| Order::Publish(Box::new(published), reply))
    }

    /// Judges this beside the enforced snapshot from now on, or nothing. Returns what was judged before.
    pub(crate) fn set_shadow(
        &mut self,
        shadow: Option<Shadow>,
    ) -> Result<Option<ShadowStatus>, RecorderError> {
        self.shadow = shadow.as_ref().map(Shadow::generation);
        self.ask(|reply| Order::Shadow(shadow.map(Box::new), reply))
    }

    /// What the shadow would change; nothing without one.
    pub(crate) fn report(&self) -> Result<Option<ShadowReport>, RecorderError> {
        self.ask(Order::Report)
    }

    /// Whether there is anything to record but a shadow.
    pub(crate) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// The generation of the shadow, if one is set.
    pub(crate) fn shadow(&self) -> Option<Generation> {
        self.shadow
    }

    /// The flow log's account, if there is one.
    pub(crate) fn status(&self) -> Option<FlowLogStatus> {
        self.log.as_ref().map(|log| log.status(self.lost.load(Ordering::Relaxed)))
    }

    /// What is not as it should be.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.thread.is_finished() {
            return Some(RecorderError::Gone.to_string());
        }
        self.log.as_ref().and_then(FlowLogWatch::problem)
    }

    /// Records what was told so far and ends. The workers must still run.
    pub(crate) fn stop(self) {
        let _told = self.orders.send(Order::Stop);
        if self.thread.join().is_err() {
            tracing::warn!("the recorder had failed");
        }
    }

    fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> Result<T, RecorderError> {
        let (reply, answer) = bounded(1);
        self.orders.send(order(reply)).map_err(|_| RecorderError::Gone)?;
        answer.recv_timeout(PATIENCE).map_err(|_| RecorderError::Gone)
    }
}

/// What is written down, and by whose names.
struct Books {
    site: Site,
    log: Option<FlowLog>,
    shadow: Option<Box<Shadow>>,
}

impl Books {
    fn flow(&mut self, progress: &Progress) {
        if let Some(log) = &mut self.log {
            log.flow(progress);
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.flow(progress, &self.site);
        }
    }

    fn packet(&mut self, fact: &PacketFact) {
        if let Some(log) = &mut self.log {
            log.packet(fact);
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.packet(fact, &self.site);
        }
    }

    /// Something was told and lost; nobody knows of which pod.
    fn lost(&mut self, count: u64) {
        let slots: Vec<PodSlot> = self.site.pods().map(|(slot, _)| slot).collect();
        if let Some(log) = &mut self.log {
            slots.iter().for_each(|slot| log.skip(*slot, 1));
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.lost(count);
        }
    }
}

/// What the thread owns.
struct Scribe {
    ears: Vec<Ear>,
    baseline: Baseline,
    books: Books,
    ring_lost: u64,
    lost: Arc<AtomicU64>,
}

impl Scribe {
    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            let wait = self.books.log.as_ref().map_or(ROUND, |log| log.remaining().min(ROUND));
            match inbox.recv_timeout(wait) {
                Ok(Order::Publish(published, reply)) => {
                    self.publish(*published);
                    let _told = reply.send(());
                }
                Ok(Order::Shadow(shadow, reply)) => {
                    let _told = reply.send(self.set_shadow(shadow));
                }
                Ok(Order::Report(reply)) => {
                    self.take_stock();
                    let Books { site, shadow, .. } = &self.books;
                    let _told = reply.send(shadow.as_ref().map(|shadow| shadow.report(site)));
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return self.end(),
                Err(RecvTimeoutError::Timeout) => self.drain(),
            }
            if self.books.log.as_ref().is_some_and(|log| log.remaining().is_zero()) {
                self.take_stock();
                let Books { site, log, .. } = &mut self.books;
                if let Some(log) = log {
                    log.close(site);
                }
            }
        }
    }

    /// Everything that has been told so far.
    fn drain(&mut self) {
        let Self { ears, baseline, books, .. } = self;
        for ear in ears.iter_mut() {
            ear.ended(u64::MAX, |ended| books.flow(&baseline.ended(&ended.flow, ended.last)));
            ear.packets(|fact| books.packet(&fact));
            let lost = ear.newly_lost();
            if lost > 0 {
                self.ring_lost += lost;
                books.lost(lost);
            }
        }
        let log_lost = self.books.log.as_ref().map_or(0, FlowLog::lost);
        self.lost.store(self.ring_lost + log_lost, Ordering::Relaxed);
    }

    /// Everything that has been told so far, and what live flows have carried.
    fn take_stock(&mut self) {
        self.sweep(|books, progress| books.flow(progress));
        self.drain();
    }

    /// Looks at all live flows.
    fn sweep(&mut self, mut each: impl FnMut(&mut Books, &Progress)) {
        let Self { ears, baseline, books, .. } = self;
        baseline.begin_sweep();
        let mut whole = true;
        for ear in ears.iter_mut() {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let stretch = match ear.worker().list_flows(FlowMatch::default(), at, STRETCH) {
                    Ok(stretch) => stretch,
                    Err(error) => {
                        tracing::debug!(%error, "its live flows are not read for now");
                        whole = false;
                        break;
                    }
                };
                let now = clock::now();
                // What ended before the worker answered comes before what it found.
                ear.ended(stretch.told, |ended| each(books, &baseline.ended(&ended.flow, ended.last)));
                stretch.flows.iter().for_each(|flow| each(books, &baseline.live(flow, now)));
                cursor = stretch.next;
            }
        }
        if whole {
            let gone: u64 = baseline
                .end_sweep(clock::now())
                .into_iter()
                .map(|(slot, flows)| {
                    if let Some(log) = &mut books.log {
                        log.skip(slot, flows);
                    }
                    flows
                })
                .sum();
            if gone > 0 {
                tracing::debug!(flows = gone, "flows ended without a word");
            }
        }
    }

    fn publish(&mut self, next: Published) {
        // The flows of pods that have gone were told to have ended; live ones need not be read for it.
        self.drain();
        let gone = self.books.site.gone(&next);
        let Books { site, log, shadow } = &mut self.books;
        if let Some(log) = log {
            log.leave(site, &gone);
        }
        gone.iter().for_each(|slot| self.baseline.forget_pod(*slot));
        site.update(next);
        if let Some(shadow) = shadow {
            shadow.place(site);
        }
    }

    fn set_shadow(&mut self, shadow: Option<Box<Shadow>>) -> Option<ShadowStatus> {
        self.take_stock();
        self.baseline.begin_epoch();
        let before = std::mem::replace(&mut self.books.shadow, shadow);
        if let Some(shadow) = &mut self.books.shadow {
            shadow.place(&self.books.site);
        }
        before.map(|before| before.status(&self.books.site))
    }

    fn end(mut self) {
        self.take_stock();
        let Self { ears, books, .. } = self;
        ears.iter().for_each(Ear::hush);
        if let Some(log) = books.log {
            log.stop(&books.site);
        }
    }
}
