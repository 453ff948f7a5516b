//! Connection tracking: one entry per flow, both directions, owned by one worker.
//!
//! The step calls this for every packet: `Lookups`, then `pass_steady` for the usual one, `on_packet` on any other hit, or
//! its own verdict and `insert` on a miss. Packet facts, keys and time in; decisions out: no clock, no I/O, and no
//! allocation after [`FlowTable::new`].
//! Semantics are EC2's (user guide, "security group connection tracking"); what EC2 leaves open is said where it is decided.

mod aging;
mod changes;
mod config;
mod entry;
pub mod fragment;
mod index;
mod key;
mod ledger;
mod listing;
mod lookup;
mod memory;
mod pod;
mod queue;
pub mod related;
mod state;
pub mod state_file;
mod table;
mod time;
mod timeouts;

use espalier_api::rule::Direction;

pub use changes::{Change, ChangePage};
pub use config::{FlowConfig, FlowConfigError, PoolConfig};
pub use key::{FlowKey, PodSlot, Selector};
pub use ledger::{Accounts, RuleCounts, RuleKey};
pub use listing::FlowRecord;
pub use lookup::{Lookups, Sought};
pub use state::{FlowState, tcp_flag};
pub use table::FlowTable;
pub use time::Now;
pub use timeouts::{TimeoutError, Timeouts};

/// An entry of the table; good until the next call that inserts or removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowHandle(pub(crate) u32);

/// The answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The flow is known; its timeout is only checked by [`FlowTable::on_packet`].
    Hit(FlowHandle),
    /// The flow is not known.
    Miss,
}

impl Found {
    /// The entry, on a hit.
    pub fn handle(self) -> Option<FlowHandle> {
        match self {
            Self::Hit(handle) => Some(handle),
            Self::Miss => None,
        }
    }
}

/// What the table wants to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketFacts {
    /// Which way it goes.
    pub direction: Direction,
    /// The TCP flag byte; 0 for other protocols.
    pub tcp_flags: u8,
    /// Bytes to account.
    pub bytes: u32,
}

/// A flow that a rule has just allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFlow {
    /// The direction of its first packet, the one that was judged.
    pub initiator: Direction,
    /// The rule that allowed it, in the caller's numbering.
    pub rule: u32,
    /// The generation of the rules it was judged by.
    pub generation: u32,
    /// Whether EC2 would track it (its manner is decided with the verdict).
    pub tracked: bool,
    /// `on-rule-change: revoke`: judge it again when the rules change, although it is tracked.
    pub revoke_on_change: bool,
    /// Its first packet.
    pub first: PacketFacts,
}

/// A renewed verdict on a flow, see [`FlowTable::renew`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The rule that allows it now.
    pub rule: u32,
    /// The generation it was judged by.
    pub generation: u32,
    /// Whether EC2 would track it now.
    pub tracked: bool,
    /// `on-rule-change: revoke`.
    pub revoke_on_change: bool,
}

/// What a packet of a known flow leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It belongs to the flow, which is now in this state: forward it.
    Pass(FlowState),
    /// It belongs to a flow whose rules are gone: drop it.
    Revoked,
    /// The flow was over and its entry is gone: judge the packet in its own direction, as after a miss.
    Over(Over),
}

/// Why a flow was over when a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It had been idle for longer than its timeout.
    Expired,
    /// A SYN came for a TCP connection that had ended: a new one on the same ports.
    Reopened,
    /// The handle was stale: the entry had been given up since the lookup.
    Gone,
}

/// Why a flow got no entry. An untracked flow is then forwarded without one; a tracked flow's packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No entry is free but those reserved for other pods.
    Full,
    /// The pod holds its quota.
    PodQuota,
    /// The slot is beyond the number of pods the table was made for.
    PodUnknown,
}

/// Why a flow of an earlier life was not entered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotRestored {
    /// It has been idle for longer than its timeout.
    Over,
    /// There was no room for it.
    Refused(Refused),
}

/// What happened to the table since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowStats {
    /// Flows entered.
    pub inserted: u64,
    /// Flows that ended by idle timeout.
    pub expired: u64,
    /// Ended connections that a new SYN on the same ports replaced.
    pub reopened: u64,
    /// Flows removed by the caller: dropped by the operator, or with their pod.
    pub removed: u64,
    /// Flows whose rules went.
    pub revoked: u64,
    /// Half-open connections given up for newer ones of the same pod.
    pub evicted_half_open: u64,
    /// Closing or reset connections given up for new flows of the same pod.
    pub evicted_finished: u64,
    /// Entries of untracked flows given up for tracked flows of the same pod.
    pub evicted_untracked: u64,
    /// Flows refused because the table was full.
    pub refused_full: u64,
    /// Flows refused because of the pod's quota.
    pub refused_quota: u64,
}
