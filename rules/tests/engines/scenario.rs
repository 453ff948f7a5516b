//! From bytes to snapshots that differ by a little, and packets that miss rules by a little; then the comparison.
//!
//! Addresses, ports and prefixes come from small sets whose members nest, touch or differ by one.

use std::net::IpAddr;
use std::sync::Arc;

use espalier_api::{
    Address, Direction, Family, GroupId, GroupReference, IcmpMatch, Pod, PortRange, PrefixList,
    ProtocolMatch, RuleTarget, SecurityGroup, SecurityGroupRule, Snapshot,
};
use espalier_rules::{Compiler, Decision, Direct, Engine, Judge, PolicyId, Settings, Tuple, direct};
use ipnet::IpNet;

const CIDRS: [&str; 20] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "10.0.0.0/8",
    "10.0.0.0/15",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.0/25",
    "10.0.1.128/25",
    "10.0.1.10/31",
    "10.0.1.10/32",
    "10.0.1.11/32",
    "10.1.0.0/16",
    "::/0",
    "2001:db8::/32",
    "2001:db8:0:1::/64",
    "2001:db8:0:1::10/127",
    "2001:db8:0:1::10/128",
    "2001:db8:0:2::/64",
    "fd00::/8",
    "::ffff:0:0/96",
];
const REMOTES: [&str; 24] = [
    "10.0.1.10",
    "10.0.1.11",
    "10.0.1.9",
    "10.0.1.12",
    "10.0.1.127",
    "10.0.1.128",
    "10.0.2.0",
    "10.0.0.255",
    "10.1.0.1",
    "10.2.0.1",
    "9.255.255.255",
    "11.0.0.0",
    "203.0.113.9",
    "169.254.169.253",
    "10.0.0.2",
    "2001:db8:0:1::10",
    "2001:db8:0:1::11",
    "2001:db8:0:1::12",
    "2001:db8:0:2::1",
    "2001:db8:0:3::1",
    "2001:db9::1",
    "fd00:ec2::253",
    "fe80:ec2::1",
    "::ffff:10.0.1.10",
];
const PORTS: [u16; 12] = [0, 1, 22, 52, 53, 54, 79, 80, 81, 443, 65534, 65535];
const PROTOCOLS: [u8; 7] = [6, 17, 1, 58, 50, 51, 0];
const GROUPS: [&str; 5] = ["sg-0", "sg-1", "sg-2", "sg-3", "sg-missing"];
const LISTS: [&str; 2] = ["pl-4", "pl-6"];
/// Updates of a scenario, and packets judged after each.
const STEPS: usize = 4;
const PACKETS: usize = 40;

/// Bytes as a sequence of small choices; zeros when they run out.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % bound
    }

    fn of<'b, T>(&mut self, list: &'b [T]) -> &'b T {
        &list[self.below(list.len())]
    }

    fn parsed<T: std::str::FromStr>(&mut self, list: &[&str]) -> T
    where
        T::Err: std::fmt::Debug,
    {
        self.of(list).parse().expect("the lists of this file are well-formed")
    }
}

/// Builds a snapshot and compares the engines on it and on a few that follow from it.
pub(crate) fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes.iter());
    let mut snapshot = first(&mut choices);
    let mut settings = Settings::default();
    if choices.below(3) == 0 {
        settings.always_tracked.push(choices.parsed(&CIDRS));
    }
    let settings = Arc::new(settings);
    let mut compiler = Compiler::with_settings(Arc::new(snapshot.clone()), settings.clone());
    compare(&mut choices, &snapshot, &settings, &compiler.judge());
    for _ in 0..STEPS {
        let old = compiler.judge();
        let old_snapshot = snapshot.clone();
        for _ in 0..=choices.below(3) {
            mutate(&mut choices, &mut snapshot);
        }
        compiler.update(Arc::new(snapshot.clone()));
        let updated = compiler.judge();
        compare(&mut choices, &snapshot, &settings, &updated);
        compare(&mut choices, &old_snapshot, &settings, &old);
        let fresh = Compiler::with_settings(Arc::new(snapshot.clone()), settings.clone());
        assert_eq!(fresh.prefix_count(), compiler.prefix_count(), "prefixes left behind or lost");
        assert_eq!(fresh.class_count(), compiler.class_count(), "classes left behind or lost");
        compare(&mut choices, &snapshot, &settings, &fresh.judge());
    }
}

