//! Rule sets, prefixes and traffic, from seeds.
//!
//! Prefix lengths follow the shape of the public IPv4 table: mostly /24, then /22, /23, /21, /20, a few short and a few
//! longer ones. Their places are uniform over the unicast space, which is harder on caches than the real, clustered
//! table. Members are hosts of 10.0.0.0/8.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::{
    Address, Direction, Family, GroupReference, PortRange, PrefixList, ProtocolMatch, RuleTarget,
    SecurityGroup, SecurityGroupRule, Snapshot,
};
use espalier_rules::Tuple;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::random::Random;

/// Prefix lengths with their share in a thousand.
pub const LENGTH_MIX: [(u8, usize); 13] = [
    (12, 2),
    (14, 3),
    (16, 13),
    (17, 8),
    (18, 13),
    (19, 25),
    (20, 45),
    (21, 50),
    (22, 115),
    (23, 100),
    (24, 600),
    (26, 13),
    (28, 13),
];

/// Prefix lists that a table of prefixes is dealt out to: the number of different answers a lookup can have.
pub const LISTS: usize = 64;

/// Packets of a run.
pub const PACKETS: usize = 1 << 16;

/// Distinct prefixes with the lengths of [`LENGTH_MIX`], in random order.
pub fn prefixes(count: usize, seed: u64) -> Vec<Ipv4Net> {
    let mut random = Random::new(seed);
    let mut known = BTreeSet::new();
    let mut list = Vec::with_capacity(count);
    while list.len() < count {
        let mut share = random.below(1000);
        let len = LENGTH_MIX.iter().find_map(|(len, own)| match share.checked_sub(*own) {
            Some(rest) => {
                share = rest;
                None
            }
            None => Some(*len),
        });
        let address = Ipv4Addr::from(0x0b00_0000 + random.below(0xd500_0000) as u32);
        let Ok(net) = Ipv4Net::new(address, len.unwrap_or(24)) else { continue };
        if known.insert(net.trunc()) {
            list.push(net.trunc());
        }
    }
    list
}

/// Distinct hosts of 10.0.0.0/8.
pub fn members(count: usize, seed: u64) -> Vec<Ipv4Addr> {
    let mut random = Random::new(seed);
    let mut known = BTreeSet::new();
    while known.len() < count {
        known.insert(Ipv4Addr::from(0x0a00_0000 + random.below(1 << 24) as u32));
    }
    known.into_iter().collect()
}

/// A snapshot with one pod, `bench/pod`, in one group, `sg-0`, without rules.
pub fn empty() -> Snapshot {
    Snapshot::from_json(
        br#"{"generation":1,"vpc":{"cidrs":["10.0.0.0/8"]},"trunk":{"interface":"trunk0"},
        "pods":[{"name":"bench/pod","eniId":"eni-1","vlan":1,"mac":"06:00:00:00:00:01","addresses":["10.0.0.9"],
        "subnets":["10.0.0.0/24"],"veth":"veth0","securityGroups":["sg-0"]}],"securityGroups":[{"groupId":"sg-0"}]}"#,
    )
    .unwrap_or_else(|error| unreachable!("the snapshot of the benches is valid: {error}"))
}

/// An ingress rule of `sg-0`.
pub fn rule(number: usize, protocol: ProtocolMatch, target: RuleTarget) -> SecurityGroupRule {
    let direction = Direction::Ingress;
    SecurityGroupRule {
        id: format!("sgr-{number:08x}").parse().ok(),
        group_id: None,
        direction,
        protocol,
        target,
        description: None,
    }
}

/// `prefixes` dealt out to [`LISTS`] prefix lists with a rule each: the prefix stage and nothing else.
pub fn prefix_table(prefixes: &[Ipv4Net]) -> Snapshot {
    let mut snapshot = empty();
    for number in 0..LISTS {
        let entries = prefixes.iter().skip(number).step_by(LISTS).map(|net| IpNet::V4(*net).into()).collect();
        let id = add_list(&mut snapshot, number, entries);
        snapshot.security_groups[0].rules.push(rule(number, ProtocolMatch::All, id));
    }
    snapshot
}

/// A rule set with what its rules match, for making traffic and for peers that want it flat.
pub struct RuleSet {
    /// The rules.
    pub snapshot: Snapshot,
    /// Every (prefix, protocol) that a rule allows.
    pub flat: Vec<(Ipv4Net, ProtocolMatch)>,
}

