//! The engines: what turns a plan and an order into frames on an interface.
//!
//! `af_xdp` writes frames into shared memory and lets the kernel send them; `live` lets the kernel make them. Both
//! run on the calling thread, stamp every frame, keep the rate, and stop when told to.

mod af_xdp;
mod live;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use af_xdp::AfXdp;
use espalier_xsk::LiveMeter;
pub use live::Live;

use crate::error::PktgenError;
use crate::rate::Rate;
use crate::stamp::Run;

/// One run to be sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    /// The run, in every stamp.
    pub run: Run,
    /// Frames to send at most.
    pub frames: Option<u64>,
    /// Time to send for at most. With neither, the engine sends until it is stopped.
    pub duration: Option<Duration>,
    /// How fast.
    pub rate: Rate,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The run.
    pub run: Run,
    /// Frames the kernel took. Their sequence numbers are 0 up to one less.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Nanoseconds from the first to the last.
    pub elapsed: u64,
}

/// What a sender tells the other threads, and is told by them.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    /// Runs of the kernel that are under way; what they have sent is not in `sent` yet.
    live: Arc<Mutex<Vec<LiveMeter>>>,
}

/// One of the engines.
#[derive(Debug)]
pub enum Engine {
    /// Frames through an AF_XDP socket.
    AfXdp(Box<AfXdp>),
    /// Live frames of the kernel.
    Live(Box<Live>),
}

impl Engine {
    /// Sends what is ordered.
    pub fn send(&mut self, order: &Order, watch: &Watch) -> Result<Sent, PktgenError> {
        match self {
            Self::AfXdp(engine) => engine.send(order, watch),
            Self::Live(engine) => engine.send(order, watch),
        }
    }

    /// Lets an engine that receives on its own sockets do so. Returns the frames that came.
    pub fn idle(&mut self) -> Result<usize, PktgenError> {
        match self {
            Self::AfXdp(engine) => engine.idle(),
            Self::Live(_) => Ok(0),
        }
    }
}

impl Sent {
    /// Frames a second.
    #[must_use]
    pub fn pps(&self) -> f64 {
        self.frames as f64 / self.seconds()
    }

    /// Seconds from the first to the last, never 0.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.elapsed.max(1) as f64 / 1e9
    }
}

impl Watch {
    /// Ends the run as soon as the engine looks.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the run is to end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag itself, for signal handlers.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Frames sent so far, all runs together.
    #[must_use]
    pub fn sent(&self) -> u64 {
        let live = self.live();
        // A run that cannot be asked ends with an error of its own.
        let under_way = live.iter().filter_map(|run| run.progress().ok()).map(|progress| progress.frames);
        self.sent.load(Ordering::Relaxed) + under_way.sum::<u64>()
    }

    pub(crate) fn add(&self, frames: u64) {
        self.sent.fetch_add(frames, Ordering::Relaxed);
    }

    /// Counts what a run of the kernel sends while it is under way.
    fn follow(&self, run: &LiveMeter) {
        self.live().push(run.clone());
    }

    /// Ends that: the run has sent so many.
    fn settle(&self, run: &LiveMeter, frames: u64) {
        let mut live = self.live();
        live.retain(|other| other != run);
        self.add(frames);
    }

    fn live(&self) -> MutexGuard<'_, Vec<LiveMeter>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
