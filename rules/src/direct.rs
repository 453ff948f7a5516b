//! The second oracle: answers from the snapshot's EC2 rules as they stand, sharing nothing with lowering or tables.
//!
//! It looks up every reference anew for every packet. Tests and the fuzz target hold the engines to it.

use std::net::IpAddr;

use espalier_api::{GroupId, IcmpMatch, ProtocolMatch, RuleTarget, SecurityGroupRule, Snapshot};
use ipnet::IpNet;

use crate::settings::Settings;
use crate::tuple::Tuple;

/// What the rules of a snapshot say about a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direct {
    /// A rule allows it: the group and the rule's place in it.
    Allow {
        /// The group.
        group: GroupId,
        /// Index of the rule.
        position: usize,
        /// Whether the flow is tracked.
        tracked: bool,
    },
    /// A never-filtered service: its place in the list.
    Unfiltered(usize),
    /// Nothing allows it.
    Deny,
}

/// Evaluates `snapshot.pods[pod]`'s groups for a packet.
pub fn direct(snapshot: &Snapshot, settings: &Settings, pod: usize, packet: &Tuple) -> Direct {
    let services = crate::Services::new(snapshot);
    let service = services.list().iter().position(|service| {
        service.address == packet.remote
            && service.protocol.unwrap_or(packet.protocol) == packet.protocol
            && service.port.unwrap_or(packet.remote_port) == packet.remote_port
    });
    if let Some(service) = service {
        return Direct::Unfiltered(service);
    }
    let Some(pod) = snapshot.pods.get(pod) else { return Direct::Deny };
    let own = || {
        let groups =
            snapshot.security_groups.iter().filter(|group| pod.security_groups.contains(&group.group_id));
        groups.flat_map(|group| {
            group.rules.iter().enumerate().map(move |(position, rule)| (&group.group_id, position, rule))
        })
    };
    let mut best: Option<(Rank<'_>, &GroupId, usize)> = None;
    for (group, position, rule) in own().filter(|(_, _, rule)| rule.direction == packet.direction) {
        let Some(length) = matched_length(snapshot, rule, packet.remote).filter(|_| covers(rule, packet))
        else {
            continue;
        };
        let rank = Rank {
            generality: 128 - length,
            ports: ports(rule.protocol),
            id: rule.id.as_ref().map_or((1, ""), |id| (0, id.as_str())),
            place: (group.as_str(), position),
        };
        if best.as_ref().is_none_or(|(other, _, _)| rank < *other) {
            best = Some((rank, group, position));
        }
    }
    let Some((_, group, position)) = best else { return Direct::Deny };
    let open_here = own().any(|(_, _, rule)| {
        rule.direction == packet.direction && everywhere(rule, packet.remote) && covers(rule, packet)
    });
    let open_back = own().any(|(_, _, rule)| {
        rule.direction != packet.direction
            && everywhere(rule, packet.remote)
            && all_ports(rule, packet.protocol)
    });
    let listed = settings.always_tracked.iter().any(|prefix| prefix.contains(&packet.remote));
    let untracked = matches!(packet.protocol, 6 | 17) && open_here && open_back && !listed;
    Direct::Allow { group: group.clone(), position, tracked: !untracked }
}

/// Order of attribution: the least wins.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    generality: u8,
    ports: u32,
    id: (u8, &'a str),
    place: (&'a str, usize),
}

/// How many ports (or types and codes) a rule covers; every protocol is more than all of one.
fn ports(protocol: ProtocolMatch) -> u32 {
    match protocol {
        ProtocolMatch::All => 65537,
        ProtocolMatch::Tcp(range) | ProtocolMatch::Udp(range) => {
            u32::from(range.last()) - u32::from(range.first()) + 1
        }
        ProtocolMatch::Icmp(icmp) | ProtocolMatch::Icmpv6(icmp) => match icmp {
            IcmpMatch::Any => 65536,
            IcmpMatch::Type(_) => 256,
            IcmpMatch::TypeCode(..) => 1,
        },
        ProtocolMatch::Other(_) => 65536,
    }
}

fn covers(rule: &SecurityGroupRule, packet: &Tuple) -> bool {
    let [icmp_type, code] = packet.selector.to_be_bytes();
    match rule.protocol {
        ProtocolMatch::All => true,
        ProtocolMatch::Tcp(range) => packet.protocol == 6 && range.contains(packet.selector),
        ProtocolMatch::Udp(range) => packet.protocol == 17 && range.contains(packet.selector),
        ProtocolMatch::Icmp(icmp) => packet.protocol == 1 && icmp.contains(icmp_type, code),
        ProtocolMatch::Icmpv6(icmp) => packet.protocol == 58 && icmp.contains(icmp_type, code),
        ProtocolMatch::Other(number) => packet.protocol == number,
    }
}

/// Length of the longest prefix of the rule's target that holds the address, on a scale where a host is 128.
fn matched_length(snapshot: &Snapshot, rule: &SecurityGroupRule, remote: IpAddr) -> Option<u8> {
    let scaled = |net: IpNet| {
        let missing = net.max_prefix_len() - net.prefix_len();
        net.contains(&remote).then_some(128 - missing)
    };
    match &rule.target {
        RuleTarget::Cidr4(net) => scaled(IpNet::V4(*net)),
        RuleTarget::Cidr6(net) => scaled(IpNet::V6(*net)),
        RuleTarget::PrefixList(id) => {
            let lists = snapshot.prefix_lists.iter().filter(|list| list.prefix_list_id == *id);
            lists.flat_map(|list| &list.entries).filter_map(|entry| scaled(entry.net())).max()
        }
        RuleTarget::Group(reference) => {
            if reference.peering_status.as_deref().is_some_and(|status| status != "active") {
                return None;
            }
            let group = &reference.group_id;
            let listed = snapshot.group_members.get(group).into_iter().flatten().map(|member| member.net());
            let pods = snapshot.pods.iter().filter(|pod| pod.security_groups.contains(group));
            let addresses = pods.flat_map(|pod| pod.addresses.iter().map(|address| IpNet::from(*address)));
            listed.chain(addresses).filter_map(scaled).max()
        }
    }
}

fn everywhere(rule: &SecurityGroupRule, remote: IpAddr) -> bool {
    match &rule.target {
        RuleTarget::Cidr4(net) => net.prefix_len() == 0 && remote.is_ipv4(),
        RuleTarget::Cidr6(net) => net.prefix_len() == 0 && remote.is_ipv6(),
        _ => false,
    }
}

fn all_ports(rule: &SecurityGroupRule, protocol: u8) -> bool {
    match rule.protocol {
        ProtocolMatch::All => true,
        ProtocolMatch::Tcp(range) => protocol == 6 && (range.first(), range.last()) == (0, u16::MAX),
        ProtocolMatch::Udp(range) => protocol == 17 && (range.first(), range.last()) == (0, u16::MAX),
        _ => false,
    }
}
