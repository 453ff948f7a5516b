//! Lowers one EC2 rule to what every engine evaluates: a predicate over protocol and selector, and plain prefixes.
//!
//! A selector is the destination port, or the ICMP type and code as one number; so every kind of rule is a range.
//! The order in which matching rules are attributed is defined here, once.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use espalier_api::{
    Direction, GroupId, IcmpMatch, ProtocolMatch, RuleId, RuleTarget, SecurityGroupRule, protocol,
};
use ipnet::IpNet;

use crate::tuple::{Tuple, icmp_selector};

/// Protocol and selectors of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Predicate {
    /// IP protocol; `None` = every protocol.
    pub protocol: Option<u8>,
    /// Lowest selector.
    pub first: u16,
    /// Highest selector.
    pub last: u16,
}

impl Predicate {
    /// What `protocol` means.
    pub fn new(protocol: ProtocolMatch) -> Self {
        let (number, first, last) = match protocol {
            ProtocolMatch::All => (None, 0, u16::MAX),
            ProtocolMatch::Tcp(range) => (Some(protocol::TCP), range.first(), range.last()),
            ProtocolMatch::Udp(range) => (Some(protocol::UDP), range.first(), range.last()),
            ProtocolMatch::Icmp(icmp) => icmp_range(protocol::ICMP, icmp),
            ProtocolMatch::Icmpv6(icmp) => icmp_range(protocol::ICMPV6, icmp),
            ProtocolMatch::Other(number) => (Some(number), 0, u16::MAX),
        };
        Self { protocol: number, first, last }
    }

    /// Whether protocol and selector match.
    pub fn contains(self, packet: &Tuple) -> bool {
        self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && (self.first..=self.last).contains(&packet.selector)
    }

    /// How much it covers: the fewer, the narrower. A rule for every protocol is wider than any other.
    pub fn width(self) -> u32 {
        u32::from(self.last - self.first) + u32::from(self.protocol.is_none())
    }

    /// Whether it covers every port of `protocol`.
    pub(crate) fn covers_all_of(self, protocol: u8) -> bool {
        self.protocol.is_none_or(|own| own == protocol) && self.first == 0 && self.last == u16::MAX
    }
}

fn icmp_range(number: u8, icmp: IcmpMatch) -> (Option<u8>, u16, u16) {
    let (first, last) = match icmp {
        IcmpMatch::Any => (0, u16::MAX),
        IcmpMatch::Type(t) => (icmp_selector(t, 0), icmp_selector(t, u8::MAX)),
        IcmpMatch::TypeCode(t, c) => (icmp_selector(t, c), icmp_selector(t, c)),
    };
    (Some(number), first, last)
}

/// A rule of the model with its target resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoweredRule {
    /// The group it belongs to.
    pub group: GroupId,
    /// Its place in the group.
    pub position: usize,
    /// The rule as EC2 has it.
    pub source: SecurityGroupRule,
    /// Protocol and selectors.
    pub predicate: Predicate,
    /// What the target stands for now: sorted, without repetition. Empty for a stale or unknown reference.
    pub prefixes: Arc<[IpNet]>,
}

impl LoweredRule {
    /// `sgr-…`, where it has an id.
    pub fn id(&self) -> Option<&RuleId> {
        self.source.id.as_ref()
    }

    /// Ingress or egress.
    pub fn direction(&self) -> Direction {
        self.source.direction
    }

    /// The rule's name in messages: its id, or its place in the group.
    pub fn label(&self) -> String {
        match self.id() {
            Some(id) => format!("{id} of {}", self.group),
            None => format!("rule {} of {}", self.position + 1, self.group),
        }
    }

    /// Length of the most specific prefix that holds `remote`.
    pub fn prefix_len(&self, remote: IpAddr) -> Option<u8> {
        self.prefixes.iter().filter(|net| net.contains(&remote)).map(IpNet::prefix_len).max()
    }

    /// Whether it permits all addresses of `remote`'s family. Only a CIDR rule does: a prefix list or a group that
    /// happens to hold everything stays tracked, which is always safe.
    pub fn is_world(&self, remote: IpAddr) -> bool {
        match &self.source.target {
            RuleTarget::Cidr4(net) => remote.is_ipv4() && net.prefix_len() == 0,
            RuleTarget::Cidr6(net) => remote.is_ipv6() && net.prefix_len() == 0,
            RuleTarget::PrefixList(_) | RuleTarget::Group(_) => false,
        }
    }

    /// Order of attribution among rules whose prefixes are equally specific.
    pub fn precedence(&self, other: &Self) -> Ordering {
        Precedence::of(&self.source, &self.group, self.position).cmp(&Precedence::of(
            &other.source,
            &other.group,
            other.position,
        ))
    }
}

/// Sorts rules whose prefixes are equally specific by attribution: narrowest ports, then id; rules without an id come
/// last, by group and position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence<'a> {
    width: u32,
    unnamed: bool,
    id: Option<&'a RuleId>,
    group: &'a GroupId,
    position: usize,
}

impl<'a> Precedence<'a> {
    pub(crate) fn of(rule: &'a SecurityGroupRule, group: &'a GroupId, position: usize) -> Self {
        let id = rule.id.as_ref();
        let width = Predicate::new(rule.protocol).width();
        Self { width, unnamed: id.is_none(), id, group, position }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_api::PortRange;

    #[test]
    fn widths_order_from_one_port_to_every_protocol() {
        let tcp = |first, last| ProtocolMatch::Tcp(PortRange::new(first, last).unwrap());
        let widths: Vec<u32> = [
            tcp(80, 80),
            tcp(80, 81),
            ProtocolMatch::Icmp(IcmpMatch::Type(8)),
            tcp(0, 65535),
            ProtocolMatch::All,
        ]
        .into_iter()
        .map(|protocol| Predicate::new(protocol).width())
        .collect();
        assert!(widths.is_sorted_by(|a, b| a < b), "{widths:?}");
        assert_eq!(Predicate::new(ProtocolMatch::Other(50)).width(), Predicate::new(tcp(0, 65535)).width());
    }

    #[test]
    fn an_icmp_type_is_the_range_of_its_codes() {
        let predicate = Predicate::new(ProtocolMatch::Icmp(IcmpMatch::Type(3)));
        assert_eq!((predicate.first, predicate.last), (0x0300, 0x03ff));
    }
}
