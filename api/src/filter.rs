//! The filter language: tcpdump's words for packets, and words of ours for pods, rules and verdicts.
//!
//! `espalier capture`, live traces and `espalier flows --filter` take it; the control socket carries it as text. A
//! [`Filter`] is parsed once and bounded in length and depth, and evaluated without allocation: whoever judges many
//! packets turns its names into numbers with [`Filter::try_map`] first. What it shares with tcpdump it shares in meaning:
//! `api/tests/filter_tcpdump.rs` holds it against tcpdump itself.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ids::{GroupId, PodName, RuleId};
use crate::rule::Direction;

mod error;
mod headers;
mod lex;
mod parse;
mod words;

pub use error::FilterError;
pub use headers::Headers;

/// Characters a filter may have.
pub const MAX_CHARACTERS: usize = 4096;
/// Parentheses that may be open at once.
pub const MAX_DEPTH: u32 = 32;

/// A packet, as far as a filter asks about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Subject {
    /// What its first bytes say.
    pub headers: Headers,
    /// Its length with the Ethernet header, bytes.
    pub len: usize,
    /// Whether the policy of a pod that gets it was asked, or would have been.
    pub ingress: bool,
    /// The same for a pod that sends it.
    pub egress: bool,
    /// What became of it, where that is known.
    pub fate: Option<Fate>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It was sent on.
    Forward,
    /// It was dropped.
    Drop,
    /// The switch itself answered it or used it up.
    Consumed,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Drop, Self::Consumed];

    /// As a word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Drop => "drop",
            Self::Consumed => "consumed",
        }
    }
}

/// What a filter names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `pod NAMESPACE/NAME`: it sends or gets the packet.
    Pod(PodName),
    /// `rule sgr-…`: it let the packet pass.
    Rule(RuleId),
    /// `group sg-…`: one of its rules did.
    Group(GroupId),
    /// `reason LABEL`: the packet was dropped for it.
    Reason(Box<str>),
}

/// A filter. The one without words matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter<N = Name> {
    text: Box<str>,
    /// In postfix order.
    steps: Vec<Step<N>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step<N> {
    /// Pushes whether the packet fits; the test stands at this character.
    Test(u32, Test<N>),
    Not,
    And,
    Or,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test<N> {
    EtherType(u16),
    /// The IP protocol, over one of the IPs or both.
    Protocol(Over, u8),
    /// An address, of the packet or of the ARP message in it.
    Net(Over, End, IpNet),
    /// A port of one of the protocols that have some.
    Ports(Option<u8>, End, u16, u16),
    /// Bytes at most.
    Less(usize),
    /// Bytes at least.
    Greater(usize),
    Direction(Direction),
    Fate(Fate),
    Named(N),
}

/// What an address or a protocol is looked for in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Any,
    Ipv4,
    Ipv6,
    Arp,
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Either,
    Source,
    Destination,
    Both,
}

impl Default for Filter {
    fn default() -> Self {
        Self { text: "".into(), steps: Vec::new() }
    }
}

impl<N> Filter<N> {
    /// Whether a packet fits; `named` tells whether it has to do with what is named.
    pub fn matches(&self, subject: &Subject, mut named: impl FnMut(&N) -> bool) -> bool {
        // No more operands wait than parentheses are open, and one.
        let mut stack: u64 = 1;
        for step in &self.steps {
            match step {
                Step::Test(_, test) => stack = (stack << 1) | u64::from(test.fits(subject, &mut named)),
                Step::Not => stack ^= 1,
                Step::And => stack = (stack >> 1) & (stack | !1),
                Step::Or => stack = (stack >> 1) | (stack & 1),
            }
        }
        stack & 1 == 1
    }

    /// The same filter with other names; the first that `f` cannot turn into one is refused, at its character.
    pub fn try_map<M>(self, mut f: impl FnMut(N) -> Result<M, String>) -> Result<Filter<M>, FilterError> {
        let Self { text, steps } = self;
        let mut map = |step| {
            Ok(match step {
                Step::Test(at, test) => {
                    let test =
                        test.try_map(&mut f).map_err(|message| FilterError::new(&text, at, message))?;
                    Step::Test(at, test)
                }
                Step::Not => Step::Not,
                Step::And => Step::And,
                Step::Or => Step::Or,
            })
        };
        let steps = steps.into_iter().map(&mut map).collect::<Result<_, FilterError>>()?;
        Ok(Filter { text, steps })
    }

