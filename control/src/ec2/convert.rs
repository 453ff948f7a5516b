//! The SDK's types turned into the agent's. Pure.
//!
//! What cannot be understood is left out and named in `odd`: rules only allow, so that leaving one out never opens
//! anything.

use std::collections::{HashMap, HashSet};

use aws_sdk_ec2::types as sdk;
use espalier_api::{
    Address, ConnectionTracking, Direction, Ec2Rule, Family, GroupId, GroupReference, IpProtocolText,
    PrefixListId, RuleId, SecurityGroup, SecurityGroupRule,
};
use ipnet::IpNet;

use crate::facts::InterfaceFacts;

/// A group as `DescribeSecurityGroups` tells it: no rule has an id yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchedGroup {
    pub(crate) group: SecurityGroup,
    /// Account that owns it.
    pub(crate) owner: Option<String>,
    /// Its tags, for selectors.
    pub(crate) tags: Vec<(String, String)>,
    /// What could not be understood.
    pub(crate) odd: Vec<String>,
}

/// A prefix list without its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListHead {
    pub(crate) name: Option<String>,
    pub(crate) family: Family,
    /// AWS's own lists show none.
    pub(crate) version: Option<i64>,
}

/// What makes a rule the same rule in two answers; a group has no two such.
pub(crate) fn rule_key(rule: &SecurityGroupRule) -> String {
    format!("{} {} {}", rule.direction, rule.protocol, rule.target)
}

pub(crate) fn group(group: &sdk::SecurityGroup) -> Option<FetchedGroup> {
    let group_id: GroupId = group.group_id()?.parse().ok()?;
    let (mut rules, mut odd) = (Vec::new(), Vec::new());
    let directions =
        [(Direction::Ingress, group.ip_permissions()), (Direction::Egress, group.ip_permissions_egress())];
    for (direction, permissions) in directions {
        for permission in permissions {
            for rule in flattened(direction, permission) {
                match rule.and_then(SecurityGroupRule::try_from) {
                    Ok(rule) => rules.push(rule),
                    Err(message) => odd.push(message),
                }
            }
        }
    }
    // EC2 promises no order.
    rules.sort_by(|a, b| (a.direction, a.protocol, &a.target).cmp(&(b.direction, b.protocol, &b.target)));
    let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let group_name = text(group.group_name());
    let (description, vpc_id) = (text(group.description()), text(group.vpc_id()));
    Some(FetchedGroup {
        owner: text(group.owner_id()),
        tags: group.tags().iter().map(tag).collect(),
        group: SecurityGroup { group_id, group_name, description, vpc_id, audit: false, rules },
        odd,
    })
}

fn tag(tag: &sdk::Tag) -> (String, String) {
    (tag.key().unwrap_or_default().to_owned(), tag.value().unwrap_or_default().to_owned())
}

/// One permission stands for a rule per source.
fn flattened(
    direction: Direction,
    permission: &sdk::IpPermission,
) -> impl Iterator<Item = Result<Ec2Rule, String>> {
    let base = move |description: Option<&str>| Ec2Rule {
        is_egress: direction == Direction::Egress,
        ip_protocol: protocol(permission.ip_protocol()),
        from_port: permission.from_port().map(i64::from),
        to_port: permission.to_port().map(i64::from),
        description: description.map(str::to_owned),
        ..Ec2Rule::default()
    };
    let v4 = permission.ip_ranges().iter().map(move |range| {
        Ok(Ec2Rule { cidr_ipv4: range.cidr_ip().map(str::to_owned), ..base(range.description()) })
    });
    let v6 = permission.ipv6_ranges().iter().map(move |range| {
        Ok(Ec2Rule { cidr_ipv6: range.cidr_ipv6().map(str::to_owned), ..base(range.description()) })
    });
    let lists = permission.prefix_list_ids().iter().map(move |list| {
        let id = list.prefix_list_id().unwrap_or_default().parse()?;
        Ok(Ec2Rule { prefix_list_id: Some(id), ..base(list.description()) })
    });
    let groups = permission.user_id_group_pairs().iter().map(move |pair| {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let reference = GroupReference {
            group_id: pair.group_id().unwrap_or_default().parse()?,
            user_id: text(pair.user_id()),
            vpc_id: text(pair.vpc_id()),
            vpc_peering_connection_id: text(pair.vpc_peering_connection_id()),
            peering_status: text(pair.peering_status()),
        };
        Ok(Ec2Rule { referenced_group_info: Some(reference), ..base(pair.description()) })
    });
    v4.chain(v6).chain(lists).chain(groups)
}

