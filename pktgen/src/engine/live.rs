//! The in-kernel engine: the kernel makes the frames from templates and sends them (espalier-xsk `LiveFrames`).
//!
//! Far cheaper a frame than a socket, and with no back-pressure: a driver that has no room drops. Pacing happens inside
//! the kernel, by turns that send nothing. Every call of it begins and ends with a grace period, a pause of 10 to 20 ms
//! each, so a call gets as many turns as an order takes: those that are left when time is up are short. The time of an order
//! begins with the first turn.

use espalier_xsk::{InterfaceRef, LiveFrames, LiveOrder};

use super::{Order, Sent, Watch};
use crate::clock;
use crate::error::PktgenError;
use crate::rate::{INTERVAL_SHIFT, SLACK};
use crate::traffic::Plan;

/// The most that one call is given turns for, in nanoseconds: a stop is obeyed between two.
const LONGEST_CALL: u64 = 1_000_000_000;

/// Nanoseconds of a turn that sends, and of one that waits: less than they take, so that the first call is not too short.
const SENDING: u64 = 200;
const WAITING: u64 = 80;

/// Frames between two flushes: the ring of a veth has room for 256.
const BATCH: u32 = 64;

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
        let length = order.duration.map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let before = self.left_the_interface();
        let meter = self.frames.meter().clone();
        let interval = order.rate.interval(self.mean_length);
        let live = LiveOrder {
            mark: order.run.mark(),
            frames: order.frames.unwrap_or(u64::MAX),
            interval,
            slack: slack(interval),
            length,
        };
        self.frames.order(&live)?;
        watch.follow(&meter);
        let run = self.run(&live, watch);
        let progress = meter.progress();
        watch.settle(&meter, progress.as_ref().map_or(0, |progress| progress.frames));
        run?;
        let progress = progress?;
        if progress.failed > 0 {
            return Err(PktgenError::Usage(format!(
                "the kernel could not make a live frame for {}: use --engine af-xdp",
                self.interface.name
            )));
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
            elapsed: progress.last.saturating_sub(progress.start),
        })
    }

    /// Calls the kernel until the order is carried out, fails or is stopped.
    fn run(&mut self, order: &LiveOrder, watch: &Watch) -> Result<(), PktgenError> {
        let LiveOrder { frames, interval, length, .. } = *order;
        let mut turn = if interval == 0 { SENDING } else { WAITING };
        loop {
            let (now, progress) = (clock::now(), self.frames.meter().progress()?);
            let left = frames.saturating_sub(progress.frames);
            let spent = if progress.start == 0 { 0 } else { now.saturating_sub(progress.start) };
            if left == 0 || progress.failed > 0 || spent >= length || watch.stopped() {
                return Ok(());
            }
            let turns = turns(length - spent, left, interval, turn);
            self.frames.run(turns, BATCH)?;
            turn = ((clock::now() - now) / u64::from(turns)).max(1);
        }
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

/// Nanoseconds of delay that are caught up on: a batch of frames at most. The kernel sends them at several million a second,
/// and what a millisecond owes at a high rate would be more than the rings of a veth hold: loss, and a queue of the sender's
/// own making, each time the machine takes its core.
fn slack(interval: u64) -> u64 {
    SLACK.min(u64::from(BATCH).saturating_mul(interval) >> INTERVAL_SHIFT)
}

/// Turns of one call when so much time and so many frames are left and a turn takes so long, all times in nanoseconds.
fn turns(time: u64, frames: u64, interval: u64, turn: u64) -> u32 {
    let due = match interval {
        0 => frames.saturating_mul(turn),
        _ => frames.saturating_mul(interval) >> INTERVAL_SHIFT,
    };
    let call = time.min(due).min(LONGEST_CALL);
    u32::try_from(call / turn).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rate::Rate;

    const FOREVER: u64 = u64::MAX / 2;

    /// Each call begins and ends with a pause: an order of less than a second is one call, if no turn is shorter than assumed.
    #[test]
    fn a_short_order_is_one_call() {
        for rate in [Rate::Max, Rate::Packets(1e3), Rate::Packets(4e5), Rate::Bits(1e9)] {
            let interval = rate.interval(64.0);
            let turn = if interval == 0 { SENDING } else { WAITING };
            for time in [1, 200, 999].map(|ms| Duration::from_millis(ms).as_nanos() as u64) {
                let turns = u64::from(turns(time, u64::MAX, interval, turn));
                assert!(turns * turn + turn > time, "{rate:?}, {time} ns: {turns}");
            }
            let frames = 100;
            let turns = u64::from(turns(FOREVER, frames, interval, turn));
            let time = if interval == 0 { frames * turn } else { (frames * interval) >> INTERVAL_SHIFT };
            assert!(turns >= frames && turns * turn + turn > time, "{rate:?}: {turns}");
        }
    }

    #[test]
    fn a_late_sender_owes_a_batch_at_most() {
        let of = |pps| slack(Rate::Packets(pps).interval(64.0));
        assert_eq!((of(1e3), of(1e6)), (SLACK, 64_000));
        assert_eq!(slack(u64::MAX), SLACK, "a frame in three days");
    }

    #[test]
    fn a_call_is_no_longer_than_a_stop_may_wait() {
        for (turn, interval) in [(SENDING, 0), (WAITING, 1 << INTERVAL_SHIFT), (1, 0), (u64::MAX, 0)] {
            let turns = u64::from(turns(FOREVER, FOREVER, interval, turn));
            assert!(turns >= 1 && (turns == 1 || turns * turn <= LONGEST_CALL), "{turn}: {turns}");
        }
    }
}