/// `count` rules, each for one CIDR.
pub fn cidr_rules(count: usize, seed: u64) -> RuleSet {
    let mut set = RuleSet { snapshot: empty(), flat: Vec::new() };
    let mut random = Random::new(seed);
    for (number, net) in prefixes(count, seed).into_iter().enumerate() {
        set.add(&mut random, number, RuleTarget::Cidr4(net), &[net]);
    }
    set
}

/// 1,000 rules over 10,000 prefixes and 10,000 members: 100 rules for prefix lists of 92 entries, 100 for groups of 100
/// members, 800 for single CIDRs. Ports: 70% TCP and 20% UDP (half single ports, half ranges), 10% all traffic.
pub fn thousand_rules() -> RuleSet {
    let (prefixes, members) = (prefixes(10_000, 11), members(10_000, 12));
    let (listed, single) = prefixes.split_at(9_200);
    let mut set = RuleSet { snapshot: empty(), flat: Vec::new() };
    let mut random = Random::new(13);
    for (number, nets) in listed.chunks(92).enumerate() {
        let entries = nets.iter().map(|net| IpNet::V4(*net).into()).collect();
        let target = add_list(&mut set.snapshot, number, entries);
        set.add(&mut random, number, target, nets);
    }
    for (number, hosts) in members.chunks(100).enumerate() {
        let nets: Vec<Ipv4Net> = hosts.iter().map(|host| Ipv4Net::from(*host)).collect();
        let Ok(group_id) = format!("sg-m{number}").parse() else { continue };
        let addresses: Vec<Address> = hosts.iter().map(|host| IpAddr::V4(*host).into()).collect();
        set.snapshot.group_members.insert(group_id, addresses);
        set.add(&mut random, 100 + number, group_target(number), &nets);
    }
    for (number, net) in single.iter().enumerate() {
        set.add(&mut random, 200 + number, RuleTarget::Cidr4(*net), &[*net]);
    }
    set
}

/// A reference to the group `sg-m<number>`.
pub fn group_target(number: usize) -> RuleTarget {
    let group_id = format!("sg-m{number}")
        .parse()
        .unwrap_or_else(|error| unreachable!("a number makes a group id: {error}"));
    RuleTarget::Group(GroupReference {
        group_id,
        user_id: None,
        vpc_id: None,
        vpc_peering_connection_id: None,
        peering_status: None,
    })
}

/// The IPv6 address that stands for an IPv4 one: its bits behind 16 of our own, so that a /24 becomes a /40.
pub fn ipv6_address(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2001 << 112 | u128::from(address.to_bits()) << 80 | 1)
}

/// The IPv6 prefix that holds what stands for the addresses of an IPv4 one; a host stays a host.
fn ipv6_prefix(net: Ipv4Net) -> IpNet {
    let len = if net.prefix_len() == 32 { 128 } else { 16 + net.prefix_len() };
    let net = Ipv6Net::new(ipv6_address(net.network()), len);
    net.unwrap_or_else(|error| unreachable!("no IPv4 prefix is too long for IPv6: {error}")).trunc().into()
}

/// The same rules, prefix lists and members in IPv6: a packet from [`ipv6_address`] meets the same answer.
pub fn in_ipv6(snapshot: &Snapshot) -> Snapshot {
    let address = |address: &Address| match address.net() {
        IpNet::V4(net) => Address::from(ipv6_prefix(net)),
        IpNet::V6(_) => *address,
    };
    let mut snapshot = snapshot.clone();
    for rule in snapshot.security_groups.iter_mut().flat_map(|group| &mut group.rules) {
        if let RuleTarget::Cidr4(net) = rule.target
            && let IpNet::V6(net) = ipv6_prefix(net)
        {
            rule.target = RuleTarget::Cidr6(net);
        }
    }
    for list in &mut snapshot.prefix_lists {
        list.address_family = Family::V6;
        list.entries = list.entries.iter().map(address).collect();
    }
    for members in snapshot.group_members.values_mut() {
        *members = members.iter().map(address).collect();
    }
    snapshot
}

fn add_list(snapshot: &mut Snapshot, number: usize, entries: Vec<Address>) -> RuleTarget {
    let prefix_list_id: espalier_api::PrefixListId = format!("pl-{number}")
        .parse()
        .unwrap_or_else(|error| unreachable!("a number makes a prefix list id: {error}"));
    let target = RuleTarget::PrefixList(prefix_list_id.clone());
    let address_family = Family::V4;
    snapshot.prefix_lists.push(PrefixList {
        prefix_list_id,
        name: None,
        address_family,
        version: None,
        entries,
    });
    target
}

