//! What one field alone cannot tell: uniqueness, references and families across a [`Snapshot`].
//!
//! Called by `Snapshot::validate`. The first offence found is reported, with the path of its field.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::InputError;
use crate::rule::{Family, RuleTarget};
use crate::snapshot::{ConnectionTracking, Pod, PrefixList, Snapshot};

/// Longest name of a network interface (`IFNAMSIZ` less the terminator, linux/if.h).
const INTERFACE_NAME_MAX: usize = 15;

pub(crate) fn snapshot(snapshot: &Snapshot) -> Result<(), InputError> {
    if !snapshot.ec2.is_empty() {
        return Err(InputError::new(
            "ec2",
            "files are read where the snapshot is loaded: send a snapshot without references",
        ));
    }
    interface("trunk.interface", &snapshot.trunk.interface)?;
    groups(snapshot)?;
    for (index, list) in snapshot.prefix_lists.iter().enumerate() {
        prefix_list(&format!("prefixLists[{index}]"), list)?;
    }
    unique(
        "prefixLists",
        "prefixListId",
        snapshot.prefix_lists.iter().map(|list| list.prefix_list_id.clone()),
    )?;
    pods(snapshot)
}

fn groups(snapshot: &Snapshot) -> Result<(), InputError> {
    unique("securityGroups", "groupId", snapshot.security_groups.iter().map(|group| group.group_id.clone()))?;
    let mut rule_ids = HashMap::new();
    for (index, group) in snapshot.security_groups.iter().enumerate() {
        for (rule_index, rule) in group.rules.iter().enumerate() {
            let path = format!("securityGroups[{index}].rules[{rule_index}]");
            if let Some(owner) = rule.group_id.as_ref().filter(|owner| **owner != group.group_id) {
                return Err(InputError::new(
                    format!("{path}.GroupId"),
                    format!("{owner} is not the group it stands in, {}", group.group_id),
                ));
            }
            if let Some(first) = rule.id.as_ref().and_then(|id| rule_ids.insert(id, path.clone())) {
                return Err(InputError::new(
                    format!("{path}.SecurityGroupRuleId"),
                    format!(
                        "{} stands at {first} already: rule ids are unique",
                        rule.id.as_ref().map_or("", |id| id.as_str())
                    ),
                ));
            }
            prefix_list_reference(snapshot, &path, &rule.target)?;
        }
    }
    Ok(())
}

/// A list that is not there would make the rule silently empty; unlike a group, it cannot be "no members yet".
fn prefix_list_reference(snapshot: &Snapshot, path: &str, target: &RuleTarget) -> Result<(), InputError> {
    let RuleTarget::PrefixList(id) = target else { return Ok(()) };
    if snapshot.prefix_lists.iter().any(|list| list.prefix_list_id == *id) {
        return Ok(());
    }
    Err(InputError::new(
        format!("{path}.PrefixListId"),
        format!("{id} is not in prefixLists: add the list with its entries"),
    ))
}

fn prefix_list(path: &str, list: &PrefixList) -> Result<(), InputError> {
    for (index, entry) in list.entries.iter().enumerate() {
        let family = Family::of(&entry.net());
        if family != list.address_family {
            return Err(InputError::new(
                format!("{path}.entries[{index}]"),
                format!(
                    "{} is {family} in a list of {}: a prefix list has one family",
                    entry.net(),
                    list.address_family
                ),
            ));
        }
    }
    Ok(())
}

fn pods(snapshot: &Snapshot) -> Result<(), InputError> {
    let pods = &snapshot.pods;
    unique("pods", "name", pods.iter().map(|pod| pod.name.clone()))?;
    unique("pods", "vlan", pods.iter().map(|pod| pod.vlan))?;
    unique("pods", "eniId", pods.iter().map(|pod| pod.eni_id.clone()))?;
    unique("pods", "mac", pods.iter().map(|pod| pod.mac))?;
    let known: HashSet<_> = snapshot.security_groups.iter().map(|group| &group.group_id).collect();
    let mut addresses = HashMap::new();
    let mut veths = HashMap::new();
    for (index, pod) in pods.iter().enumerate() {
        let path = format!("pods[{index}]");
        for (nth, address) in pod.addresses.iter().enumerate() {
            let field = format!("{path}.addresses[{nth}]");
            check_address(&field, *address)?;
            if let Some(other) = addresses.insert(*address, &pod.name) {
                return Err(InputError::new(field, format!("{address} belongs to pod {other} already")));
            }
        }
        for (nth, group) in pod.security_groups.iter().enumerate() {
            if !known.contains(group) {
                return Err(InputError::new(
                    format!("{path}.securityGroups[{nth}]"),
                    format!("{group} is not in securityGroups: add the group with its rules"),
                ));
            }
        }
        check_pod(&path, pod)?;
        if let Some(other) = pod.veth.as_ref().and_then(|veth| veths.insert(veth, &pod.name)) {
            return Err(InputError::new(format!("{path}.veth"), format!("belongs to pod {other} already")));
        }
    }
    Ok(())
}

