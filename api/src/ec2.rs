//! EC2's own JSON, as the AWS CLI prints it, merged into a [`Snapshot`].
//!
//! Read by [`crate::file`]: `describe-security-groups`, `describe-security-group-rules`,
//! `get-managed-prefix-list-entries`, `describe-managed-prefix-lists` and `describe-network-interfaces`. A file says
//! what it is by its top-level key. The flat rules win over a group's `IpPermissions`, which carry no rule ids.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::InputError;
use crate::ids::{GroupId, PrefixListId};
use crate::rule::{Direction, Ec2Rule, Family, GroupReference, IpProtocolText, SecurityGroupRule};
use crate::snapshot::{Address, PrefixList, SecurityGroup, Snapshot};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    security_groups: Option<Vec<Group>>,
    security_group_rules: Option<Vec<SecurityGroupRule>>,
    prefix_lists: Option<Vec<List>>,
    entries: Option<Vec<Entry>>,
    network_interfaces: Option<Vec<Interface>>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Group {
    group_id: GroupId,
    group_name: Option<String>,
    description: Option<String>,
    vpc_id: Option<String>,
    #[serde(default)]
    ip_permissions: Vec<Permission>,
    #[serde(default)]
    ip_permissions_egress: Vec<Permission>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Permission {
    #[serde(default)]
    ip_protocol: IpProtocolText,
    from_port: Option<i64>,
    to_port: Option<i64>,
    #[serde(default)]
    ip_ranges: Vec<IpRange>,
    #[serde(default)]
    ipv6_ranges: Vec<Ipv6Range>,
    #[serde(default)]
    prefix_list_ids: Vec<ListReference>,
    #[serde(default)]
    user_id_group_pairs: Vec<GroupPair>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpRange {
    cidr_ip: String,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipv6Range {
    cidr_ipv6: String,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListReference {
    prefix_list_id: PrefixListId,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
struct GroupPair {
    #[serde(flatten)]
    reference: GroupReference,
    #[serde(rename = "Description")]
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    prefix_list_id: PrefixListId,
    prefix_list_name: Option<String>,
    address_family: Option<Family>,
    version: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    cidr: Address,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Interface {
    #[serde(default)]
    groups: Vec<GroupName>,
    private_ip_address: Option<Address>,
    #[serde(default)]
    private_ip_addresses: Vec<PrivateAddress>,
    #[serde(default)]
    ipv6_addresses: Vec<Ipv6Address>,
    #[serde(default)]
    ipv4_prefixes: Vec<Ipv4Prefix>,
    #[serde(default)]
    ipv6_prefixes: Vec<Ipv6Prefix>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GroupName {
    group_id: GroupId,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PrivateAddress {
    private_ip_address: Address,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipv6Address {
    ipv6_address: Address,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipv4Prefix {
    ipv4_prefix: Address,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipv6Prefix {
    ipv6_prefix: Address,
}

/// Collects EC2 documents and adds them to a snapshot in one go, whatever their order.
#[derive(Debug, Default)]
pub struct Ec2Facts {
    groups: BTreeMap<GroupId, SecurityGroup>,
    permissions: HashMap<GroupId, Vec<SecurityGroupRule>>,
    lists: BTreeMap<PrefixListId, PrefixList>,
    members: BTreeMap<GroupId, Vec<Address>>,
}

impl Ec2Facts {
    /// Reads one document. `list` is the prefix list whose entries it holds, where that applies.
    pub fn add_json(&mut self, text: &[u8], list: Option<&PrefixListId>) -> Result<(), InputError> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let document: Document =
            serde_path_to_error::deserialize(&mut deserializer).map_err(InputError::from_path_error)?;
        if document.next_token.is_some_and(|token| !token.is_empty()) {
            return Err(InputError::new(
                "NextToken",
                "the file is one page of several: fetch all pages into it",
            ));
        }
        let mut known = false;
        for group in document.security_groups.into_iter().flatten() {
            known = true;
            self.add_group(group)?;
        }
        if let Some(rules) = document.security_group_rules {
            known = true;
            self.add_rules(rules)?;
        }
        if let Some(lists) = document.prefix_lists {
            known = true;
            lists.into_iter().for_each(|list| self.add_list(list));
        }
        if let Some(entries) = document.entries {
            known = true;
            self.add_entries(entries, list)?;
        }
        if let Some(interfaces) = document.network_interfaces {
            known = true;
            interfaces.into_iter().for_each(|interface| self.add_interface(interface));
        }
        if known {
            return Ok(());
        }
        Err(InputError::new(
            "",
            "no SecurityGroups, SecurityGroupRules, PrefixLists, Entries or NetworkInterfaces in it: \
             expected the JSON output of an `aws ec2` describe or get command",
        ))
    }

    /// Adds everything to `snapshot`.
    pub fn merge_into(self, snapshot: &mut Snapshot) {
        for (id, mut group) in self.groups {
            if group.rules.is_empty() {
                group.rules = self.permissions.get(&id).cloned().unwrap_or_default();
            }
            snapshot.security_groups.push(group);
        }
        snapshot.prefix_lists.extend(self.lists.into_values());
        for (id, addresses) in self.members {
            snapshot.group_members.entry(id).or_default().extend(addresses);
        }
    }

    fn group(&mut self, id: &GroupId) -> &mut SecurityGroup {
        self.groups.entry(id.clone()).or_insert_with(|| SecurityGroup {
            group_id: id.clone(),
            group_name: None,
            description: None,
            vpc_id: None,
            audit: false,
            rules: Vec::new(),
        })
    }

    fn add_group(&mut self, group: Group) -> Result<(), InputError> {
        let mut rules = Vec::new();
        for (direction, field, permissions) in [
            (Direction::Ingress, "IpPermissions", group.ip_permissions),
            (Direction::Egress, "IpPermissionsEgress", group.ip_permissions_egress),
        ] {
            for (index, permission) in permissions.into_iter().enumerate() {
                flatten(direction, permission, &mut rules).map_err(|message| {
                    InputError::new(format!("{}.{field}[{index}]", group.group_id), message)
                })?;
            }
        }
        let known = self.group(&group.group_id);
        known.group_name = group.group_name;
        known.description = group.description;
        known.vpc_id = group.vpc_id;
        self.permissions.insert(group.group_id, rules);
        Ok(())
    }

    fn add_rules(&mut self, rules: Vec<SecurityGroupRule>) -> Result<(), InputError> {
        for (index, rule) in rules.into_iter().enumerate() {
            let Some(id) = rule.group_id.clone() else {
                return Err(InputError::new(
                    format!("SecurityGroupRules[{index}].GroupId"),
                    "missing: the rule belongs to no group",
                ));
            };
            self.group(&id).rules.push(rule);
        }
        Ok(())
    }

    fn list(&mut self, id: &PrefixListId) -> &mut PrefixList {
        self.lists.entry(id.clone()).or_insert_with(|| PrefixList {
            prefix_list_id: id.clone(),
            name: None,
            address_family: Family::V4,
            version: None,
            entries: Vec::new(),
        })
    }

    fn add_list(&mut self, list: List) {
        let known = self.list(&list.prefix_list_id);
        known.name = list.prefix_list_name;
        known.version = list.version;
        if let Some(family) = list.address_family {
            known.address_family = family;
        }
    }

    fn add_entries(&mut self, entries: Vec<Entry>, list: Option<&PrefixListId>) -> Result<(), InputError> {
        let id = list.ok_or_else(|| {
            InputError::new(
                "Entries",
                "get-managed-prefix-list-entries does not repeat the list: give prefixListId beside the file name",
            )
        })?;
        let known = self.list(id);
        if let Some(first) = entries.first() {
            known.address_family = Family::of(&first.cidr.net());
        }
        known.entries.extend(entries.into_iter().map(|entry| entry.cidr));
        Ok(())
    }

    fn add_interface(&mut self, interface: Interface) {
        let mut addresses: Vec<Address> = interface.private_ip_address.into_iter().collect();
        addresses.extend(interface.private_ip_addresses.into_iter().map(|a| a.private_ip_address));
        addresses.extend(interface.ipv6_addresses.into_iter().map(|a| a.ipv6_address));
        addresses.extend(interface.ipv4_prefixes.into_iter().map(|a| a.ipv4_prefix));
        addresses.extend(interface.ipv6_prefixes.into_iter().map(|a| a.ipv6_prefix));
        addresses.sort_unstable();
        addresses.dedup();
        for group in interface.groups {
            self.members.entry(group.group_id).or_default().extend(&addresses);
        }
    }
}

/// One `IpPermission` stands for a rule per source.
fn flatten(
    direction: Direction,
    permission: Permission,
    out: &mut Vec<SecurityGroupRule>,
) -> Result<(), String> {
    let base = || Ec2Rule {
        is_egress: direction == Direction::Egress,
        ip_protocol: permission.ip_protocol.clone(),
        from_port: permission.from_port,
        to_port: permission.to_port,
        ..Ec2Rule::default()
    };
    let ranges = permission.ip_ranges.into_iter().map(|range| Ec2Rule {
        cidr_ipv4: Some(range.cidr_ip),
        description: range.description,
        ..base()
    });
    let ranges6 = permission.ipv6_ranges.into_iter().map(|range| Ec2Rule {
        cidr_ipv6: Some(range.cidr_ipv6),
        description: range.description,
        ..base()
    });
    let lists = permission.prefix_list_ids.into_iter().map(|list| Ec2Rule {
        prefix_list_id: Some(list.prefix_list_id),
        description: list.description,
        ..base()
    });
    let groups = permission.user_id_group_pairs.into_iter().map(|pair| Ec2Rule {
        referenced_group_info: Some(pair.reference),
        description: pair.description,
        ..base()
    });
    for rule in ranges.chain(ranges6).chain(lists).chain(groups) {
        out.push(SecurityGroupRule::try_from(rule)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleTarget;

    fn merged(documents: &[(&str, Option<&str>)]) -> Snapshot {
        let mut facts = Ec2Facts::default();
        for (text, list) in documents {
            let list = list.map(|id| id.parse().unwrap());
            facts.add_json(text.as_bytes(), list.as_ref()).unwrap();
        }
        let mut snapshot = Snapshot::from_yaml("{generation: 1, trunk: {interface: t}}").unwrap();
        facts.merge_into(&mut snapshot);
        snapshot
    }

    const GROUPS: &str = r#"{"SecurityGroups":[{"GroupId":"sg-1","GroupName":"web","Description":"d","OwnerId":"1","VpcId":"vpc-1",
        "IpPermissions":[{"IpProtocol":"tcp","FromPort":80,"ToPort":80,"IpRanges":[{"CidrIp":"0.0.0.0/0","Description":"all"}],
            "Ipv6Ranges":[{"CidrIpv6":"::/0"}],"PrefixListIds":[{"PrefixListId":"pl-1"}],
            "UserIdGroupPairs":[{"GroupId":"sg-2","UserId":"1"}]}],
        "IpPermissionsEgress":[{"IpProtocol":"-1","IpRanges":[{"CidrIp":"0.0.0.0/0"}],"UserIdGroupPairs":[]}],"Tags":[]}]}"#;

    #[test]
    fn a_permission_becomes_a_rule_per_source() {
        let snapshot = merged(&[(GROUPS, None)]);
        let rules = &snapshot.security_groups[0].rules;
        assert_eq!(rules.len(), 5);
        assert_eq!(rules.iter().filter(|rule| rule.direction == Direction::Egress).count(), 1);
        assert!(
            matches!(&rules[3].target, RuleTarget::Group(reference) if reference.group_id.as_str() == "sg-2")
        );
    }

    #[test]
    fn flat_rules_win_and_keep_their_ids() {
        let flat = r#"{"SecurityGroupRules":[{"SecurityGroupRuleId":"sgr-9","GroupId":"sg-1","GroupOwnerId":"1","IsEgress":false,
            "IpProtocol":"tcp","FromPort":80,"ToPort":80,"CidrIpv4":"0.0.0.0/0","Tags":[]}]}"#;
        for order in [[(GROUPS, None), (flat, None)], [(flat, None), (GROUPS, None)]] {
            let snapshot = merged(&order);
            let group = &snapshot.security_groups[0];
            assert_eq!(group.group_name.as_deref(), Some("web"));
            assert_eq!(group.rules.len(), 1);
            assert_eq!(group.rules[0].id.as_ref().unwrap().as_str(), "sgr-9");
        }
    }

    #[test]
    fn interfaces_give_members_with_every_kind_of_address() {
        let snapshot = merged(&[(
            r#"{"NetworkInterfaces":[{"NetworkInterfaceId":"eni-1","Groups":[{"GroupId":"sg-1","GroupName":"x"}],
            "PrivateIpAddress":"10.0.0.5","PrivateIpAddresses":[{"Primary":true,"PrivateIpAddress":"10.0.0.5"},{"PrivateIpAddress":"10.0.0.6"}],
            "Ipv6Addresses":[{"Ipv6Address":"2001:db8::5"}],"Ipv4Prefixes":[{"Ipv4Prefix":"10.0.7.0/28"}],
            "Ipv6Prefixes":[{"Ipv6Prefix":"2001:db8:1::/80"}]}]}"#,
            None,
        )]);
        let members = &snapshot.group_members[&"sg-1".parse().unwrap()];
        let texts: Vec<String> = members.iter().map(|address| address.net().to_string()).collect();
        assert_eq!(
            texts,
            ["10.0.0.5/32", "10.0.0.6/32", "10.0.7.0/28", "2001:db8::5/128", "2001:db8:1::/80"]
        );
    }

    #[test]
    fn prefix_list_entries_need_their_list() {
        let entries = r#"{"Entries":[{"Cidr":"2001:db8::/32","Description":"d"}]}"#;
        let snapshot = merged(&[(entries, Some("pl-1"))]);
        assert_eq!(snapshot.prefix_lists[0].address_family, Family::V6);
        let error = Ec2Facts::default().add_json(entries.as_bytes(), None).unwrap_err();
        assert!(error.message.contains("prefixListId"), "{error}");
    }

    #[test]
    fn a_page_or_a_foreign_document_is_refused() {
        let mut facts = Ec2Facts::default();
        let page = facts.add_json(br#"{"SecurityGroups":[],"NextToken":"x"}"#, None).unwrap_err();
        assert_eq!(page.field, "NextToken");
        assert!(facts.add_json(br#"{"Vpcs":[]}"#, None).is_err());
        assert!(facts.add_json(br#"{"SecurityGroups":"#, None).is_err());
    }
}
