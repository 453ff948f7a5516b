//! The flows a switch tracks, as `espalier flows` lists, counts and drops them.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `POST /v1/flows` | [`FlowListing`] | [`FlowPage`] |
//! | `POST /v1/flows/count` | [`FlowFilter`] | [`FlowCount`] |
//! | `POST /v1/flows/drop` | [`FlowFilter`] | [`FlowsDropped`] |
//!
//! A listing is paged by table entries, not by flows: a page may hold fewer flows than its limit, and is the last only
//! if it has no `next`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::explain::QueryProtocol;
use crate::filter::Filter;
use crate::ids::{GroupId, PodName, RuleId};
use crate::rule::Direction;
use crate::snapshot::Address;

/// Which flows are meant: those that fit everything given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Of this pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// With a far end in this address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Address>,
    /// With this port at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Of this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<QueryProtocol>,
    /// In this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FlowState>,
    /// Allowed by this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// Fitting this filter; its words about single packets are refused.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
}

/// Asks for a part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowListing {
    /// Which flows.
    #[serde(default)]
    pub filter: FlowFilter,
    /// Where to go on: [`FlowPage::next`] of the page before, 0 to begin with.
    #[serde(default)]
    pub cursor: u32,
    /// Table entries to look at; the switch looks at 4096 at most.
    #[serde(default = "most_entries")]
    pub limit: u32,
}

fn most_entries() -> u32 {
    4096
}

macro_rules! states {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Where a flow stands.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum FlowState {
            $($(#[doc = $doc])+ #[serde(rename = $label)] $name,)+
        }

        impl FlowState {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

states! {
    /// TCP: the initiator's SYN was seen.
    SynSent = "syn-sent",
    /// TCP: the other end has answered it.
    SynReceived = "syn-received",
    /// TCP: first seen in mid-stream, nothing from the other end yet.
    PickedUp = "picked-up",
    /// TCP: both ends take part.
    Established = "established",
    /// TCP: one end has sent its FIN.
    HalfClosed = "half-closed",
    /// TCP: both ends have sent a FIN.
    Closing = "closing",
    /// TCP: an end has sent a RST.
    Reset = "reset",
    /// UDP: up to one request and response.
    Udp = "udp",
    /// UDP: more than that.
    UdpStream = "udp-stream",
    /// ICMP or ICMPv6.
    Icmp = "icmp",
    /// Any other protocol.
    Other = "other",
    /// Untracked, as EC2 calls it: allowed both ways by rules for every address.
    Untracked = "untracked",
    /// The rules that allowed it are gone: its packets are dropped.
    Revoked = "revoked",
}

impl std::fmt::Display for FlowState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.label())
    }
}

impl std::str::FromStr for FlowState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|state| state.label() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|state| state.label()).collect();
            format!("state {text:?} is unknown: expected one of {}", known.join(", "))
        })
    }
}

/// One flow, seen from its pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The pod.
    pub pod: PodName,
    /// Direction of its first packet.
    pub direction: Direction,
    /// Protocol.
    pub protocol: QueryProtocol,
    /// The pod's address.
    pub local: IpAddr,
    /// The pod's port (TCP, UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// The far end's address.
    pub remote: IpAddr,
    /// The far end's port (TCP, UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// Identifier (ICMP queries).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_id: Option<u16>,
    /// Where it stands.
    pub state: FlowState,
    /// The rule that allowed it; absent where it has no id or is of before a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The group of that rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Packets to the pod.
    pub ingress_packets: u64,
    /// Bytes to the pod.
    pub ingress_bytes: u64,
    /// Packets from the pod.
    pub egress_packets: u64,
    /// Bytes from the pod.
    pub egress_bytes: u64,
    /// Milliseconds since its first packet.
    pub age_ms: u64,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
}

/// A part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowPage {
    /// The flows.
    pub flows: Vec<Flow>,
    /// The cursor of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// How many flows there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowCount {
    /// Flows that fit the filter.
    pub flows: u64,
    /// Of those, by state. Only states that occur are listed.
    pub by_state: BTreeMap<FlowState, u64>,
    /// Of those, by pod. Only pods that have some are listed.
    pub by_pod: BTreeMap<PodName, u64>,
}

/// Reply to a drop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsDropped {
    /// Flows that are no more.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_they_are_read() {
        for state in FlowState::ALL {
            assert_eq!(state.label().parse(), Ok(*state));
            assert_eq!(serde_json::to_string(state).unwrap(), format!("{:?}", state.label()));
        }
        assert!("open".parse::<FlowState>().unwrap_err().contains("established"));
    }
}
