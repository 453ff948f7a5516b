//! `POST /v1/watch`: taps at every worker, and what comes out of them.

use espalier_api::InputError;
use espalier_api::watch::{MAX_SNAPLEN, WatchEvent, WatchRequest};

use super::stages::Narrator;
use super::{Manager, ManagerError};
use crate::filter;
use crate::observe::{Samples, Seen, tap};

/// Samples that are told at once, while the manager answers nobody else.
const AT_ONCE: usize = 256;

/// Somebody who watches: the readers' ends of the taps, by worker.
pub struct Watching {
    taps: Vec<Samples>,
    stages: bool,
    lost: u64,
}

impl Manager {
    /// Has every worker show the packets that fit. It ends when [`Watching`] is dropped.
    pub fn watch(&self, request: &WatchRequest) -> Result<Watching, ManagerError> {
        if request.snaplen > MAX_SNAPLEN {
            let message = format!("{} is more than {MAX_SNAPLEN}, the most that is kept", request.snaplen);
            return Err(InputError::new("snaplen", message).into());
        }
        let filter = self.known(request.filter.clone())?;
        self.enforced()?;
        let crew = self.crew()?;
        let mut taps = Vec::new();
        for handle in crew.handles() {
            let filter = filter.clone();
            let wanted = Box::new(move |seen: &Seen<'_>| filter::fits_packet(&filter, seen));
            let (tap, samples) = tap(request.snaplen as usize, wanted);
            handle.watch(Box::new(tap)).map_err(ManagerError::failed)?;
            taps.push(samples);
        }
        Ok(Watching { taps, stages: request.stages, lost: 0 })
    }

    /// Some of what the taps hold, each worker's in its order. Nothing: there is nothing at present.
    pub fn watched(&self, watching: &mut Watching) -> Vec<WatchEvent> {
        let narrator = Narrator::new(self);
        let mut events = Vec::new();
        for (worker, samples) in watching.taps.iter_mut().enumerate() {
            let tell = |sample: &_| narrator.packet(worker, sample, watching.stages);
            events.extend(std::iter::from_fn(|| samples.next(tell)).take(AT_ONCE).map(packet));
        }
        let lost = watching.taps.iter().map(Samples::lost).sum();
        if lost > watching.lost {
            watching.lost = lost;
            events.push(WatchEvent::Lost(lost));
        }
        events
    }
}

fn packet(packet: espalier_api::watch::WatchedPacket) -> WatchEvent {
    WatchEvent::Packet(Box::new(packet))
}

impl Watching {
    /// The first event: every worker looks.
    pub fn begun(&self) -> WatchEvent {
        WatchEvent::Watching { workers: self.taps.len() }
    }

    /// Whether nothing waits to be told.
    pub fn is_empty(&self) -> bool {
        self.taps.iter().all(Samples::is_empty)
    }
}
