//! A security group rule as EC2 writes it (the flat `SecurityGroupRule` shape of API version 2016-11-15), checked.
//!
//! Parsing goes `Ec2Rule` (the JSON) → [`SecurityGroupRule`] (only legal combinations). A rule is never widened
//! silently: ports on a protocol that has none, an ICMP code without a type, or two targets are refused.

use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, PrefixListId, RuleId};

/// Which way a rule, a query or a packet goes, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// The label used in metrics and tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The other one.
    #[inline]
    pub fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// An address family. EC2 keeps IPv4 and IPv6 apart everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// The family of `net`.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Destination ports, both ends included; never reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// The range, unless it is reversed.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// Highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in the range.
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// ICMP types and codes. A code without a type cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IcmpMatch {
    /// All types and codes (−1, −1).
    Any,
    /// All codes of one type (type, −1).
    Type(u8),
    /// One code of one type.
    TypeCode(u8, u8),
}

impl IcmpMatch {
    /// Whether a message of this type and code is meant.
    pub fn contains(self, icmp_type: u8, code: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Type(t) => t == icmp_type,
            Self::TypeCode(t, c) => t == icmp_type && c == code,
        }
    }
}

/// What of the IP payload a rule covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolMatch {
    /// −1: every protocol, all ports.
    All,
    /// TCP to these ports.
    Tcp(PortRange),
    /// UDP to these ports.
    Udp(PortRange),
    /// ICMP (protocol 1).
    Icmp(IcmpMatch),
    /// ICMPv6 (protocol 58).
    Icmpv6(IcmpMatch),
    /// Any other IP protocol, whole.
    Other(u8),
}

impl fmt::Display for ProtocolMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, range) = match self {
            Self::All => return f.pad("all"),
            Self::Tcp(range) => ("tcp", range),
            Self::Udp(range) => ("udp", range),
            Self::Icmp(icmp) => return f.pad(&format!("icmp{}", icmp_suffix(*icmp))),
            Self::Icmpv6(icmp) => return f.pad(&format!("icmpv6{}", icmp_suffix(*icmp))),
            Self::Other(number) => return f.pad(&format!("protocol {number}")),
        };
        f.pad(&match (range.first, range.last) {
            (0, u16::MAX) => name.to_owned(),
            (first, last) if first == last => format!("{name}/{first}"),
            (first, last) => format!("{name}/{first}-{last}"),
        })
    }
}

fn icmp_suffix(icmp: IcmpMatch) -> String {
    match icmp {
        IcmpMatch::Any => String::new(),
        IcmpMatch::Type(t) => format!(" type {t}"),
        IcmpMatch::TypeCode(t, c) => format!(" type {t} code {c}"),
    }
}

/// Another group, as a rule refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GroupReference {
    /// The group whose members' private addresses are meant.
    pub group_id: GroupId,
    /// Account that owns the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// VPC of the group, when it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<String>,
    /// Peering the reference goes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_peering_connection_id: Option<String>,
    /// State of that peering (`active`, `deleted`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peering_status: Option<String>,
}

/// The other end a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleTarget {
    /// An IPv4 prefix, host bits cleared.
    Cidr4(Ipv4Net),
    /// An IPv6 prefix, host bits cleared.
    Cidr6(Ipv6Net),
    /// The entries of a managed prefix list.
    PrefixList(PrefixListId),
    /// The members of a group.
    Group(GroupReference),
}

impl fmt::Display for RuleTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr4(net) => f.pad(&net.to_string()),
            Self::Cidr6(net) => f.pad(&net.to_string()),
            Self::PrefixList(id) => f.pad(id.as_str()),
            Self::Group(reference) => f.pad(reference.group_id.as_str()),
        }
    }
}

/// One allow rule of one group. Parsed from and written in EC2's `SecurityGroupRule` shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ec2Rule", into = "Ec2Rule")]
pub struct SecurityGroupRule {
    /// `sgr-…`; absent only for rules read from `describe-security-groups`, which has no ids.
    pub id: Option<RuleId>,
    /// The group the rule belongs to; absent where the surrounding group says it.
    pub group_id: Option<GroupId>,
    /// Ingress or egress.
    pub direction: Direction,
    /// Protocol, ports, ICMP type and code.
    pub protocol: ProtocolMatch,
    /// The other end.
    pub target: RuleTarget,
    /// Free text.
    pub description: Option<String>,
}

