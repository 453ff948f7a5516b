//! The words of the language: which make a head, what value each wants, and which test the two are.
//!
//! Called by the parser alone. A message says what was written and what would be accepted.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::lex::What;
use super::{ARP, End, Fate, IPV4, IPV6, Name, Over, SCTP, Test};
use crate::protocol::{ICMP, ICMPV6, TCP, UDP};
use crate::rule::Direction;

/// Tokens of the longest head: `tcp src or dst portrange`.
pub(super) const LONGEST: usize = 5;

/// The words before a value; values further on inherit them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// A protocol word without anything behind: it wants no value.
    Bare(Within),
    Packet(Option<Within>, End, Kind),
    Pod,
    Rule,
    Group,
    Reason,
}

/// What kind of value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Protocol,
}

/// A protocol word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    Ether(u16, &'static str),
    Protocol(Over, u8, &'static str),
}

const PROTOCOLS: [Within; 8] = [
    Within::Ether(IPV4, "ip"),
    Within::Ether(IPV6, "ip6"),
    Within::Ether(ARP, "arp"),
    Within::Protocol(Over::Any, TCP, "tcp"),
    Within::Protocol(Over::Any, UDP, "udp"),
    Within::Protocol(Over::Any, SCTP, "sctp"),
    Within::Protocol(Over::Ipv4, ICMP, "icmp"),
    Within::Protocol(Over::Ipv6, ICMPV6, "icmp6"),
];

/// Protocols that `proto` takes by name (IANA).
const NAMED: [(&str, u8); 12] = [
    ("icmp", ICMP),
    ("igmp", 2),
    ("tcp", TCP),
    ("udp", UDP),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmp6", ICMPV6),
    ("ipv6-icmp", ICMPV6),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", SCTP),
];

/// Words of tcpdump's that this language does without.
const ABSENT: [&str; 12] = [
    "broadcast",
    "decnet",
    "ether",
    "gateway",
    "inbound",
    "len",
    "mask",
    "mpls",
    "multicast",
    "outbound",
    "protochain",
    "vlan",
];

/// The test a word is by itself.
pub(super) fn single(word: &str) -> Option<Test<Name>> {
    Some(match word {
        "ingress" => Test::Direction(Direction::Ingress),
        "egress" => Test::Direction(Direction::Egress),
        "drop" => Test::Fate(Fate::Drop),
        "forward" => Test::Fate(Fate::Forward),
        _ => return None,
    })
}

/// Whether the word wants a number of bytes.
pub(super) fn is_size(word: &str) -> bool {
    matches!(word, "less" | "greater")
}

/// The test of such a word.
pub(super) fn size(word: &str, value: &str) -> Result<Test<Name>, String> {
    let bytes = number::<u32>(value)
        .map_err(|_| format!("{value:?} is not a length: `{word}` wants a number of bytes"))?
        as usize;
    Ok(if word == "less" { Test::Less(bytes) } else { Test::Greater(bytes) })
}