fn protocol(text: Option<&str>) -> IpProtocolText {
    text.map_or(IpProtocolText::Missing, |text| IpProtocolText::Text(text.to_owned()))
}

/// Group, key and id of a rule as `DescribeSecurityGroupRules` tells it.
pub(crate) fn rule_id(rule: &sdk::SecurityGroupRule) -> Result<(GroupId, String, RuleId), String> {
    let group: GroupId = rule.group_id().unwrap_or_default().parse()?;
    let id: RuleId = rule.security_group_rule_id().unwrap_or_default().parse()?;
    let reference = |info: &sdk::ReferencedSecurityGroup| {
        let group_id = info.group_id().unwrap_or_default().parse()?;
        let (user_id, vpc_id, vpc_peering_connection_id, peering_status) = (None, None, None, None);
        Ok::<_, String>(GroupReference {
            group_id,
            user_id,
            vpc_id,
            vpc_peering_connection_id,
            peering_status,
        })
    };
    let rule = Ec2Rule {
        is_egress: rule.is_egress().unwrap_or_default(),
        ip_protocol: protocol(rule.ip_protocol()),
        from_port: rule.from_port().map(i64::from),
        to_port: rule.to_port().map(i64::from),
        cidr_ipv4: rule.cidr_ipv4().map(str::to_owned),
        cidr_ipv6: rule.cidr_ipv6().map(str::to_owned),
        prefix_list_id: rule.prefix_list_id().map(str::parse).transpose()?,
        referenced_group_info: rule.referenced_group_info().map(reference).transpose()?,
        ..Ec2Rule::default()
    };
    Ok((group, rule_key(&SecurityGroupRule::try_from(rule)?), id))
}

/// An interface as the node's pods have it. Without its subnets' CIDR blocks, which another call tells.
pub(crate) fn interface(interface: &sdk::NetworkInterface) -> InterfaceFacts {
    let tracking = interface.connection_tracking_configuration();
    InterfaceFacts {
        vpc_id: interface.vpc_id().map(str::to_owned),
        subnet_id: interface.subnet_id().map(str::to_owned),
        subnets: Vec::new(),
        mac: interface.mac_address().and_then(|mac| mac.parse().ok()),
        groups: groups_of(interface).collect(),
        addresses: addresses(interface),
        connection_tracking: tracking.map_or_else(ConnectionTracking::default, |tracking| {
            ConnectionTracking {
                tcp_established_timeout: seconds(tracking.tcp_established_timeout()),
                udp_stream_timeout: seconds(tracking.udp_stream_timeout()),
                udp_timeout: seconds(tracking.udp_timeout()),
            }
        }),
    }
}

/// Default timeouts of an instance type.
pub(crate) fn tracking_defaults(info: &sdk::InstanceTypeInfo) -> ConnectionTracking {
    let defaults = info.network_info().and_then(|network| network.connection_tracking_configuration());
    defaults.map_or_else(ConnectionTracking::default, |defaults| ConnectionTracking {
        tcp_established_timeout: seconds(defaults.default_tcp_established_timeout()),
        udp_stream_timeout: seconds(defaults.default_udp_stream_timeout()),
        udp_timeout: seconds(defaults.default_udp_timeout()),
    })
}

fn seconds(value: Option<i32>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0)
}

fn groups_of(interface: &sdk::NetworkInterface) -> impl Iterator<Item = GroupId> {
    interface.groups().iter().filter_map(|group| group.group_id()?.parse().ok())
}

