//! "Would this packet pass, and which rule decides?": the question and the answer, one JSON object a line.
//!
//! Asked by `espalier explain` of the rules engine, offline or over the control socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, PodName, RuleId};
use crate::protocol;
use crate::rule::Direction;

/// What `explain` is asked: would this packet pass? Fields that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The pod.
    pub pod: PodName,
    /// To or from it.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or an IP protocol number.
    pub protocol: QueryProtocol,
    /// The other end.
    pub remote: IpAddr,
    /// Destination port (TCP, UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// ICMP type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
}

/// An IP protocol, by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryProtocol(pub u8);

impl std::str::FromStr for QueryProtocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text.to_ascii_lowercase().as_str() {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "icmp" => protocol::ICMP,
            "icmpv6" => protocol::ICMPV6,
            number => number.parse().map_err(|_| {
                format!("protocol {text:?} is unknown: expected tcp, udp, icmp, icmpv6 or a number 0 to 255")
            })?,
        }))
    }
}

impl std::fmt::Display for QueryProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            protocol::TCP => f.pad("tcp"),
            protocol::UDP => f.pad("udp"),
            protocol::ICMP => f.pad("icmp"),
            protocol::ICMPV6 => f.pad("icmpv6"),
            number => f.pad(&number.to_string()),
        }
    }
}

impl Serialize for QueryProtocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QueryProtocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What may be written as a number or as a name, as text.
pub fn number_or_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Number(u64),
        Text(String),
    }
    Ok(match Raw::deserialize(deserializer)? {
        Raw::Number(number) => number.to_string(),
        Raw::Text(text) => text,
    })
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the packet would pass as the first of its flow.
    pub verdict: Verdict,
    /// The rule that decides, where it has an id.
    pub rule: Option<RuleId>,
    /// The group of that rule.
    pub group: Option<GroupId>,
    /// Whether the flow would be tracked.
    pub tracked: bool,
    /// Why, in words.
    pub reason: String,
}

/// An [`Answer`], and for a deny the rule that came closest to an allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
    /// The nearest rule of the snapshot, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
}

/// A rule that would have allowed the packet, but for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nearest {
    /// The rule, where it has an id.
    pub rule: Option<RuleId>,
    /// Its group.
    pub group: GroupId,
    /// What does not fit.
    pub differs: Vec<Difference>,
    /// The same in words.
    pub reason: String,
}

/// What keeps a rule from allowing a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// The destination port, or the ICMP type or code, is outside the rule's.
    Port,
    /// The other end is not in the rule's target.
    Address,
    /// Another protocol.
    Protocol,
    /// The rule's CIDR is of the other address family.
    Family,
    /// The rule is for the other direction.
    Direction,
    /// The pod does not have the rule's group.
    GroupNotAttached,
}

/// Allowed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_takes_names_and_numbers() {
        for (protocol, number) in [("\"tcp\"", 6), ("\"58\"", 58), ("50", 50), ("\"ICMP\"", 1)] {
            let text = format!(
                r#"{{"pod":"a/b","direction":"ingress","protocol":{protocol},"remote":"10.0.0.1","port":80}}"#
            );
            assert_eq!(serde_json::from_str::<Query>(&text).unwrap().protocol.0, number);
        }
        let unknown = r#"{"pod":"a/b","direction":"ingress","protocol":"tpc","remote":"10.0.0.1"}"#;
        assert!(serde_json::from_str::<Query>(unknown).unwrap_err().to_string().contains("expected tcp"));
    }

    #[test]
    fn the_nearest_rule_stands_beside_the_answer() {
        let answer = Answer {
            verdict: Verdict::Deny,
            rule: None,
            group: None,
            tracked: false,
            reason: "no rule".into(),
        };
        let nearest = Nearest {
            rule: None,
            group: "sg-1".parse().unwrap(),
            differs: vec![Difference::Port, Difference::GroupNotAttached],
            reason: "close".into(),
        };
        let mut explained = Explained { answer, nearest: None };
        assert_eq!(
            serde_json::to_string(&explained).unwrap(),
            r#"{"verdict":"deny","rule":null,"group":null,"tracked":false,"reason":"no rule"}"#
        );
        explained.nearest = Some(nearest);
        let text = serde_json::to_string(&explained).unwrap();
        assert!(text.ends_with(
            r#""nearest":{"rule":null,"group":"sg-1","differs":["port","group-not-attached"],"reason":"close"}}"#
        ));
        assert_eq!(serde_json::from_str::<Explained>(&text).unwrap(), explained);
    }

    #[test]
    fn an_answer_has_the_documented_shape() {
        let answer = Answer {
            verdict: Verdict::Deny,
            rule: None,
            group: None,
            tracked: false,
            reason: "no rule".into(),
        };
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"verdict":"deny","rule":null,"group":null,"tracked":false,"reason":"no rule"}"#
        );
    }
}