    /// What it names, in order.
    pub fn names(&self) -> impl Iterator<Item = &N> {
        self.steps.iter().filter_map(|step| match step {
            Step::Test(_, Test::Named(name)) => Some(name),
            _ => None,
        })
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Filter {
    /// Refuses words about single packets, for who filters flows.
    pub fn check_for_flows(&self) -> Result<(), FilterError> {
        let wrong = self.steps.iter().find_map(|step| match step {
            Step::Test(at, test) if test.is_of_packets() => Some(*at),
            _ => None,
        });
        let message = "says something of a packet, and this filters flows: leave it out";
        wrong.map_or(Ok(()), |at| Err(FilterError::new(&self.text, at, message.to_owned())))
    }
}

impl Test<Name> {
    fn is_of_packets(&self) -> bool {
        match self {
            Self::Less(_) | Self::Greater(_) | Self::Fate(_) | Self::EtherType(ARP) => true,
            Self::Net(over, ..) => *over == Over::Arp,
            Self::Named(name) => matches!(name, Name::Reason(_)),
            Self::EtherType(_) | Self::Protocol(..) | Self::Ports(..) | Self::Direction(_) => false,
        }
    }
}

impl<N> Test<N> {
    fn fits(&self, subject: &Subject, named: &mut impl FnMut(&N) -> bool) -> bool {
        let headers = &subject.headers;
        match self {
            Self::EtherType(kind) => headers.ethertype == *kind,
            Self::Protocol(over, protocol) => {
                over.covers(headers.ethertype) && headers.protocols.contains(&Some(*protocol))
            }
            Self::Net(over, end, net) => {
                over.covers(headers.ethertype)
                    && headers.addresses.is_some_and(|ends| end.of(ends, |address| net.contains(&address)))
            }
            Self::Ports(protocol, end, first, last) => {
                let fits = |port| (*first..=*last).contains(&port);
                protocol.is_none_or(|protocol| headers.protocols[0] == Some(protocol))
                    && headers.ports.is_some_and(|ends| end.of(ends, fits))
            }
            Self::Less(len) => subject.len <= *len,
            Self::Greater(len) => subject.len >= *len,
            Self::Direction(Direction::Ingress) => subject.ingress,
            Self::Direction(Direction::Egress) => subject.egress,
            Self::Fate(fate) => subject.fate == Some(*fate),
            Self::Named(name) => named(name),
        }
    }

    fn try_map<M>(self, f: &mut impl FnMut(N) -> Result<M, String>) -> Result<Test<M>, String> {
        Ok(match self {
            Self::EtherType(kind) => Test::EtherType(kind),
            Self::Protocol(over, protocol) => Test::Protocol(over, protocol),
            Self::Net(over, end, net) => Test::Net(over, end, net),
            Self::Ports(protocol, end, first, last) => Test::Ports(protocol, end, first, last),
            Self::Less(len) => Test::Less(len),
            Self::Greater(len) => Test::Greater(len),
            Self::Direction(direction) => Test::Direction(direction),
            Self::Fate(fate) => Test::Fate(fate),
            Self::Named(name) => Test::Named(f(name)?),
        })
    }
}

/// Ethernet types (IANA).
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV6: u16 = 0x86dd;
/// IP protocol number (IANA).
const SCTP: u8 = 132;

impl Over {
    fn covers(self, ethertype: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4 => ethertype == IPV4,
            Self::Ipv6 => ethertype == IPV6,
            Self::Arp => ethertype == ARP,
        }
    }
}

impl End {
    fn of<T>(self, (source, destination): (T, T), fits: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Either => fits(source) || fits(destination),
            Self::Source => fits(source),
            Self::Destination => fits(destination),
            Self::Both => fits(source) && fits(destination),
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::parse(text)
    }
}

impl<N> fmt::Display for Filter<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (usize, String) {
        let error = text.parse::<Filter>().unwrap_err();
        (error.at(), error.message().to_owned())
    }

