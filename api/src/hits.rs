//! What rules have let pass: the words of `GET /v1/rules` and of the listings of rules and groups.
//!
//! Each packet that a pod's policy let pass counts once, for the rule that its flow is under: one between two pods of the
//! node for a rule of each. Counts begin at zero with the switch and never go back.

use serde::{Deserialize, Serialize};

use crate::ids::GroupId;
use crate::rule::SecurityGroupRule;

/// What a rule, or all rules of a group, let pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleHits {
    /// Packets in the rule's direction.
    pub packets: u64,
    /// Bytes of those, Ethernet header included.
    pub bytes: u64,
    /// Packets in the other direction, of flows that the rule allowed.
    pub reply_packets: u64,
    /// Bytes of those.
    pub reply_bytes: u64,
    /// Flows begun.
    pub flows: u64,
    /// Flows that the rule allowed, but that were refused for want of room in the flow table.
    pub refused_flows: u64,
    /// Milliseconds since the last packet, to 64; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_hit_ms: Option<u64>,
}

impl RuleHits {
    /// Packets both ways.
    pub fn all_packets(&self) -> u64 {
        self.packets + self.reply_packets
    }

    /// Whether something was let pass in the last so many milliseconds.
    pub fn within(&self, ms: u64) -> bool {
        self.last_hit_ms.is_some_and(|last| last <= ms)
    }
}

/// A rule in force and what it let pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleUse {
    /// The group it comes from.
    pub group: GroupId,
    /// The rule.
    pub rule: SecurityGroupRule,
    /// Pods of this node that have the group.
    pub pods: usize,
    /// Seconds that the switch has had the rule.
    pub known_seconds: u64,
    /// What it let pass.
    pub hits: RuleHits,
}

/// Reply to `GET /v1/rules`: all that was let pass, by rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleUsage {
    /// Seconds since the switch began to count.
    pub counting_seconds: u64,
    /// The rules in force, group by group.
    pub rules: Vec<RuleUse>,
    /// What passed by rules that are gone.
    pub gone: RuleHits,
    /// What passed without a rule: services that are never filtered, fragments of packets that made no flow.
    pub without_rule: RuleHits,
    /// What passed in flows from before the switch started, whose rules it does not know.
    pub earlier: RuleHits,
    /// Whether a worker did not answer, so that these are the counts of an earlier moment.
    #[serde(default)]
    pub stale: bool,
}
