//! Looking at packets as workers decide them: live traces and captures.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `POST /v1/watch` | [`WatchRequest`] | one [`WatchEvent`] a line, until the reader hangs up |
//!
//! A reader that does not keep up loses packets, which is told; it never slows a worker.

use serde::{Deserialize, Serialize};

use crate::filter::{Fate, Filter};
use crate::ids::{Generation, GroupId, PodName, RuleId};
use crate::rule::Direction;
use crate::trace::Stage;

mod record;

pub use record::Record;

/// Most bytes of a packet that can be had: what lies in its first segment.
pub const MAX_SNAPLEN: u32 = 3840;

/// Which packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WatchRequest {
    /// Those that fit; all unless given.
    #[serde(default)]
    pub filter: Filter,
    /// Bytes of each packet; [`MAX_SNAPLEN`] unless given.
    #[serde(default = "max_snaplen")]
    pub snaplen: u32,
    /// Whether to tell what each stage read and decided.
    #[serde(default)]
    pub stages: bool,
}

fn max_snaplen() -> u32 {
    MAX_SNAPLEN
}

/// A line of the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WatchEvent {
    /// Every worker looks: whatever is decided from now on is shown.
    Watching {
        /// How many workers there are.
        workers: usize,
    },
    /// A packet.
    Packet(Box<WatchedPacket>),
    /// Packets lost so far because the reader did not keep up.
    Lost(u64),
}

/// A packet and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedPacket {
    /// When it was decided, nanoseconds of Unix time.
    pub unix_ns: u64,
    /// By which worker.
    pub worker: usize,
    /// The interface: that which it came by, or, if it was lost on its way out, that which it was to leave by.
    pub interface: String,
    /// Whether it was lost on its way out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outbound: bool,
    /// Whether another worker had it before, whose pod sent it, and showed it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
    /// VLAN of its branch, if it came by the trunk; the tag is not in the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Its length with the Ethernet header.
    pub len: usize,
    /// Its beginning, as it came; base64 in JSON.
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
    /// What became of it.
    pub fate: Fate,
    /// The interface it was to leave by, where that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The generation of the rules.
    pub generation: Generation,
    /// What the policies of up to two pods said.
    pub legs: Vec<WatchedLeg>,
    /// What each stage read and decided, if that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// What a pod's policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedLeg {
    /// The pod.
    pub pod: PodName,
    /// Towards it or from it.
    pub direction: Direction,
    /// Whether it let the packet pass.
    pub passed: bool,
    /// The rule that did, where it has an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The group of that rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Whether it belongs to a flow that was known before.
    pub known: bool,
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_survives_the_way() {
        let packet = WatchedPacket {
            unix_ns: 1,
            worker: 0,
            interface: "eth1".into(),
            outbound: false,
            handed_over: false,
            vlan: Some(7),
            len: 3,
            data: vec![0, 255, 7],
            fate: Fate::Drop,
            to: None,
            reason: Some("denied-ingress".into()),
            generation: Generation(4),
            legs: Vec::new(),
            stages: Vec::new(),
        };
        let event = WatchEvent::Packet(Box::new(packet));
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains(r#""data":"AP8H""#) && text.contains(r#""fate":"drop""#), "{text}");
        assert_eq!(serde_json::from_str::<WatchEvent>(&text).unwrap(), event);
    }
}