/// `SecurityGroupRule` of the EC2 API, unchecked: as JSON or the SDK has it. Becomes a [`SecurityGroupRule`] or is refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ec2Rule {
    /// `sgr-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_group_rule_id: Option<RuleId>,
    /// The group it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<GroupId>,
    /// Egress, else ingress.
    #[serde(default)]
    pub is_egress: bool,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, a number, or −1.
    #[serde(default)]
    pub ip_protocol: IpProtocolText,
    /// First port, or ICMP type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_port: Option<i64>,
    /// Last port, or ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<i64>,
    /// The other end: exactly one of these four is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr_ipv4: Option<String>,
    /// An IPv6 CIDR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr_ipv6: Option<String>,
    /// A managed prefix list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_list_id: Option<PrefixListId>,
    /// Another group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referenced_group_info: Option<GroupReference>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `IpProtocol`: text in EC2's JSON, often a bare number in hand-written YAML.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IpProtocolText {
    /// Not given.
    #[default]
    Missing,
    /// A protocol number.
    Number(i64),
    /// A name, a number, or −1.
    Text(String),
}

impl TryFrom<Ec2Rule> for SecurityGroupRule {
    type Error = String;

    fn try_from(rule: Ec2Rule) -> Result<Self, String> {
        let named = |message: String| match &rule.security_group_rule_id {
            Some(id) => format!("{id}: {message}"),
            None => message,
        };
        let protocol = parse_protocol(&rule.ip_protocol, rule.from_port, rule.to_port).map_err(named)?;
        let target = parse_target(&rule).map_err(named)?;
        Ok(Self {
            id: rule.security_group_rule_id,
            group_id: rule.group_id,
            direction: if rule.is_egress { Direction::Egress } else { Direction::Ingress },
            protocol,
            target,
            description: rule.description.filter(|text| !text.is_empty()),
        })
    }
}

impl From<SecurityGroupRule> for Ec2Rule {
    fn from(rule: SecurityGroupRule) -> Self {
        let (protocol, from_port, to_port) = match rule.protocol {
            ProtocolMatch::All => ("-1".to_owned(), -1, -1),
            ProtocolMatch::Tcp(range) => ("tcp".to_owned(), range.first.into(), range.last.into()),
            ProtocolMatch::Udp(range) => ("udp".to_owned(), range.first.into(), range.last.into()),
            ProtocolMatch::Icmp(icmp) => icmp_fields("icmp", icmp),
            ProtocolMatch::Icmpv6(icmp) => icmp_fields("icmpv6", icmp),
            ProtocolMatch::Other(number) => (number.to_string(), -1, -1),
        };
        let mut out = Self {
            security_group_rule_id: rule.id,
            group_id: rule.group_id,
            is_egress: rule.direction == Direction::Egress,
            ip_protocol: IpProtocolText::Text(protocol),
            from_port: Some(from_port),
            to_port: Some(to_port),
            description: rule.description,
            ..Self::default()
        };
        match rule.target {
            RuleTarget::Cidr4(net) => out.cidr_ipv4 = Some(net.to_string()),
            RuleTarget::Cidr6(net) => out.cidr_ipv6 = Some(net.to_string()),
            RuleTarget::PrefixList(id) => out.prefix_list_id = Some(id),
            RuleTarget::Group(reference) => out.referenced_group_info = Some(reference),
        }
        out
    }
}

fn icmp_fields(name: &str, icmp: IcmpMatch) -> (String, i64, i64) {
    let (icmp_type, code) = match icmp {
        IcmpMatch::Any => (-1, -1),
        IcmpMatch::Type(t) => (t.into(), -1),
        IcmpMatch::TypeCode(t, c) => (t.into(), c.into()),
    };
    (name.to_owned(), icmp_type, code)
}