    fn subject(ports: (u16, u16)) -> Subject {
        let addresses = Some(("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()));
        let headers = Headers { ethertype: IPV4, addresses, protocols: [Some(6), None], ports: Some(ports) };
        Subject { headers, len: 60, ..Subject::default() }
    }

    fn matches(text: &str, subject: &Subject) -> bool {
        text.parse::<Filter>().unwrap().matches(subject, |_| false)
    }

    #[test]
    fn operators_bind_to_the_left_and_values_inherit() {
        let web = subject((40000, 443));
        for (text, expected) in [
            ("", true),
            ("port 80 or 443", true),
            ("port 80 or 443 and 8080", false),
            ("port 8080 and 80 or 443", true),
            ("not port 80 or 443", true),
            ("not (port 80 or 443)", false),
            ("!!port 443", true),
            ("dst port (80 or 443) and src host 10.0.0.1", true),
            ("dst port not 443", false),
            ("src or dst port 40000", true),
            ("src and dst net 10.0.0.0/24", true),
            ("src and dst port 443", false),
            ("tcp portrange 440-450 && !less 59", true),
            ("portrange 450-440", true),
            ("net 10 and not net 10.0.1", true),
            ("udp||icmp", false),
        ] {
            assert_eq!(matches(text, &web), expected, "{text}");
        }
    }

    #[test]
    fn words_of_ours_ask_what_became_of_a_packet() {
        let mut denied = subject((1, 2));
        (denied.ingress, denied.fate) = (true, Some(Fate::Drop));
        assert!(matches("drop and ingress and not egress and not forward", &denied));
        let filter: Filter = "pod shop/web or shop/db and reason denied-ingress".parse().unwrap();
        let numbered = filter.try_map(|name| match name {
            Name::Pod(pod) if pod.as_str() == "shop/web" => Ok(1),
            Name::Pod(_) => Ok(2),
            _ => Ok(3),
        });
        let numbered = numbered.unwrap();
        assert!(numbered.matches(&denied, |number| [2, 3].contains(number)));
        assert!(!numbered.matches(&denied, |number| [1, 2].contains(number)));
        assert_eq!(numbered.names().collect::<Vec<_>>(), [&1, &2, &3]);
    }

    #[test]
    fn a_name_nobody_knows_is_pointed_at() {
        let filter: Filter = " \n tcp and pod shop/web ".parse().unwrap();
        let error = filter.try_map(|_| Err::<(), _>("unknown".to_owned())).unwrap_err();
        assert_eq!(error.pointed(), "character 13: unknown\n  tcp and pod shop/web\n              ^");
    }

    #[test]
    fn mistakes_are_pointed_at_by_character() {
        for (text, at, wanted) in [
            ("port", 4, "a port is missing"),
            ("port 80 or", 10, "a test is missing"),
            ("port 65536", 5, "0 to 65535"),
            ("port 080", 5, "0 to 65535"),
            ("port 80-90", 5, "portrange"),
            ("tcp or 80", 7, "not a word"),
            ("tcp prot 80", 4, "expected `and`, `or`"),
            ("häst 10.0.0.1", 0, "not a word"),
            ("net 10.0.0.1/8", 4, "write 10.0.0.0/8"),
            ("src 10.0.0.0/8", 4, "write `net`"),
            ("10.0.0.1", 0, "needs a word before it"),
            ("icmp port 80", 10, "has no ports"),
            ("tcp host 10.0.0.1", 9, "no addresses of its own"),
            ("ip6 host 10.0.0.1", 9, "no addresses such as"),
            ("(tcp", 0, "not closed"),
            ("tcp)", 3, "without its `(`"),
            ("tcp & udp", 4, "write `&&`"),
            ("and tcp", 0, "nothing before it"),
            ("tcp[13] = 2", 0, "bytes of a packet"),
            ("ether host 06:00:00:00:00:01", 0, "tcpdump's `ether`"),
            ("pod web", 4, "namespace/name"),
            ("rule sg-1", 5, "sgr-"),
            ("less", 4, "a number of bytes is missing"),
            ("less x", 5, "wants a number"),
            ("reason Denied", 7, "not a drop reason"),
        ] {
            let (found, message) = error(text);
            assert_eq!(found, at, "{text}: {message}");
            assert!(message.contains(wanted), "{text}: {message}");
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let deep = |depth: usize| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
        assert!(deep(32).parse::<Filter>().is_ok());
        assert!(error(&deep(33)).1.contains("32 parentheses"));
        let chain = ["tcp"; 585].join(" or ");
        assert!(matches(&chain, &subject((1, 2))), "{}", chain.len());
        assert!(error(&"tcp or ".repeat(600)).1.contains("4096"));
        let right = "tcp and (".repeat(32) + "udp" + &")".repeat(32);
        assert!(!matches(&right, &subject((1, 2))));
    }

    #[test]
    fn it_travels_as_text() {
        let filter: Filter = serde_json::from_str("\" port 80 or 443 \"").unwrap();
        assert_eq!(serde_json::to_string(&filter).unwrap(), "\"port 80 or 443\"");
        let error = serde_json::from_str::<Filter>("\"port x\"").unwrap_err().to_string();
        assert!(error.contains("character 6"), "{error}");
    }

    #[test]
    fn flows_have_no_lengths() {
        assert!("tcp and port 80".parse::<Filter>().unwrap().check_for_flows().is_ok());
        for (text, at) in
            [("tcp and less 100", 8), ("drop", 0), ("arp host 10.0.0.1", 9), ("reason multicast", 7)]
        {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.check_for_flows().unwrap_err().at(), at);
        }
    }
}