fn check_pod(path: &str, pod: &Pod) -> Result<(), InputError> {
    if pod.addresses.is_empty() {
        return Err(InputError::new(format!("{path}.addresses"), "empty: a pod needs at least one address"));
    }
    if pod.security_groups.is_empty() {
        return Err(InputError::new(
            format!("{path}.securityGroups"),
            "empty: a network interface has at least one security group",
        ));
    }
    if pod.addresses.iter().any(IpAddr::is_ipv4) && pod.gateway_v4().is_none() {
        return Err(InputError::new(
            format!("{path}.subnets"),
            "no IPv4 subnet: give the branch's subnet, or gateway.ipv4",
        ));
    }
    if let Some(IpNet::V4(short)) =
        pod.subnets.iter().find(|net| matches!(net, IpNet::V4(net) if net.prefix_len() > 30))
    {
        return Err(InputError::new(format!("{path}.subnets"), format!("{short} has no room for a gateway")));
    }
    match (&pod.veth, &pod.netns) {
        (Some(veth), None) => interface(&format!("{path}.veth"), veth)?,
        (None, Some(_)) => {}
        _ => return Err(InputError::new(format!("{path}.veth"), "give either veth or netns, one of them")),
    }
    timeouts(&format!("{path}.connectionTracking"), &pod.connection_tracking)
}

fn timeouts(path: &str, tracking: &ConnectionTracking) -> Result<(), InputError> {
    for (field, value, low, high) in [
        ("tcpEstablishedTimeout", tracking.tcp_established_timeout, 60, 432_000),
        ("udpStreamTimeout", tracking.udp_stream_timeout, 60, 180),
        ("udpTimeout", tracking.udp_timeout, 30, 60),
    ] {
        if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
            return Err(InputError::new(
                format!("{path}.{field}"),
                format!("{value} s is out of range: EC2 accepts {low} to {high} s"),
            ));
        }
    }
    Ok(())
}

fn check_address(field: &str, address: IpAddr) -> Result<(), InputError> {
    let bad = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if bad {
        return Err(InputError::new(
            field,
            format!("{address} cannot be a pod's: expected a unicast address"),
        ));
    }
    Ok(())
}

fn interface(field: &str, name: &str) -> Result<(), InputError> {
    let fits = !name.is_empty() && name.len() <= INTERFACE_NAME_MAX && name != "." && name != "..";
    if fits && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':') {
        return Ok(());
    }
    Err(InputError::new(
        field,
        format!("{name:?} is not an interface name: expected 1 to 15 characters without / or :"),
    ))
}

fn unique<T: Hash + Eq + std::fmt::Display + Clone>(
    list: &str,
    field: &str,
    values: impl Iterator<Item = T>,
) -> Result<(), InputError> {
    let mut seen = HashMap::new();
    for (index, value) in values.enumerate() {
        if let Some(first) = seen.insert(value.clone(), index) {
            return Err(InputError::new(
                format!("{list}[{index}].{field}"),
                format!("{value} is used by {list}[{first}] already: it must be unique"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pods() -> Snapshot {
        Snapshot::from_yaml(
            "
generation: 1
trunk: {interface: trunk0}
pods:
  - {name: a/a, eniId: eni-1, vlan: 1, mac: '06:00:00:00:00:01', addresses: [10.0.1.10], subnets: [10.0.1.0/24], veth: va, securityGroups: [sg-1]}
  - {name: a/b, eniId: eni-2, vlan: 2, mac: '06:00:00:00:00:02', addresses: [10.0.1.11], subnets: [10.0.1.0/24], veth: vb, securityGroups: [sg-1]}
securityGroups: [{groupId: sg-1}]
",
        )
        .unwrap()
    }

    fn refused(change: impl FnOnce(&mut Snapshot)) -> InputError {
        let mut snapshot = two_pods();
        change(&mut snapshot);
        snapshot.validate().unwrap_err()
    }

    #[test]
    fn what_must_be_unique_is() {
        for (error, field) in [
            (refused(|s| s.pods[1].vlan = s.pods[0].vlan), "pods[1].vlan"),
            (refused(|s| s.pods[1].mac = s.pods[0].mac), "pods[1].mac"),
            (refused(|s| s.pods[1].name = s.pods[0].name.clone()), "pods[1].name"),
            (refused(|s| s.pods[1].eni_id = s.pods[0].eni_id.clone()), "pods[1].eniId"),
            (refused(|s| s.pods[1].addresses = s.pods[0].addresses.clone()), "pods[1].addresses[0]"),
            (refused(|s| s.pods[1].veth = s.pods[0].veth.clone()), "pods[1].veth"),
            (refused(|s| s.security_groups.push(s.security_groups[0].clone())), "securityGroups[1].groupId"),
        ] {
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn pods_need_an_address_a_group_a_gateway_and_a_port() {
        for (error, field) in [
            (refused(|s| s.pods[0].addresses.clear()), "pods[0].addresses"),
            (refused(|s| s.pods[0].addresses[0] = [224, 0, 0, 1].into()), "pods[0].addresses[0]"),
            (refused(|s| s.pods[0].security_groups.clear()), "pods[0].securityGroups"),
            (refused(|s| s.pods[0].subnets.clear()), "pods[0].subnets"),
            (refused(|s| s.pods[0].veth = None), "pods[0].veth"),
            (refused(|s| s.pods[0].netns = Some("/run/netns/x".into())), "pods[0].veth"),
            (refused(|s| s.trunk.interface = "a/b".into()), "trunk.interface"),
            (
                refused(|s| s.pods[0].connection_tracking.udp_timeout = Some(29)),
                "pods[0].connectionTracking.udpTimeout",
            ),
        ] {
            assert_eq!(error.field, field, "{error}");
        }
    }
}