/// Names, numbers and −1 to a protocol with its ports or ICMP type and code.
pub(crate) fn parse_protocol(
    protocol: &IpProtocolText,
    from: Option<i64>,
    to: Option<i64>,
) -> Result<ProtocolMatch, String> {
    let text = match protocol {
        IpProtocolText::Missing => return Err("IpProtocol is missing: write -1 for all protocols".into()),
        IpProtocolText::Number(number) => number.to_string(),
        IpProtocolText::Text(text) => text.to_ascii_lowercase(),
    };
    match text.as_str() {
        "-1" | "all" => whole_protocol("-1", from, to).map(|()| ProtocolMatch::All),
        "tcp" | "6" => parse_ports("tcp", from, to).map(ProtocolMatch::Tcp),
        "udp" | "17" => parse_ports("udp", from, to).map(ProtocolMatch::Udp),
        "icmp" | "1" => match (from, to) {
            (None, None) => {
                Err("FromPort and ToPort are missing: icmp needs a type and a code, -1 for all".into())
            }
            _ => parse_icmp(from, to).map(ProtocolMatch::Icmp),
        },
        "icmpv6" | "58" => match (from, to) {
            (None, None) => Ok(ProtocolMatch::Icmpv6(IcmpMatch::Any)),
            _ => parse_icmp(from, to).map(ProtocolMatch::Icmpv6),
        },
        number => {
            let number = number.parse::<u8>().map_err(|_| {
                format!(
                    "IpProtocol {text:?} is unknown: expected -1, tcp, udp, icmp, icmpv6 or a number 0 to 255"
                )
            })?;
            whole_protocol(&text, from, to).map(|()| ProtocolMatch::Other(number))
        }
    }
}

/// Protocols without ports: EC2 writes −1/−1, 0/0, 0/65535 or nothing. Anything else would be ignored by EC2,
/// which is wider than what was written.
fn whole_protocol(protocol: &str, from: Option<i64>, to: Option<i64>) -> Result<(), String> {
    match (from, to) {
        (None | Some(-1 | 0), None | Some(-1 | 0 | 65535)) => Ok(()),
        _ => Err(format!(
            "FromPort {} and ToPort {} on protocol {protocol}, which covers all ports: leave both out, or name tcp or udp",
            shown(from),
            shown(to)
        )),
    }
}

fn parse_ports(protocol: &str, from: Option<i64>, to: Option<i64>) -> Result<PortRange, String> {
    let port = |field: &str, value: Option<i64>| {
        let value =
            value.ok_or_else(|| format!("{field} is missing: {protocol} needs a port range, 0 to 65535"))?;
        u16::try_from(value).map_err(|_| format!("{field} {value} is not a port: expected 0 to 65535"))
    };
    let (first, last) = (port("FromPort", from)?, port("ToPort", to)?);
    PortRange::new(first, last)
        .ok_or_else(|| format!("FromPort {first} is above ToPort {last}: the range is reversed"))
}

fn parse_icmp(icmp_type: Option<i64>, code: Option<i64>) -> Result<IcmpMatch, String> {
    let byte = |field: &str, what: &str, value: Option<i64>| match value {
        None => Err(format!("{field} is missing: give both the ICMP type and code, -1 for all")),
        Some(-1) => Ok(None),
        Some(value) => u8::try_from(value)
            .map(Some)
            .map_err(|_| format!("{field} {value} is not an ICMP {what}: expected 0 to 255, or -1 for all")),
    };
    match (byte("FromPort", "type", icmp_type)?, byte("ToPort", "code", code)?) {
        (None, None) => Ok(IcmpMatch::Any),
        (Some(t), None) => Ok(IcmpMatch::Type(t)),
        (Some(t), Some(c)) => Ok(IcmpMatch::TypeCode(t, c)),
        (None, Some(c)) => {
            Err(format!("ToPort {c} is an ICMP code without a type: FromPort -1 (all types) needs ToPort -1"))
        }
    }
}

fn parse_target(rule: &Ec2Rule) -> Result<RuleTarget, String> {
    let given = [
        ("CidrIpv4", rule.cidr_ipv4.is_some()),
        ("CidrIpv6", rule.cidr_ipv6.is_some()),
        ("PrefixListId", rule.prefix_list_id.is_some()),
        ("ReferencedGroupInfo", rule.referenced_group_info.is_some()),
    ];
    let names: Vec<&str> = given.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    if names.len() > 1 {
        return Err(format!("{} are given together: a rule has exactly one of them", names.join(" and ")));
    }
    if let Some(text) = &rule.cidr_ipv4 {
        return parse_cidr4("CidrIpv4", text).map(RuleTarget::Cidr4);
    }
    if let Some(text) = &rule.cidr_ipv6 {
        return parse_cidr6("CidrIpv6", text).map(RuleTarget::Cidr6);
    }
    if let Some(id) = &rule.prefix_list_id {
        return Ok(RuleTarget::PrefixList(id.clone()));
    }
    rule.referenced_group_info.clone().map(RuleTarget::Group).ok_or_else(|| {
        "no target: give one of CidrIpv4, CidrIpv6, PrefixListId, ReferencedGroupInfo".to_owned()
    })
}