fn first(choices: &mut Choices<'_>) -> Snapshot {
    let mut snapshot = Snapshot::from_json(
        br#"{"generation":1,"vpc":{"cidrs":["10.0.0.0/16"]},"trunk":{"interface":"t"},
        "prefixLists":[{"prefixListId":"pl-4","addressFamily":"IPv4"},{"prefixListId":"pl-6","addressFamily":"IPv6"}]}"#,
    )
    .expect("a valid snapshot");
    for id in &GROUPS[..4] {
        let rules = (0..choices.below(9)).map(|_| rule(choices)).collect();
        let group_id = id.parse().expect("a group id");
        snapshot.security_groups.push(SecurityGroup {
            group_id,
            group_name: None,
            description: None,
            vpc_id: None,
            audit: false,
            rules,
        });
    }
    for _ in 0..=choices.below(3) {
        add_pod(choices, &mut snapshot);
    }
    for _ in 0..choices.below(8) {
        mutate(choices, &mut snapshot);
    }
    number_rules(&mut snapshot);
    snapshot
}

fn rule(choices: &mut Choices<'_>) -> SecurityGroupRule {
    let mut range = || {
        let (a, b) = (*choices.of(&PORTS), *choices.of(&PORTS));
        PortRange::new(a.min(b), a.max(b)).expect("in order")
    };
    let (narrow, icmp) = (range(), range());
    let icmp = match choices.below(3) {
        0 => IcmpMatch::Any,
        1 => IcmpMatch::Type(icmp.first() as u8),
        _ => IcmpMatch::TypeCode(icmp.first() as u8, icmp.last() as u8),
    };
    let protocol = match choices.below(8) {
        0 => ProtocolMatch::All,
        1 | 2 => ProtocolMatch::Tcp(narrow),
        3 => ProtocolMatch::Udp(narrow),
        4 => ProtocolMatch::Tcp(PortRange::ALL),
        5 => ProtocolMatch::Icmp(icmp),
        6 => ProtocolMatch::Icmpv6(icmp),
        _ => ProtocolMatch::Other(50),
    };
    // What makes flows untracked must not be rare.
    let everywhere = choices.below(4) == 0;
    let protocol = if everywhere && choices.below(2) == 0 { ProtocolMatch::All } else { protocol };
    let target = match if everywhere { 9 } else { choices.below(6) } {
        9 => match choices.below(2) {
            0 => RuleTarget::Cidr4(Default::default()),
            _ => RuleTarget::Cidr6(Default::default()),
        },
        0 => RuleTarget::PrefixList(choices.parsed(&LISTS)),
        1 | 2 => RuleTarget::Group(GroupReference {
            group_id: choices.parsed(&GROUPS),
            user_id: None,
            vpc_id: None,
            vpc_peering_connection_id: None,
            peering_status: [None, Some("active"), Some("deleted")][choices.below(3)].map(String::from),
        }),
        _ => match choices.parsed(&CIDRS) {
            IpNet::V4(net) => RuleTarget::Cidr4(net),
            IpNet::V6(net) => RuleTarget::Cidr6(net),
        },
    };
    let direction = *choices.of(&[Direction::Ingress, Direction::Egress]);
    // Marked with a number later, so that ids are unique.
    let id = (choices.below(3) > 0).then(|| "sgr-x".parse().expect("a rule id"));
    SecurityGroupRule { id, group_id: None, direction, protocol, target, description: None }
}

/// Gives new rules with an id one of their own; what has one keeps it.
fn number_rules(snapshot: &mut Snapshot) {
    let rules = || snapshot.security_groups.iter().flat_map(|group| &group.rules);
    let numbers =
        rules().filter_map(|rule| rule.id.as_ref()?.as_str().strip_prefix("sgr-")?.parse::<u32>().ok());
    let mut next = numbers.max().unwrap_or(0);
    for rule in snapshot.security_groups.iter_mut().flat_map(|group| &mut group.rules) {
        if rule.id.as_ref().is_some_and(|id| id.as_str() == "sgr-x") {
            next += 1;
            rule.id = format!("sgr-{next}").parse().ok();
        }
    }
}

fn add_pod(choices: &mut Choices<'_>, snapshot: &mut Snapshot) {
    let number = snapshot.pods.iter().map(|pod| pod.vlan.get()).max().unwrap_or(0) + 1;
    let address = format!("10.0.1.{}", 9 + number);
    let text = format!(
        r#"{{"name":"a/p{number}","eniId":"eni-{number}","vlan":{number},"mac":"06:00:00:00:00:{number:02x}",
        "addresses":["{address}"],"subnets":["10.0.1.0/24"],"veth":"v{number}","securityGroups":[]}}"#
    );
    let mut pod: Pod = serde_json::from_str(&text).expect("a valid pod");
    if choices.below(2) == 1 {
        pod.addresses.push(format!("2001:db8:0:1::{:x}", 15 + number).parse().expect("an address"));
    }
    pod.security_groups = (0..=choices.below(3)).map(|_| choices.parsed(&GROUPS[..4])).collect();
    snapshot.pods.push(pod);
}

