//! The in-kernel engine: the kernel makes the frames from templates and sends them (espalier-xsk `LiveFrames`).
//!
//! Far cheaper a frame than a socket, and with no back-pressure: a driver that has no room drops. Every call of the
//! kernel costs a grace period, so each asks for half a million turns; pacing happens inside, by turns that send nothing.

use espalier_xsk::{InterfaceRef, LiveFrames, LiveOrder};

use super::{Order, Sent, Watch};
use crate::clock;
use crate::error::PktgenError;
use crate::rate::SLACK;
use crate::traffic::Plan;

/// Turns of one call.
const REPEATS: u32 = 500_000;

/// Frames between two flushes: the ring of a veth has room for 256.
const BATCH: u32 = 64;

/// Delay of the first frame: the call must be under way by then, or the run begins with a burst.
const LEAD: u64 = 200_000;

/// The engine.
#[derive(Debug)]
pub struct Live {
    frames: LiveFrames,
    interface: InterfaceRef,
    mean_length: f64,
}

impl Live {
    /// Sends the plan out of an interface of the calling thread's namespace.
    pub fn new(interface: InterfaceRef, plan: &Plan) -> Result<Self, PktgenError> {
        let frames = LiveFrames::load(&interface, &plan.templates)?;
        Ok(Self { frames, interface, mean_length: plan.mean_length() })
    }

    pub(super) fn send(&mut self, order: &Order, watch: &Watch) -> Result<Sent, PktgenError> {
        let start = clock::now() + LEAD;
        let length = order.duration.map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let deadline = start.saturating_add(length);
        let frames = order.frames.unwrap_or(u64::MAX);
        let interval = order.rate.interval(self.mean_length);
        let before = self.left_the_interface();
        self.frames.order(&LiveOrder {
            mark: order.run.mark(),
            frames,
            interval,
            slack: SLACK,
            start,
            deadline,
        })?;
        let mut progress = self.frames.progress()?;
        while progress.frames < frames && clock::now() < deadline && !watch.stopped() {
            self.frames.run(REPEATS, BATCH)?;
            let now = self.frames.progress()?;
            watch.add(now.frames - progress.frames);
            progress = now;
            if progress.failed > 0 {
                return Err(PktgenError::Usage(format!(
                    "the kernel could not make a live frame for {}: use --engine af-xdp",
                    self.interface.name
                )));
            }
        }
        if progress.frames > 0 && before.is_some() && before == self.left_the_interface() {
            return Err(PktgenError::NothingLeft {
                frames: progress.frames,
                interface: self.interface.name.clone(),
            });
        }
        Ok(Sent {
            run: order.run,
            frames: progress.frames,
            bytes: progress.bytes,
            elapsed: progress.last.saturating_sub(start),
        })
    }

    /// Packets that left the interface so far, by its own counter.
    fn left_the_interface(&self) -> Option<u64> {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
        let of = |line: &str| {
            let (name, numbers) = line.split_once(':')?;
            (name.trim() == self.interface.name).then(|| numbers.split_whitespace().nth(9)?.parse().ok())?
        };
        table.lines().find_map(of)
    }
}
