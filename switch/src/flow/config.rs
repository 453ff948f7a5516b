//! How large a flow table is and how pods share it. Checked once, when the table is made.
//!
//! Built by the switch from `--max-flows` and its configuration; the table's memory is fixed from then on.

use espalier_api::rule::Family;
use thiserror::Error;

use super::changes::Changes;
use super::entry::Entries;
use super::index::Index;
use super::pod::Pod;
use super::queue::Links;
use super::timeouts::Timeouts;

/// Entries of both pools together; a limit of the index.
const MOST_ENTRIES: u64 = 1 << 30;

/// Size and sharing of one worker's table.
#[derive(Debug, Clone)]
pub struct FlowConfig {
    /// Pods the worker can have: slots 0 to `pods - 1`.
    pub pods: u16,
    /// The IPv4 flows.
    pub ipv4: PoolConfig,
    /// The IPv6 flows.
    pub ipv6: PoolConfig,
    /// TCP connections of one pod that may be half-open; one more ends the oldest of them.
    pub half_open_per_pod: u32,
    /// 128 random bits, new at each start, that make hash collisions unpredictable.
    pub seed: [u64; 2],
    /// Timeouts of pods that are given no others.
    pub timeouts: Timeouts,
}

/// Size and sharing of one family's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// Flows in all.
    pub flows: u32,
    /// The most that one pod may hold.
    pub pod_quota: u32,
    /// What every pod can hold whatever the others do; `pods` × this are never given to anyone else.
    pub pod_reserve: u32,
}

/// A configuration that no table can be made from.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FlowConfigError {
    /// No pod at all.
    #[error("pods is 0; a flow table needs room for at least one pod")]
    NoPods,
    /// A pool without entries.
    #[error("the {family} flow table has 0 entries; give it at least 1")]
    NoFlows {
        /// Of which family.
        family: Family,
    },
    /// More entries than the table can number.
    #[error("{flows} flows are too many for one worker; the most is {MOST_ENTRIES} (IPv4 and IPv6 together)")]
    TooManyFlows {
        /// What was asked for.
        flows: u64,
    },
    /// A quota of none or of more than there is.
    #[error("the {family} pod quota is {quota}; it must be 1 to {flows}, the size of the table")]
    Quota {
        /// Of which family.
        family: Family,
        /// What was asked for.
        quota: u32,
        /// Size of the table.
        flows: u32,
    },
    /// Reserves that add up to more than there is, or a reserve over the quota.
    #[error(
        "a {family} reserve of {reserve} for each of {pods} pods does not fit: all reserves together must be at most \
         {flows}, the size of the table, and one at most the quota of {quota}; lower it or raise --max-flows"
    )]
    Reserve {
        /// Of which family.
        family: Family,
        /// What was asked for.
        reserve: u32,
        /// Number of pods.
        pods: u16,
        /// Size of the table.
        flows: u32,
        /// The quota.
        quota: u32,
    },
    /// No half-open connection allowed.
    #[error("half_open_per_pod is 0, so no TCP connection could open; give it at least 1")]
    NoHalfOpen,
    /// The system refused the memory.
    #[error("{bytes} bytes for the flow table were refused; lower --max-flows")]
    Memory {
        /// What was asked for.
        bytes: u64,
    },
}

impl FlowConfig {
    /// A table for `max_flows` IPv4 flows and a quarter as many IPv6 flows. A pod may hold half of each; a quarter of
    /// each is reserved in equal parts.
    pub fn sized(max_flows: u32, pods: u16, seed: [u64; 2]) -> Self {
        let pool = |flows: u32| PoolConfig {
            flows,
            pod_quota: flows.div_ceil(2),
            pod_reserve: flows / 4 / u32::from(pods.max(1)),
        };
        Self {
            pods,
            ipv4: pool(max_flows),
            ipv6: pool(max_flows.div_ceil(4)),
            half_open_per_pod: (max_flows / 16).clamp(1, 16_384),
            seed,
            timeouts: Timeouts::default(),
        }
    }

    /// Entries for IPv4 and IPv6: more than there may be flows, so that one is free near where a flow belongs.
    pub fn entries(&self) -> [u32; 2] {
        [self.ipv4.flows, self.ipv6.flows].map(Index::entries)
    }

    /// What the table will occupy: compare it with the memory there is before making one, because the kernel hands
    /// out more than it has.
    pub fn memory_bytes(&self) -> u64 {
        let [v4, v6] = self.entries();
        let entries = (v4 + v6) as usize;
        let bytes = Entries::bytes([v4, v6])
            + Index::bytes(v4 + v6)
            + entries * Links::BYTES_EACH
            + Changes::bytes(entries)
            + usize::from(self.pods) * size_of::<Pod>();
        bytes as u64
    }

    pub(super) fn check(&self) -> Result<(), FlowConfigError> {
        if self.pods == 0 {
            return Err(FlowConfigError::NoPods);
        }
        let flows = u64::from(self.ipv4.flows) + u64::from(self.ipv6.flows);
        if flows > MOST_ENTRIES {
            return Err(FlowConfigError::TooManyFlows { flows });
        }
        for (family, pool) in [(Family::V4, self.ipv4), (Family::V6, self.ipv6)] {
            let PoolConfig { flows, pod_quota: quota, pod_reserve: reserve } = pool;
            if flows == 0 {
                return Err(FlowConfigError::NoFlows { family });
            }
            if quota == 0 || quota > flows {
                return Err(FlowConfigError::Quota { family, quota, flows });
            }
            let reserved = u64::from(reserve) * u64::from(self.pods);
            if reserved > flows.into() || reserve > quota {
                return Err(FlowConfigError::Reserve { family, reserve, pods: self.pods, flows, quota });
            }
        }
        if self.half_open_per_pod == 0 {
            return Err(FlowConfigError::NoHalfOpen);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_named_with_its_value() {
        let good = FlowConfig::sized(1000, 10, [1, 2]);
        assert_eq!(good.check(), Ok(()));
        let error = |change: fn(&mut FlowConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(error(|config| config.pods = 0).starts_with("pods is 0"));
        assert!(error(|config| config.ipv6.flows = 0).contains("IPv6 flow table has 0 entries"));
        assert!(error(|config| config.ipv4.flows = u32::MAX).starts_with("4294967545 flows are too many"));
        assert!(error(|config| config.ipv4.pod_quota = 1001).contains("quota is 1001; it must be 1 to 1000"));
        assert!(error(|config| config.ipv4.pod_reserve = 101).contains("reserve of 101 for each of 10 pods"));
        assert!(error(|config| config.half_open_per_pod = 0).contains("half_open_per_pod is 0"));
    }

    #[test]
    fn a_million_ipv4_flows_take_at_most_96_bytes_each() {
        let mut config = FlowConfig::sized(1 << 20, 1024, [1, 2]);
        let both = config.memory_bytes();
        config.ipv6.flows = 0;
        let v4 = config.memory_bytes();
        assert!(v4 <= 96 << 20, "{v4}");
        assert!(both > v4);
    }
}