/// One of the changes the agent may send.
fn mutate(choices: &mut Choices<'_>, snapshot: &mut Snapshot) {
    match choices.below(9) {
        0 | 1 => {
            let members = snapshot.group_members.entry(choices.parsed(&GROUPS)).or_default();
            toggle(members, choices.parsed(&CIDRS[1..]));
        }
        2 => {
            let members = snapshot.group_members.entry(choices.parsed(&GROUPS)).or_default();
            let remote: IpAddr = choices.parsed(&REMOTES);
            toggle(members, remote.into());
        }
        3 | 4 => {
            let list: &mut PrefixList = &mut snapshot.prefix_lists[choices.below(2)];
            let net: IpNet = choices.parsed(&CIDRS);
            if Family::of(&net) == list.address_family {
                toggle(&mut list.entries, net.into());
            }
        }
        5 => {
            let place = choices.below(4);
            let rule = rule(choices);
            if let Some(group) = snapshot.security_groups.get_mut(place) {
                group.rules.insert(choices.below(group.rules.len() + 1), rule);
            }
        }
        6 => {
            let place = choices.below(4);
            if let Some(group) =
                snapshot.security_groups.get_mut(place).filter(|group| !group.rules.is_empty())
            {
                group.rules.remove(choices.below(group.rules.len()));
            }
        }
        7 if snapshot.pods.len() > 1 && choices.below(2) == 0 => {
            snapshot.pods.remove(choices.below(snapshot.pods.len()));
        }
        7 => add_pod(choices, snapshot),
        _ => {
            let pod = choices.below(snapshot.pods.len().max(1));
            if let Some(pod) = snapshot.pods.get_mut(pod) {
                pod.security_groups = (0..=choices.below(3)).map(|_| choices.parsed(&GROUPS[..4])).collect();
            }
        }
    }
    number_rules(snapshot);
}

fn toggle(list: &mut Vec<Address>, address: Address) {
    match list.iter().position(|own| *own == address) {
        Some(at) => drop(list.remove(at)),
        None => list.push(address),
    }
}

fn packet(choices: &mut Choices<'_>) -> Tuple {
    let direction = *choices.of(&[Direction::Ingress, Direction::Egress]);
    let remote = choices.parsed(&REMOTES);
    let (a, b) = (*choices.of(&PORTS), *choices.of(&PORTS));
    match *choices.of(&PROTOCOLS) {
        protocol @ (6 | 17) => Tuple::with_ports(direction, remote, protocol, a, b),
        protocol @ (1 | 58) => Tuple::icmp(direction, remote, protocol, a as u8, b as u8),
        protocol => Tuple::bare(direction, remote, protocol),
    }
}

/// The decision in terms that do not depend on numbering.
fn named(judge: &Judge, decision: Decision) -> Direct {
    match decision {
        Decision::Allow { rule, tracked } => {
            let rule = judge.rule(rule).expect("the decision's rule is of this judge");
            Direct::Allow { group: rule.group.clone(), position: rule.position, tracked }
        }
        Decision::Unfiltered { service } => Direct::Unfiltered(service.index()),
        Decision::Deny => Direct::Deny,
    }
}

fn compare(choices: &mut Choices<'_>, snapshot: &Snapshot, settings: &Arc<Settings>, fast: &Judge) {
    let (plain, _) = Judge::plain_with_settings(snapshot, settings.clone());
    let mut asked: Vec<(PolicyId, Tuple)> = Vec::new();
    let mut wanted = Vec::new();
    for _ in 0..PACKETS {
        let pod = choices.below(snapshot.pods.len().max(1));
        let (Some(policy), Some(same)) = (fast.policy_of(pod), plain.policy_of(pod)) else { continue };
        let packet = packet(choices);
        let answer = direct(snapshot, settings, pod, &packet);
        assert_eq!(named(&plain, plain.judge(same, &packet)), answer, "linear, pod {pod}, {packet:?}");
        assert_eq!(named(fast, fast.judge(policy, &packet)), answer, "compiled, pod {pod}, {packet:?}");
        asked.push((policy, packet));
        wanted.push(answer);
    }
    let mut decisions = vec![Decision::Deny; asked.len()];
    fast.judge_batch(&asked, &mut decisions);
    let got: Vec<Direct> = decisions.into_iter().map(|decision| named(fast, decision)).collect();
    assert_eq!(got, wanted, "batch");
    let groups: Vec<&GroupId> = snapshot.security_groups.iter().map(|group| &group.group_id).collect();
    assert_eq!(fast.model().groups().len(), groups.len());
}