/// An IPv4 prefix with its host bits cleared, as EC2 stores it.
pub(crate) fn parse_cidr4(field: &str, text: &str) -> Result<Ipv4Net, String> {
    text.parse::<Ipv4Net>()
        .map(|net| net.trunc())
        .map_err(|_| format!("{field} {text:?} is not an IPv4 CIDR: expected a.b.c.d/0 to /32"))
}

/// An IPv6 prefix with its host bits cleared, as EC2 stores it.
pub(crate) fn parse_cidr6(field: &str, text: &str) -> Result<Ipv6Net, String> {
    text.parse::<Ipv6Net>()
        .map(|net| net.trunc())
        .map_err(|_| format!("{field} {text:?} is not an IPv6 CIDR: expected addr/0 to /128"))
}

fn shown(value: Option<i64>) -> String {
    value.map_or_else(|| "(none)".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Result<SecurityGroupRule, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_of_rule_round_trips() {
        for json in [
            r#"{"SecurityGroupRuleId":"sgr-1","IpProtocol":"-1","FromPort":-1,"ToPort":-1,"CidrIpv4":"0.0.0.0/0"}"#,
            r#"{"IpProtocol":"tcp","FromPort":80,"ToPort":443,"CidrIpv6":"2001:db8::/32","IsEgress":true}"#,
            r#"{"IpProtocol":"17","FromPort":53,"ToPort":53,"PrefixListId":"pl-1"}"#,
            r#"{"IpProtocol":"icmp","FromPort":8,"ToPort":-1,"ReferencedGroupInfo":{"GroupId":"sg-1","UserId":"1"}}"#,
            r#"{"IpProtocol":"icmpv6","CidrIpv6":"::/0"}"#,
            r#"{"IpProtocol":"50","CidrIpv4":"10.0.0.0/8"}"#,
        ] {
            let parsed = rule(json).unwrap();
            let written = serde_json::to_string(&parsed).unwrap();
            assert_eq!(rule(&written).unwrap(), parsed, "{written}");
        }
    }

    #[test]
    fn numbers_of_named_protocols_become_the_name() {
        let parsed = rule(r#"{"IpProtocol":6,"FromPort":1,"ToPort":2,"CidrIpv4":"1.2.3.4/32"}"#).unwrap();
        assert_eq!(parsed.protocol, ProtocolMatch::Tcp(PortRange { first: 1, last: 2 }));
    }

    #[test]
    fn cidrs_lose_their_host_bits_as_in_ec2() {
        let parsed = rule(r#"{"IpProtocol":"-1","CidrIpv4":"100.68.0.18/18"}"#).unwrap();
        assert_eq!(parsed.target.to_string(), "100.68.0.0/18");
    }

    #[test]
    fn bad_rules_say_what_is_wrong() {
        for (json, wanted) in [
            (r#"{"IpProtocol":"tcp","FromPort":443,"ToPort":80,"CidrIpv4":"0.0.0.0/0"}"#, "reversed"),
            (
                r#"{"IpProtocol":"icmp","FromPort":-1,"ToPort":3,"CidrIpv4":"0.0.0.0/0"}"#,
                "code without a type",
            ),
            (r#"{"IpProtocol":"icmp","FromPort":8,"CidrIpv4":"0.0.0.0/0"}"#, "ToPort is missing"),
            (r#"{"IpProtocol":"tpc","FromPort":1,"ToPort":1,"CidrIpv4":"0.0.0.0/0"}"#, "unknown"),
            (r#"{"IpProtocol":"-1","FromPort":80,"ToPort":80,"CidrIpv4":"0.0.0.0/0"}"#, "covers all ports"),
            (r#"{"IpProtocol":"tcp","FromPort":80,"ToPort":70000,"CidrIpv4":"0.0.0.0/0"}"#, "not a port"),
            (r#"{"IpProtocol":"-1","CidrIpv4":"10.0.0.0/33"}"#, "IPv4 CIDR"),
            (r#"{"IpProtocol":"-1","CidrIpv4":"2001:db8::/32"}"#, "IPv4 CIDR"),
            (r#"{"IpProtocol":"-1","CidrIpv4":"0.0.0.0/0","PrefixListId":"pl-1"}"#, "exactly one"),
            (r#"{"IpProtocol":"-1"}"#, "no target"),
            (r#"{"CidrIpv4":"0.0.0.0/0"}"#, "IpProtocol is missing"),
            (r#"{"IpProtocol":"256","CidrIpv4":"0.0.0.0/0"}"#, "unknown"),
        ] {
            let error = rule(json).unwrap_err();
            assert!(error.contains(wanted), "{json}: {error}");
        }
    }
}
