//! How many frames each port may hold to receive into. The worker asks before it refills a port.
//!
//! A fill ring cannot be emptied: an idle port keeps what it was given. So what each pod is sure of, those yet to come
//! included, is never given to another, and what lies beyond is given in parts that shrink as it runs out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::FillConfig;

/// A pod's port is sure of this many, where there are frames enough.
const LEAST: usize = 64;
/// Below this a port loses more than it gets: a jumbo packet takes three.
const LEAST_OF_ALL: usize = 8;
/// Part of all frames that is kept for sending.
const FOR_SENDING: usize = 8;
/// Part of what lies beyond all reserves that one refill may take.
const PART: usize = 4;
/// A refill takes at most this many for each packet that came: those who receive little need little.
const PER_PACKET: usize = 4;

/// There are not frames enough for the pods there is place for.
#[derive(Debug, thiserror::Error)]
#[error("fewer than 16 frames for each pod there is place for: raise --frames or lower --max-pods")]
pub struct SharesError;

/// How many workers there are, and how many pods' ports they have together. Changes only when a port comes or goes.
#[derive(Debug)]
pub(super) struct Population {
    workers: usize,
    attached: AtomicUsize,
}

impl Population {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers, attached: AtomicUsize::new(0) })
    }
}

/// What each of so many pods' ports is sure of.
pub(super) fn least(total: usize, slots: u16) -> Result<usize, SharesError> {
    let least = (total / 2 / usize::from(slots.max(1))).min(LEAST);
    if least < LEAST_OF_ALL { Err(SharesError) } else { Ok(least) }
}

/// The limits of one worker's ports, in frames.
#[derive(Debug, Clone)]
pub(super) struct FrameShares {
    trunk: usize,
    all_trunk: usize,
    most: usize,
    all_pods: usize,
    least: usize,
    for_sending: usize,
    slots: usize,
    population: Arc<Population>,
}

impl FrameShares {
    /// Of `total` frames, for at most `slots` pods.
    pub(super) fn new(
        config: &FillConfig,
        total: usize,
        slots: u16,
        population: Arc<Population>,
    ) -> Result<Self, SharesError> {
        let least = least(total, slots)?;
        let slots = usize::from(slots);
        Ok(Self {
            trunk: (config.trunk as usize).min(total / 4),
            all_trunk: total / 4,
            most: (config.pod as usize).max(least),
            all_pods: config.pods as usize,
            least,
            for_sending: total / FOR_SENDING,
            slots,
            population,
        })
    }

    /// A pod's port came.
    pub(super) fn attached(&self) {
        self.population.attached.fetch_add(1, Ordering::Relaxed);
    }

    /// A pod's port went.
    pub(super) fn detached(&self) {
        self.population.attached.fetch_sub(1, Ordering::Relaxed);
    }

    /// The trunk has so many queues, each with a port of its own.
    pub(super) fn set_trunk_queues(&mut self, queues: usize) {
        self.trunk = self.trunk.min(self.all_trunk / queues.max(1));
    }

    /// What a port of the trunk may hold.
    pub(super) fn of_trunk(&self) -> usize {
        self.trunk
    }

    /// What a pod's port may hold that holds `held` after it received so many packets, while so many frames are free.
    pub(super) fn of_pod(&self, held: usize, received: usize, free: usize) -> usize {
        let attached = self.population.attached.load(Ordering::Relaxed);
        let reserved = self.for_sending + self.least * self.slots.saturating_sub(attached);
        // Others may take at the same moment: all of them together must leave something.
        let part = PART.max(2 * self.population.workers);
        let part = (free.saturating_sub(reserved) / part).min(received.saturating_mul(PER_PACKET));
        let share = (self.all_pods / attached.max(1)).clamp(self.least, self.most);
        share.min(held + part).max(self.least)
    }

    /// Whether a port that holds so few may become deaf, and must be looked at until there are frames again.
    pub(super) fn is_starved(&self, held: usize) -> bool {
        held < self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: FillConfig = FillConfig { trunk: 2048, pod: 2048, pods: 14_336 };

    fn shares(total: usize, slots: u16) -> FrameShares {
        FrameShares::new(&DEFAULT, total, slots, Population::new(1)).unwrap()
    }

    #[test]
    fn pods_that_come_one_by_one_and_stay_idle_leave_enough_for_all_and_for_sending() {
        for (total, slots) in [(32_768, 256), (32_768, 1), (4096, 256), (1024, 16)] {
            let shares = shares(total, slots);
            let mut free = total - shares.of_trunk();
            let mut given = Vec::new();
            for _ in 1..=usize::from(slots) {
                shares.attached();
                let target = shares.of_pod(0, usize::MAX, free);
                assert!(target >= shares.least && target <= free, "{total} {slots}: {target} of {free}");
                free -= target;
                given.push(target);
            }
            assert!(free >= total / FOR_SENDING, "{total} {slots}: {free} left");
            assert!(given.is_sorted_by(|before, after| before >= after), "{given:?}");
        }
    }

    #[test]
    fn a_busy_port_reaches_its_share_and_no_more() {
        let shares = shares(32_768, 256);
        (0..2).for_each(|_| shares.attached());
        let (mut held, mut free) = (64, 32_768 - shares.of_trunk());
        assert_eq!(shares.of_pod(held, 1, free), 68, "one packet is no reason for more");
        for _ in 0..20 {
            let target = shares.of_pod(held, 64, free);
            free -= target - held;
            held = target;
        }
        assert_eq!(held, 2048);
        (2..28).for_each(|_| shares.attached());
        assert_eq!(shares.of_pod(held, 64, free), 14_336 / 28, "it gives back as packets come");
    }

    #[test]
    fn too_few_frames_for_the_pods_are_refused() {
        let made = |total| FrameShares::new(&DEFAULT, total, 256, Population::new(1)).is_ok();
        assert!(!made(1024) && made(4096));
    }
}
