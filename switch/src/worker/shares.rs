//! How many frames each port may hold to receive into. The worker asks before it refills a port.
//!
//! A fill ring cannot be emptied: an idle port keeps what it was given. So what each pod is sure of, those yet to come
//! included, is never given to another, and what lies beyond is given in parts that shrink as it runs out.

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

/// The limits of one worker's ports, in frames.
#[derive(Debug, Clone)]
pub(super) struct FrameShares {
    trunk: usize,
    most: usize,
    all_pods: usize,
    least: usize,
    for_sending: usize,
    slots: usize,
    attached: usize,
}

impl FrameShares {
    /// Of `total` frames, for at most `slots` pods; nothing where that is too few.
    pub(super) fn new(config: &FillConfig, total: usize, slots: u16) -> Option<Self> {
        let slots = usize::from(slots);
        let least = (total / 2 / slots.max(1)).min(LEAST);
        (least >= LEAST_OF_ALL).then(|| Self {
            trunk: (config.trunk as usize).min(total / 4),
            most: (config.pod as usize).max(least),
            all_pods: config.pods as usize,
            least,
            for_sending: total / FOR_SENDING,
            slots,
            attached: 0,
        })
    }

    /// So many pods' ports are there now.
    pub(super) fn set_attached(&mut self, pods: usize) {
        self.attached = pods;
    }

    /// What the trunk's port may hold.
    pub(super) fn of_trunk(&self) -> usize {
        self.trunk
    }

    /// What a pod's port may hold that holds `held` after it received so many packets, while so many frames are free.
    pub(super) fn of_pod(&self, held: usize, received: usize, free: usize) -> usize {
        let reserved = self.for_sending + self.least * self.slots.saturating_sub(self.attached);
        let part = (free.saturating_sub(reserved) / PART).min(received.saturating_mul(PER_PACKET));
        let share = (self.all_pods / self.attached.max(1)).clamp(self.least, self.most);
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
        FrameShares::new(&DEFAULT, total, slots).unwrap()
    }

    #[test]
    fn pods_that_come_one_by_one_and_stay_idle_leave_enough_for_all_and_for_sending() {
        for (total, slots) in [(32_768, 256), (32_768, 1), (4096, 256), (1024, 16)] {
            let mut shares = shares(total, slots);
            let mut free = total - shares.of_trunk();
            let mut given = Vec::new();
            for attached in 1..=usize::from(slots) {
                shares.set_attached(attached);
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
        let mut shares = shares(32_768, 256);
        shares.set_attached(2);
        let (mut held, mut free) = (64, 32_768 - shares.of_trunk());
        assert_eq!(shares.of_pod(held, 1, free), 68, "one packet is no reason for more");
        for _ in 0..20 {
            let target = shares.of_pod(held, 64, free);
            free -= target - held;
            held = target;
        }
        assert_eq!(held, 2048);
        shares.set_attached(28);
        assert_eq!(shares.of_pod(held, 64, free), 14_336 / 28, "it gives back as packets come");
    }

    #[test]
    fn too_few_frames_for_the_pods_are_refused() {
        assert!(FrameShares::new(&DEFAULT, 1024, 256).is_none());
        assert!(FrameShares::new(&DEFAULT, 4096, 256).is_some());
    }
}