/// Primary, secondary, IPv6, delegated prefixes; each once.
fn addresses(interface: &sdk::NetworkInterface) -> Vec<Address> {
    let secondary = interface.private_ip_addresses().iter().filter_map(|a| a.private_ip_address());
    let v6 = interface.ipv6_addresses().iter().filter_map(|a| a.ipv6_address());
    let prefixes = interface.ipv4_prefixes().iter().filter_map(|a| a.ipv4_prefix());
    let prefixes6 = interface.ipv6_prefixes().iter().filter_map(|a| a.ipv6_prefix());
    let all = interface.private_ip_address().into_iter().chain(secondary).chain(v6);
    let mut addresses: Vec<Address> = Vec::new();
    for address in all.chain(prefixes).chain(prefixes6).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Adds an interface to the members of those of its groups that were asked for.
pub(crate) fn add_members(members: &mut HashMap<GroupId, Vec<Address>>, interface: &sdk::NetworkInterface) {
    let addresses = addresses(interface);
    for group in groups_of(interface) {
        if let Some(members) = members.get_mut(&group) {
            members.extend(&addresses);
        }
    }
}

pub(crate) fn list_head(list: &sdk::ManagedPrefixList) -> Option<(PrefixListId, ListHead)> {
    let id = list.prefix_list_id()?.parse().ok()?;
    let family = if list.address_family() == Some("IPv6") { Family::V6 } else { Family::V4 };
    let name = list.prefix_list_name().map(str::to_owned);
    Some((id, ListHead { name, family, version: list.version().filter(|version| *version > 0) }))
}

/// CIDR blocks of a subnet, IPv4 first.
pub(crate) fn subnet_blocks(subnet: &sdk::Subnet) -> Vec<IpNet> {
    let v6 = subnet.ipv6_cidr_block_association_set().iter().filter(|block| {
        let state = block.ipv6_cidr_block_state().and_then(|state| state.state());
        state.is_none_or(|state| *state == sdk::SubnetCidrBlockStateCode::Associated)
    });
    blocks(subnet.cidr_block().into_iter().chain(v6.filter_map(|block| block.ipv6_cidr_block())))
}

/// CIDR blocks of a VPC, the primary one first.
pub(crate) fn vpc_blocks(vpc: &sdk::Vpc) -> Vec<IpNet> {
    let in_use = |state: Option<&sdk::VpcCidrBlockState>| {
        let state = state.and_then(|state| state.state());
        state.is_none_or(|state| *state == sdk::VpcCidrBlockStateCode::Associated)
    };
    let v4 = vpc.cidr_block_association_set().iter().filter(|block| in_use(block.cidr_block_state()));
    let v6 =
        vpc.ipv6_cidr_block_association_set().iter().filter(|block| in_use(block.ipv6_cidr_block_state()));
    let v4 = v4.filter_map(|block| block.cidr_block());
    let v6 = v6.filter_map(|block| block.ipv6_cidr_block());
    blocks(vpc.cidr_block().into_iter().chain(v4).chain(v6))
}

fn blocks<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpNet> {
    let mut seen = HashSet::new();
    texts.filter_map(|text| text.parse().ok()).filter(|net| seen.insert(*net)).collect()
}

#[cfg(test)]
mod tests {
    use espalier_api::{ProtocolMatch, RuleTarget};

    use super::*;

    #[test]
    fn a_group_keeps_what_is_legal_and_names_the_rest() {
        let pair = sdk::UserIdGroupPair::builder()
            .group_id("sg-2")
            .user_id("1")
            .vpc_peering_connection_id("pcx-1")
            .peering_status("deleted");
        let web = sdk::IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(80)
            .to_port(80)
            .ip_ranges(sdk::IpRange::builder().cidr_ip("100.68.0.18/18").description("all").build())
            .ipv6_ranges(sdk::Ipv6Range::builder().cidr_ipv6("::/0").build())
            .prefix_list_ids(sdk::PrefixListId::builder().prefix_list_id("pl-1").build())
            .user_id_group_pairs(pair.build());
        let bad = sdk::IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(90)
            .to_port(80)
            .ip_ranges(sdk::IpRange::builder().cidr_ip("0.0.0.0/0").build());
        let any = sdk::IpPermission::builder()
            .ip_protocol("-1")
            .ip_ranges(sdk::IpRange::builder().cidr_ip("0.0.0.0/0").build());
        let made = sdk::SecurityGroup::builder()
            .group_id("sg-1")
            .group_name("web")
            .owner_id("1")
            .ip_permissions(web.build())
            .ip_permissions(bad.build())
            .ip_permissions_egress(any.build());
        let fetched = group(&made.build()).unwrap();
        let rules = &fetched.group.rules;
        assert_eq!(rules.len(), 5);
        assert_eq!(fetched.odd.len(), 1);
        assert!(
            fetched.odd[0].contains("above ToPort") || fetched.odd[0].contains("reversed"),
            "{:?}",
            fetched.odd
        );
        assert_eq!(rules[0].target.to_string(), "100.68.0.0/18");
        let RuleTarget::Group(reference) = &rules[3].target else { panic!("sorted by kind of target") };
        assert_eq!(reference.peering_status.as_deref(), Some("deleted"));
        assert_eq!((rules[4].direction, rules[4].protocol), (Direction::Egress, ProtocolMatch::All));

        let flat = sdk::SecurityGroupRule::builder()
            .group_id("sg-1")
            .security_group_rule_id("sgr-7")
            .is_egress(false)
            .ip_protocol("6")
            .from_port(80)
            .to_port(80)
            .cidr_ipv4("100.68.0.0/18");
        let (of, key, id) = rule_id(&flat.build()).unwrap();
        assert_eq!((of.as_str(), key, id.as_str()), ("sg-1", rule_key(&rules[0]), "sgr-7"));
    }

    #[test]
    fn an_interface_has_every_kind_of_address_once_and_in_order() {
        let address =
            |text| sdk::NetworkInterfacePrivateIpAddress::builder().private_ip_address(text).build();
        let made = sdk::NetworkInterface::builder()
            .network_interface_id("eni-1")
            .mac_address("06:00:00:00:00:01")
            .private_ip_address("10.0.0.9")
            .private_ip_addresses(address("10.0.0.9"))
            .private_ip_addresses(address("10.0.0.5"))
            .ipv6_addresses(sdk::NetworkInterfaceIpv6Address::builder().ipv6_address("2001:db8::5").build())
            .ipv4_prefixes(sdk::Ipv4PrefixSpecification::builder().ipv4_prefix("10.0.7.0/28").build())
            .groups(sdk::GroupIdentifier::builder().group_id("sg-9").build())
            .groups(sdk::GroupIdentifier::builder().group_id("sg-1").build())
            .build();
        let facts = interface(&made);
        let texts: Vec<_> = facts.addresses.iter().map(|address| address.net().to_string()).collect();
        assert_eq!(texts, ["10.0.0.9/32", "10.0.0.5/32", "2001:db8::5/128", "10.0.7.0/28"]);
        assert_eq!(facts.groups.iter().map(GroupId::as_str).collect::<Vec<_>>(), ["sg-9", "sg-1"]);
        let mut members = HashMap::from([("sg-1".parse().unwrap(), Vec::new())]);
        add_members(&mut members, &made);
        assert_eq!(members.len(), 1, "only groups that were asked for");
        assert_eq!(members[&"sg-1".parse().unwrap()].len(), 4);
    }

    #[test]
    fn only_blocks_in_use_count() {
        let block = |cidr: &str, state: sdk::VpcCidrBlockStateCode| {
            let state = sdk::VpcCidrBlockState::builder().state(state).build();
            sdk::VpcCidrBlockAssociation::builder().cidr_block(cidr).cidr_block_state(state).build()
        };
        let vpc = sdk::Vpc::builder()
            .cidr_block("10.0.0.0/16")
            .cidr_block_association_set(block("10.0.0.0/16", sdk::VpcCidrBlockStateCode::Associated))
            .cidr_block_association_set(block("100.64.0.0/16", sdk::VpcCidrBlockStateCode::Associated))
            .cidr_block_association_set(block("100.65.0.0/16", sdk::VpcCidrBlockStateCode::Disassociated));
        let texts: Vec<_> = vpc_blocks(&vpc.build()).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/16", "100.64.0.0/16"]);
    }
}
