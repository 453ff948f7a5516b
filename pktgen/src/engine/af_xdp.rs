//! The AF_XDP engine: writes each frame into the UMEM and lets the kernel send it, in batches.
//!
//! May receive on the same sockets between two batches, since a queue has room for one socket only: that is how the
//! sender of a reflected run sees its frames again.

use std::sync::Arc;
use std::time::Duration;

use espalier_xsk::LiveTemplate;

use super::{Order, Sent, Watch};
use crate::clock;
use crate::error::PktgenError;
use crate::rate::Pacer;
use crate::received::Shared;
use crate::stamp::{STAMP_LEN, Stamp};
use crate::station::Station;
use crate::traffic::Plan;

/// How long the kernel may take no frame before the run is given up.
const STALLED: Duration = Duration::from_secs(5);

/// A sender with more time than this before the next frame sleeps; waking up takes some tens of microseconds.
const SLEEP_FROM: u64 = 150_000;
const WAKE_BEFORE: u64 = 100_000;
/// The longest sleep: the stop flag is looked at in between.
const LONGEST_SLEEP: u64 = 20_000_000;
/// The same for a sender that receives too.
const ECHO_SLEEP: u64 = 50_000;

/// The engine on its station.
#[derive(Debug)]
pub struct AfXdp {
    station: Station,
    plan: Plan,
    echo: Option<Arc<Shared>>,
}

/// Where a run stands.
struct Turn {
    pacer: Pacer,
    made: u64,
    bytes: u64,
    last: u64,
    moved: u64,
}

impl AfXdp {
    /// Sends the plan from this station; what comes back on it goes into `echo`.
    #[must_use]
    pub fn new(station: Station, plan: Plan, echo: Option<Arc<Shared>>) -> Self {
        Self { station, plan, echo }
    }

    pub(super) fn send(&mut self, order: &Order, watch: &Watch) -> Result<Sent, PktgenError> {
        let start = clock::now();
        let pacer = Pacer::new(start, order.rate.interval(self.plan.mean_length()));
        let mut turn = Turn { pacer, made: 0, bytes: 0, last: start, moved: start };
        let frames = order.frames.unwrap_or(u64::MAX);
        let length = order.duration.map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let end = start.saturating_add(length);
        loop {
            let now = clock::now();
            if now >= end || turn.made >= frames || watch.stopped() {
                break;
            }
            let left = usize::try_from(frames - turn.made).unwrap_or(usize::MAX);
            let count = turn.pacer.take(now, self.station.room().min(left));
            self.make(order, &mut turn, count, now);
            let waiting = self.station.unsent();
            let pushed = if waiting > 0 { self.station.push()? } else { 0 };
            watch.add(pushed as u64);
            self.notice(&mut turn, now, waiting)?;
            if self.idle()? == 0 && count == 0 && self.station.unsent() == 0 {
                self.pause(turn.pacer.until_due(clock::now()).min(end.saturating_sub(now)));
            }
        }
        self.drain(&mut turn, watch)?;
        Ok(Sent { run: order.run, frames: turn.made, bytes: turn.bytes, elapsed: turn.last - start })
    }

    /// Takes in what came back, if this engine receives.
    pub(super) fn idle(&mut self) -> Result<usize, PktgenError> {
        Ok(self.echo.as_ref().map_or(0, |echo| echo.take(&mut self.station)))
    }

    fn make(&mut self, order: &Order, turn: &mut Turn, count: usize, now: u64) {
        let templates = &self.plan.templates;
        for _ in 0..count {
            let template = &templates[(turn.made % templates.len() as u64) as usize];
            let stamp = Stamp { run: order.run, flow: template.flow, sequence: turn.made, time: now };
            queue(&mut self.station, template, stamp);
            turn.made += 1;
            turn.bytes += u64::from(template.length);
            turn.last = now;
        }
    }

    /// Gives up when frames wait and none has moved for long.
    fn notice(&self, turn: &mut Turn, now: u64, waiting: usize) -> Result<(), PktgenError> {
        if self.station.unsent() < waiting || waiting == 0 {
            turn.moved = now;
        } else if now - turn.moved > STALLED.as_nanos() as u64 {
            let interface = self.station.interface().name.clone();
            return Err(PktgenError::Stalled { interface, seconds: STALLED.as_secs() });
        }
        Ok(())
    }

    /// Waits until the kernel has taken every frame that was made.
    fn drain(&mut self, turn: &mut Turn, watch: &Watch) -> Result<(), PktgenError> {
        turn.moved = clock::now();
        while self.station.unsent() > 0 {
            let waiting = self.station.unsent();
            watch.add(self.station.push()? as u64);
            self.notice(turn, clock::now(), waiting)?;
            self.idle()?;
        }
        turn.last = turn.last.max(turn.moved);
        Ok(())
    }

    fn pause(&self, until_due: u64) {
        if until_due < SLEEP_FROM {
            return std::hint::spin_loop();
        }
        let longest = if self.echo.is_some() { ECHO_SLEEP } else { LONGEST_SLEEP };
        std::thread::sleep(Duration::from_nanos((until_due - WAKE_BEFORE).min(longest)));
    }
}

fn queue(station: &mut Station, template: &LiveTemplate, stamp: Stamp) {
    let length = usize::from(template.length);
    let head = &template.head[..LiveTemplate::HEAD.min(length)];
    let at = usize::from(template.stamp);
    station.queue(head, length, |bytes| {
        if let Some(place) = bytes.get_mut(at..at + STAMP_LEN) {
            place.copy_from_slice(&stamp.to_bytes());
        }
    });
}