impl RuleSet {
    fn add(&mut self, random: &mut Random, number: usize, target: RuleTarget, nets: &[Ipv4Net]) {
        let first = random.below(60_000) as u16;
        let last = if random.below(2) == 0 { first } else { first + random.below(5_000) as u16 };
        let range = PortRange::new(first, last).unwrap_or(PortRange::ALL);
        let protocol = match random.below(10) {
            0..=6 => ProtocolMatch::Tcp(range),
            7 | 8 => ProtocolMatch::Udp(range),
            _ => ProtocolMatch::All,
        };
        let group: &mut SecurityGroup = &mut self.snapshot.security_groups[0];
        group.rules.push(rule(number, protocol, target));
        self.flat.extend(nets.iter().map(|net| (*net, protocol)));
    }
}

/// How packets choose among what could be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Every prefix equally often.
    Uniform,
    /// 10,000 remotes, the n-th 1/n as often as the first.
    Zipf,
    /// No prefix (and no member) holds the remote.
    Miss,
}

impl Traffic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Zipf, Self::Miss];

    /// Name in a case.
    pub fn label(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Miss => "miss",
        }
    }

    /// [`PACKETS`] addresses among `nets`. `holds` says whether anything holds an address.
    pub fn remotes(self, nets: &[Ipv4Net], seed: u64, holds: impl Fn(Ipv4Addr) -> bool) -> Vec<Ipv4Addr> {
        let mut random = Random::new(seed);
        let inside = |random: &mut Random| {
            let net = random.of(nets);
            let host_bits = random.below(1 << (32 - u32::from(net.prefix_len()))) as u32;
            Ipv4Addr::from(u32::from(net.network()) | host_bits)
        };
        match self {
            Self::Uniform => (0..PACKETS).map(|_| inside(&mut random)).collect(),
            Self::Zipf => {
                let pool: Vec<Ipv4Addr> = (0..10_000).map(|_| inside(&mut random)).collect();
                let shares: Vec<f64> = (1..=pool.len())
                    .scan(0.0, |sum, n| {
                        *sum += 1.0 / n as f64;
                        Some(*sum)
                    })
                    .collect();
                let total = shares.last().copied().unwrap_or(1.0);
                let draw = |random: &mut Random| {
                    let place = random.unit() * total;
                    pool[shares.partition_point(|share| *share < place).min(pool.len() - 1)]
                };
                (0..PACKETS).map(|_| draw(&mut random)).collect()
            }
            Self::Miss => {
                let any = std::iter::repeat_with(|| Ipv4Addr::from(random.bits() as u32));
                any.filter(|address| !holds(*address)).take(PACKETS).collect()
            }
        }
    }
}

/// An ingress packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// The other end.
    pub remote: Ipv4Addr,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
}

impl Packet {
    /// As the engines take it.
    pub fn tuple(&self) -> Tuple {
        self.from(self.remote.into())
    }

    /// The same in IPv6.
    pub fn ipv6_tuple(&self) -> Tuple {
        self.from(ipv6_address(self.remote).into())
    }

    fn from(&self, remote: IpAddr) -> Tuple {
        Tuple::with_ports(Direction::Ingress, remote, self.protocol, 50_000, self.port)
    }
}

/// Packets to a rule set: the remote by `traffic`; half go to a port that some rule names, half anywhere.
pub fn packets(set: &RuleSet, traffic: Traffic, seed: u64, holds: impl Fn(Ipv4Addr) -> bool) -> Vec<Packet> {
    let nets: Vec<Ipv4Net> = set.flat.iter().map(|(net, _)| *net).collect();
    let mut random = Random::new(seed ^ 0x5eed);
    let remotes = traffic.remotes(&nets, seed, holds);
    let mut packet = |remote: Ipv4Addr| {
        let (protocol, port) = match random.of(&set.flat).1 {
            ProtocolMatch::Tcp(range) => (6, range.first()),
            ProtocolMatch::Udp(range) => (17, range.last()),
            _ => (6, 443),
        };
        let port = if random.below(2) == 0 { port } else { random.below(1 << 16) as u16 };
        Packet { remote, protocol, port }
    };
    remotes.into_iter().map(&mut packet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_a_whole_and_inputs_repeat() {
        assert_eq!(LENGTH_MIX.iter().map(|(_, share)| share).sum::<usize>(), 1000);
        assert_eq!(prefixes(100, 1), prefixes(100, 1));
        let set = thousand_rules();
        assert_eq!(set.snapshot.security_groups[0].rules.len(), 1000);
        assert_eq!(set.flat.len(), 20_000);
        set.snapshot.validate().unwrap();
        in_ipv6(&set.snapshot).validate().unwrap();
    }
}