/// The head at the beginning of `tokens`, and how many of them it is.
pub(super) fn head(tokens: &[What<'_>]) -> Option<(Head, usize)> {
    let word = |at: usize| match tokens.get(at) {
        Some(What::Word(word)) => *word,
        _ => "",
    };
    match word(0) {
        "pod" => return Some((Head::Pod, 1)),
        "rule" => return Some((Head::Rule, 1)),
        "group" => return Some((Head::Group, 1)),
        "reason" => return Some((Head::Reason, 1)),
        _ => {}
    }
    let within = PROTOCOLS.into_iter().find(|within| within.word() == word(0));
    let begin = usize::from(within.is_some());
    let (end, length) = match (word(begin), tokens.get(begin + 1), word(begin + 2)) {
        ("src", Some(What::Or), "dst") | ("dst", Some(What::Or), "src") => (Some(End::Either), 3),
        ("src", Some(What::And), "dst") | ("dst", Some(What::And), "src") => (Some(End::Both), 3),
        ("src", ..) => (Some(End::Source), 1),
        ("dst", ..) => (Some(End::Destination), 1),
        _ => (None, 0),
    };
    let kind = match word(begin + length) {
        "host" => Some(Kind::Host),
        "net" => Some(Kind::Net),
        "port" => Some(Kind::Port),
        "portrange" => Some(Kind::PortRange),
        "proto" if end.is_none() => Some(Kind::Protocol),
        _ => None,
    };
    match (within, end, kind) {
        (None, None, None) => None,
        (Some(within), None, None) => Some((Head::Bare(within), 1)),
        (_, end, kind) => {
            let words = begin + length + usize::from(kind.is_some());
            let head = Head::Packet(within, end.unwrap_or(End::Either), kind.unwrap_or(Kind::Host));
            Some((head, words))
        }
    }
}

/// What to say of a word that is none.
pub(super) fn unknown(word: &str) -> String {
    if word.contains('[') {
        return format!("{:?}: bytes of a packet cannot be asked for here", shortened(word));
    }
    if ABSENT.contains(&word) {
        return format!("tcpdump's `{word}` is not part of this language");
    }
    if word.parse::<IpAddr>().is_ok() || word.parse::<IpNet>().is_ok() {
        return format!("{word} needs a word before it: host, src, dst or net");
    }
    format!(
        "{:?} is not a word of the language: expected host, net, port, portrange, proto, src, dst, ip, ip6, arp, \
         tcp, udp, sctp, icmp, icmp6, less, greater, pod, ingress, egress, drop, forward, reason, rule, group or not",
        shortened(word)
    )
}

impl Head {
    /// What value it wants.
    pub(super) fn wants(self) -> &'static str {
        match self {
            Self::Packet(_, _, Kind::Host) | Self::Bare(_) => "an address",
            Self::Packet(_, _, Kind::Net) => "a prefix (10.0.0.0/8)",
            Self::Packet(_, _, Kind::Port) => "a port",
            Self::Packet(_, _, Kind::PortRange) => "a range of ports (8000-8080)",
            Self::Packet(_, _, Kind::Protocol) => "a protocol",
            Self::Pod => "a pod (namespace/name)",
            Self::Rule => "a rule (sgr-…)",
            Self::Group => "a security group (sg-…)",
            Self::Reason => "a drop reason (denied-ingress)",
        }
    }

    /// The test of this head and a value.
    pub(super) fn test(self, value: &str) -> Result<Test<Name>, String> {
        match self {
            Self::Packet(within, end, kind) => packet(within, end, kind, value),
            Self::Bare(within) => Ok(within.into()),
            Self::Pod => value.parse().map(|pod| Test::Named(Name::Pod(pod))),
            Self::Rule => value.parse().map(|rule| Test::Named(Name::Rule(rule))),
            Self::Group => value.parse().map(|group| Test::Named(Name::Group(group))),
            Self::Reason => {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                if value.len() > 64 || !value.chars().all(plain) {
                    let shown = shortened(value);
                    return Err(format!(
                        "{shown:?} is not a drop reason: `espalier status` shows their names"
                    ));
                }
                Ok(Test::Named(Name::Reason(value.into())))
            }
        }
    }
}

fn packet(within: Option<Within>, end: End, kind: Kind, value: &str) -> Result<Test<Name>, String> {
    let word = within.map_or("", Within::word);
    let mismatch = |of: &str| Err(format!("`{word}` has no {of}: write `{word} and …`"));
    match (kind, within) {
        (Kind::Host | Kind::Net, Some(Within::Protocol(..))) => mismatch("addresses of its own"),
        (Kind::Host | Kind::Net, _) => {
            let net = if kind == Kind::Host { host(value)? } else { net(value)? };
            let over = match (within, net) {
                (None, _) => Over::Any,
                (Some(Within::Ether(IPV4, _)), IpNet::V4(_)) => Over::Ipv4,
                (Some(Within::Ether(ARP, _)), IpNet::V4(_)) => Over::Arp,
                (Some(Within::Ether(IPV6, _)), IpNet::V6(_)) => Over::Ipv6,
                _ => return Err(format!("`{word}` has no addresses such as {value}")),
            };
            Ok(Test::Net(over, end, net))
        }
        (Kind::Port | Kind::PortRange, _) => {
            let protocol = match within {
                None => None,
                Some(Within::Protocol(Over::Any, protocol, _)) => Some(protocol),
                _ => return mismatch("ports"),
            };
            let (first, last) = if kind == Kind::Port { (port(value)?, port(value)?) } else { range(value)? };
            Ok(Test::Ports(protocol, end, first, last))
        }
        (Kind::Protocol, None) => Ok(Test::Protocol(Over::Any, protocol(value)?)),
        (Kind::Protocol, Some(Within::Ether(IPV4, _))) => Ok(Test::Protocol(Over::Ipv4, protocol(value)?)),
        (Kind::Protocol, Some(Within::Ether(IPV6, _))) => Ok(Test::Protocol(Over::Ipv6, protocol(value)?)),
        (Kind::Protocol, _) => mismatch("protocols"),
    }
}

