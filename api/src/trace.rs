//! "What would become of this packet?": a packet injected into a copy of the running tables, and every stage it met.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `POST /v1/trace` | [`TraceRequest`] | [`Trace`] |
//!
//! Nothing leaves the node and nothing is counted.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::explain::{QueryProtocol, Verdict};
use crate::ids::{Generation, GroupId, PodName, RuleId};
use crate::rule::Direction;

/// The packet. Fields that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TraceRequest {
    /// The pod.
    pub pod: PodName,
    /// To or from it.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or an IP protocol number.
    pub protocol: QueryProtocol,
    /// The other end.
    pub remote: IpAddr,
    /// The pod's address; the first of the remote's family unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// Destination port (TCP, UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source port (TCP, UDP); [`DEFAULT_SOURCE_PORT`] unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The flags of TCP; SYN alone unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<TcpFlags>,
    /// ICMP type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Bytes of payload.
    #[serde(default)]
    pub payload: u16,
}

/// The source port of a packet that is given none: the first of Linux's ephemeral ports.
pub const DEFAULT_SOURCE_PORT: u16 = 32768;

/// The flag byte of TCP, written as names: `syn`, `syn,ack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

const FLAGS: [(&str, u8); 6] = [("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32)];

impl TcpFlags {
    /// SYN alone.
    pub const SYN: Self = Self(2);
}

impl std::str::FromStr for TcpFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut flags = 0;
        for word in text.split(',').filter(|word| *word != "none") {
            let known = FLAGS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
            let (_, bit) = known.ok_or_else(|| {
                format!("TCP flag {word:?} is unknown: expected fin, syn, rst, psh, ack and urg, separated by commas, or none")
            })?;
            flags |= bit;
        }
        Ok(Self(flags))
    }
}

impl std::fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> =
            FLAGS.iter().filter(|(_, bit)| self.0 & bit != 0).map(|(name, _)| *name).collect();
        f.pad(&if names.is_empty() { "none".to_owned() } else { names.join(",") })
    }
}

impl Serialize for TcpFlags {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TcpFlags {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What would become of the packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// Whether it would reach the port it is for.
    pub verdict: Verdict,
    /// The drop reason, if not.
    pub reason: Option<String>,
    /// The port it would leave by.
    pub port: Option<String>,
    /// The packet, in a line.
    pub packet: String,
    /// The generation of the rules.
    pub generation: Generation,
    /// Every stage it met, in order.
    pub stages: Vec<Stage>,
}

/// A stage of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageName {
    /// The steering program: which port, with or without a tag.
    Steer,
    /// The headers.
    Parse,
    /// MAC and source/destination check.
    Guard,
    /// The flow table.
    Track,
    /// The security groups.
    Judge,
    /// Next hop and port.
    Forward,
}

impl StageName {
    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Parse => "parse",
            Self::Guard => "guard",
            Self::Track => "track",
            Self::Judge => "judge",
            Self::Forward => "forward",
        }
    }
}

/// What one stage read and decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Which.
    pub stage: StageName,
    /// The worker it ran at.
    pub worker: usize,
    /// The pod whose policy it is about, and its direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// Towards that pod or from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// What it read, in words.
    pub read: String,
    /// What it decided, in words.
    pub decided: String,
    /// Whether the packet went on.
    pub passed: bool,
    /// The rule that decided, where it has an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The group of that rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_names() {
        for (text, bits) in [("syn", 2), ("syn,ack", 18), ("none", 0), ("ACK,FIN", 17)] {
            assert_eq!(text.parse::<TcpFlags>().unwrap().0, bits);
        }
        assert_eq!(TcpFlags(18).to_string(), "syn,ack");
        assert!("sin".parse::<TcpFlags>().unwrap_err().contains("expected fin, syn"));
    }
}
