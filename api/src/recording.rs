//! What the switch writes down of traffic, and what a shadow snapshot would make of it.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `PUT /v1/shadow` | [`crate::Snapshot`] | [`ShadowStatus`]; from now on it is judged beside the enforced one |
//! | `GET /v1/shadow` | | [`ShadowReport`] |
//! | `DELETE /v1/shadow` | | [`ShadowStatus`] of what was cleared, or `null` |

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::explain::QueryProtocol;
use crate::ids::{Generation, GroupId, PodName, RuleId};
use crate::rule::Direction;

/// State of the flow log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowLogStatus {
    /// Where records go.
    pub file: String,
    /// Records written.
    pub records: u64,
    /// Records that wait to be written.
    pub waiting: u64,
    /// Records that found no room, because the file did not take those before.
    pub records_lost: u64,
    /// Flows and packets that found no room on their way from the workers, or none in the table of an interval.
    pub facts_lost: u64,
    /// Attempts to write that failed.
    pub errors: u64,
}

/// That a shadow snapshot is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowStatus {
    /// Its generation.
    pub generation: Generation,
    /// Seconds since it was set.
    pub seconds: u64,
    /// Pods of the enforced snapshot that it lacks: nothing is said of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods_missing: Vec<PodName>,
}

/// What would change if the shadow were enforced, as far as traffic has shown since it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowReport {
    /// The shadow.
    pub shadow: ShadowStatus,
    /// The generation that is enforced.
    pub enforced: Generation,
    /// Flows that both would let pass.
    pub flows_same: u64,
    /// Packets without a flow on which both agree.
    pub packets_same: u64,
    /// What would be decided otherwise, the most packets first.
    pub changes: Vec<ShadowChange>,
    /// Flows and packets that would be decided otherwise and that found no room in the list.
    pub more: ShadowCounts,
    /// Flows and packets that were lost on their way from the workers.
    pub lost: u64,
}

/// Traffic that would be decided otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowChange {
    /// The pod.
    pub pod: PodName,
    /// The direction of the flow's first packet.
    pub direction: Direction,
    /// What would change.
    pub change: VerdictChange,
    /// The rule that allows it: the enforced one where it would be denied, the shadow's where it would be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The rule's group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// The far end.
    pub remote: IpAddr,
    /// Protocol.
    pub protocol: QueryProtocol,
    /// The port the flow was opened to: the pod's for ingress, the remote's for egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How much of it there was.
    #[serde(flatten)]
    pub counts: ShadowCounts,
    /// Milliseconds since the first.
    pub first_seen_ms: u64,
    /// Milliseconds since the last.
    pub last_seen_ms: u64,
}

/// Flows and packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowCounts {
    /// Flows; what is denied begins none.
    pub flows: u64,
    /// Packets, of flows in both directions.
    pub packets: u64,
}

/// How a verdict would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictChange {
    /// Allowed now, denied then.
    AllowToDeny,
    /// Denied now, allowed then.
    DenyToAllow,
}
