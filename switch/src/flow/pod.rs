//! What each pod holds of the table, and how a pool is shared: quota and reserve.
//!
//! Only the table calls this. `free >= unclaimed` always holds, so a pod below its reserve always finds a free entry.

use super::Refused;
use super::config::PoolConfig;
use super::queue::Fifo;
use super::state::Class;
use super::timeouts::Timeouts;

/// One pod's queues and counts.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Pod {
    /// Timeouts in ticks, by class; first, because every packet reads it.
    pub(super) ticks: [u32; Class::COUNT],
    /// Entries held, by `Family as usize`.
    pub(super) used: [u32; 2],
    /// The pod's flows of each class, longest queued first.
    pub(super) queues: [Fifo; Class::COUNT],
    pub(super) timeouts: Timeouts,
}

impl Pod {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self { ticks: timeouts.ticks(), used: [0; 2], queues: [Fifo::EMPTY; Class::COUNT], timeouts }
    }

    pub(super) fn len(&self) -> u32 {
        self.used[0] + self.used[1]
    }

    pub(super) fn half_open(&self) -> u32 {
        self.queues[Class::HalfOpen as usize].len()
    }
}

/// The free entries of one family and who may have them.
pub(super) struct Pool {
    config: PoolConfig,
    free: u32,
    /// What pods below their reserve can still claim.
    unclaimed: u32,
}

impl Pool {
    pub(super) fn new(config: PoolConfig, pods: u16) -> Self {
        Self { config, free: config.flows, unclaimed: config.pod_reserve * u32::from(pods) }
    }

    /// Entries in use.
    pub(super) fn taken(&self) -> u32 {
        self.config.flows - self.free
    }

    /// Whether a pod that holds `used` entries may have one more.
    pub(super) fn room(&self, used: u32) -> Result<(), Refused> {
        if used >= self.config.pod_quota {
            Err(Refused::PodQuota)
        } else if used < self.config.pod_reserve || self.free > self.unclaimed {
            Ok(())
        } else {
            Err(Refused::Full)
        }
    }

    /// Books an entry on a pod's count.
    pub(super) fn take(&mut self, used: &mut u32) {
        if *used < self.config.pod_reserve {
            self.unclaimed -= 1;
        }
        *used += 1;
        self.free -= 1;
    }

    /// Takes an entry off a pod's count.
    pub(super) fn give_back(&mut self, used: &mut u32) {
        *used -= 1;
        self.free += 1;
        if *used < self.config.pod_reserve {
            self.unclaimed += 1;
        }
    }
}