fn host(value: &str) -> Result<IpNet, String> {
    if let Ok(address) = value.parse::<IpAddr>() {
        return Ok(address.into());
    }
    Err(match value.contains('/') {
        true => format!("{:?} is not an address: write `net` before a prefix", shortened(value)),
        false => format!("{:?} is not an address (names are not looked up; see `pod`)", shortened(value)),
    })
}

/// A prefix; a bare address is itself, and fewer than four numbers are a network as before there were masks.
fn net(value: &str) -> Result<IpNet, String> {
    let wrong = || format!("{:?} is not a prefix: expected the like of 10.0.0.0/8", shortened(value));
    let (address, length) = match value.split_once('/') {
        Some((address, length)) => (address, Some(number::<u8>(length).map_err(|_| wrong())?)),
        None => (value, None),
    };
    let net = match address.parse::<IpAddr>() {
        Ok(address) => IpNet::new(address, length.unwrap_or(IpNet::from(address).max_prefix_len())),
        Err(_) => {
            let (network, octets) = octets(address).ok_or_else(wrong)?;
            IpNet::new(network.into(), length.unwrap_or(octets * 8))
        }
    };
    let net = net.map_err(|_| wrong())?;
    if net.trunc() != net {
        return Err(format!("{value} has bits set behind its length: write {}", net.trunc()));
    }
    Ok(net)
}

fn octets(text: &str) -> Option<(Ipv4Addr, u8)> {
    let mut octets = [0; 4];
    let mut count = 0;
    for part in text.split('.') {
        *octets.get_mut(count)? = number(part).ok()?;
        count += 1;
    }
    // tcpdump takes a lone 0 for the host 0.0.0.0.
    (count > 1 || octets[0] > 0).then_some((Ipv4Net::from(Ipv4Addr::from(octets)).addr(), count as u8))
}

fn port(value: &str) -> Result<u16, String> {
    number(value).map_err(|_| match value.contains('-') {
        true => format!("{:?} is not a port: write `portrange` before a range", shortened(value)),
        false => format!("{:?} is not a port: expected a number from 0 to 65535", shortened(value)),
    })
}

/// Either order will do.
fn range(value: &str) -> Result<(u16, u16), String> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let (first, last) = (port(first)?, port(last)?);
    Ok((first.min(last), first.max(last)))
}

fn protocol(value: &str) -> Result<u8, String> {
    let name = value.strip_prefix('\\').unwrap_or(value);
    if let Some((_, protocol)) = NAMED.iter().find(|(known, _)| *known == name) {
        return Ok(*protocol);
    }
    number(value).map_err(|_| {
        format!(
            "{:?} is not a protocol: expected a number from 0 to 255, or the like of esp",
            shortened(value)
        )
    })
}

/// A decimal number; leading zeros, which tcpdump takes for octal, are refused.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, ()> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let octal = text.len() > 1 && text.starts_with('0');
    if !digits || octal {
        return Err(());
    }
    text.parse().map_err(drop)
}

fn shortened(word: &str) -> String {
    word.chars().take(64).collect()
}

impl Within {
    fn word(self) -> &'static str {
        match self {
            Self::Ether(_, word) | Self::Protocol(_, _, word) => word,
        }
    }
}

impl From<Within> for Test<Name> {
    fn from(within: Within) -> Self {
        match within {
            Within::Ether(kind, _) => Self::EtherType(kind),
            Within::Protocol(over, protocol, _) => Self::Protocol(over, protocol),
        }
    }
}
