//! EC2's facts from the JSON the AWS CLI prints: groups, rules, prefix lists, interfaces, subnets, VPCs.
//!
//! A `get-managed-prefix-list-entries` file does not say which list it is of: its name does (`pl-0123….json`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_api::agent::{Problem, ProblemReason};
use espalier_api::ec2::Ec2Facts;
use espalier_api::snapshot::{ConnectionTracking, Trunk};
use espalier_api::{EniId, GroupId, Mac, PrefixListId, RuleTarget, Snapshot};
use ipnet::IpNet;
use serde::Deserialize;

use crate::facts::{Facts, GroupSelector, InterfaceFacts, Wanted};

/// A file: its bytes for the merge, and what the merge leaves aside.
pub(super) struct Document {
    bytes: Vec<u8>,
    list: Option<PrefixListId>,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Details {
    security_groups: Vec<Group>,
    network_interfaces: Vec<Interface>,
    subnets: Vec<Subnet>,
    vpcs: Vec<Vpc>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Group {
    group_id: GroupId,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Interface {
    network_interface_id: EniId,
    mac_address: Option<Mac>,
    subnet_id: Option<String>,
    vpc_id: Option<String>,
    #[serde(default)]
    groups: Vec<GroupName>,
    #[serde(default)]
    connection_tracking_configuration: Tracking,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GroupName {
    group_id: GroupId,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Tracking {
    tcp_established_timeout: Option<u32>,
    udp_stream_timeout: Option<u32>,
    udp_timeout: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Subnet {
    subnet_id: String,
    cidr_block: Option<IpNet>,
    #[serde(default)]
    ipv6_cidr_block_association_set: Vec<Ipv6Block>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vpc {
    vpc_id: String,
    cidr_block: Option<IpNet>,
    #[serde(default)]
    cidr_block_association_set: Vec<Block>,
    #[serde(default)]
    ipv6_cidr_block_association_set: Vec<Ipv6Block>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Block {
    cidr_block: IpNet,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipv6Block {
    ipv6_cidr_block: IpNet,
}

/// Checks a file by itself.
pub(super) fn document(path: &Path, bytes: &[u8]) -> Result<Document, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let details: Details = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| format!("not EC2's JSON: {error}"))?;
    let list = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
    if details.subnets.is_empty() && details.vpcs.is_empty() {
        let alone = Ec2Facts::default().add_json(bytes, list.as_ref());
        alone.map_err(|error| match error.field.as_str() {
            "Entries" => {
                "prefix list entries do not say of which list: name the file after it (pl-….json)".to_owned()
            }
            _ => error.to_string(),
        })?;
    }
    Ok(Document { bytes: bytes.to_vec(), list, details })
}

/// The facts in all files. Everything in them is told, whatever is wanted: what is not in them does not exist.
pub(super) fn facts(files: &BTreeMap<PathBuf, Arc<Document>>, wanted: &Wanted) -> Facts {
    let mut facts = Facts { complete: true, vpc_id: wanted.vpc_id.clone(), ..Facts::default() };
    let merged = merge(files, &mut facts.problems);
    for group in merged.security_groups {
        facts.groups.insert(group.group_id.clone(), Arc::new(group));
    }
    for list in merged.prefix_lists {
        facts.prefix_lists.insert(list.prefix_list_id.clone(), Arc::new(list));
    }
    for (id, mut members) in merged.group_members {
        members.sort_unstable();
        members.dedup();
        facts.members.insert(id, Arc::new(members));
    }
    add_interfaces(files, &mut facts);
    let named = facts.groups.values().flat_map(|group| &group.rules).filter_map(|rule| match &rule.target {
        RuleTarget::Group(reference) => Some(reference.group_id.clone()),
        _ => None,
    });
    for group in named.collect::<BTreeSet<_>>() {
        facts.members.entry(group).or_default();
    }
    resolve(files, wanted, &mut facts);
    let groups =
        wanted.groups.iter().chain(facts.interfaces.values().flat_map(|interface| &interface.groups));
    facts.absent_groups = groups.filter(|group| !facts.groups.contains_key(*group)).cloned().collect();
    let interfaces = wanted.interfaces.iter().filter(|eni| !facts.interfaces.contains_key(*eni));
    facts.absent_interfaces = interfaces.cloned().collect();
    facts
}

/// Files that contradict each other are left out from the second on.
fn merge(files: &BTreeMap<PathBuf, Arc<Document>>, problems: &mut Vec<Problem>) -> Snapshot {
    let mut merged = Ec2Facts::default();
    for (path, file) in files {
        let details_only = !file.details.subnets.is_empty() || !file.details.vpcs.is_empty();
        if let Err(error) = merged.add_json(&file.bytes, file.list.as_ref())
            && !details_only
        {
            problems.push(Problem::new(ProblemReason::FileInvalid, path.display(), error.to_string()));
        }
    }
    let mut snapshot = Snapshot {
        generation: Default::default(),
        vpc: Default::default(),
        trunk: Trunk { interface: String::new(), eni_id: None },
        pods: Vec::new(),
        security_groups: Vec::new(),
        prefix_lists: Vec::new(),
        group_members: BTreeMap::new(),
        ec2: Vec::new(),
    };
    merged.merge_into(&mut snapshot);
    snapshot
}

fn add_interfaces(files: &BTreeMap<PathBuf, Arc<Document>>, facts: &mut Facts) {
    let details = || files.values().map(|file| &file.details);
    let subnets: BTreeMap<&str, Vec<IpNet>> = details()
        .flat_map(|details| &details.subnets)
        .map(|subnet| {
            let v6 = subnet.ipv6_cidr_block_association_set.iter().map(|block| block.ipv6_cidr_block);
            (subnet.subnet_id.as_str(), subnet.cidr_block.into_iter().chain(v6).collect())
        })
        .collect();
    for interface in details().flat_map(|details| &details.network_interfaces) {
        let tracking = &interface.connection_tracking_configuration;
        let subnet = interface.subnet_id.as_deref().and_then(|id| subnets.get(id));
        facts.vpc_id = facts.vpc_id.take().or_else(|| interface.vpc_id.clone());
        let known = InterfaceFacts {
            vpc_id: interface.vpc_id.clone(),
            subnet_id: interface.subnet_id.clone(),
            subnets: subnet.cloned().unwrap_or_default(),
            mac: interface.mac_address,
            groups: interface.groups.iter().map(|group| group.group_id.clone()).collect(),
            addresses: Vec::new(),
            connection_tracking: ConnectionTracking {
                tcp_established_timeout: tracking.tcp_established_timeout,
                udp_stream_timeout: tracking.udp_stream_timeout,
                udp_timeout: tracking.udp_timeout,
            },
        };
        facts.interfaces.insert(interface.network_interface_id.clone(), Arc::new(known));
    }
    let vpcs: Vec<&Vpc> = details().flat_map(|details| &details.vpcs).collect();
    let ours = vpcs.iter().find(|vpc| Some(&vpc.vpc_id) == facts.vpc_id.as_ref());
    if let Some(vpc) = ours.or(vpcs.first().filter(|_| vpcs.len() == 1)) {
        let further = vpc.cidr_block_association_set.iter().map(|block| block.cidr_block);
        let v6 = vpc.ipv6_cidr_block_association_set.iter().map(|block| block.ipv6_cidr_block);
        for block in vpc.cidr_block.into_iter().chain(further).chain(v6) {
            if !facts.vpc_cidrs.contains(&block) {
                facts.vpc_cidrs.push(block);
            }
        }
    }
}

fn resolve(files: &BTreeMap<PathBuf, Arc<Document>>, wanted: &Wanted, facts: &mut Facts) {
    for selector in &wanted.named_groups {
        let found: BTreeSet<GroupId> = match selector {
            GroupSelector::Name(name) => facts
                .groups
                .values()
                .filter(|group| group.group_name.as_ref() == Some(name))
                .map(|group| group.group_id.clone())
                .collect(),
            GroupSelector::Tag { key, value } => files
                .values()
                .flat_map(|file| &file.details.security_groups)
                .filter(|group| group.tags.iter().any(|tag| tag.key == *key && tag.value == *value))
                .map(|group| group.group_id.clone())
                .collect(),
        };
        facts.resolved.insert(selector.clone(), found.into_iter().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)], wanted: &Wanted) -> Facts {
        let files = files.iter().map(|(name, text)| {
            let path = PathBuf::from(name);
            let document = document(&path, text.as_bytes()).unwrap();
            (path, Arc::new(document))
        });
        facts(&files.collect(), wanted)
    }

    const GROUPS: &str = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "Tags": [{"Key": "team", "Value": "a"}],
        "IpPermissions": [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-9"}]}]}]}"#;
    const INTERFACES: &str = r#"{"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "MacAddress": "06:00:00:00:00:01",
        "SubnetId": "subnet-1", "VpcId": "vpc-1", "Groups": [{"GroupId": "sg-1"}, {"GroupId": "sg-2"}],
        "PrivateIpAddress": "10.0.1.5", "ConnectionTrackingConfiguration": {"UdpTimeout": 40}}]}"#;

    #[test]
    fn the_parts_are_put_together() {
        let wanted = Wanted {
            named_groups: ["name=web", "tag:team=a", "name=no"]
                .into_iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            groups: ["sg-8".parse().unwrap()].into(),
            ..Wanted::default()
        };
        let facts = read(
            &[
                ("g.json", GROUPS),
                ("i.json", INTERFACES),
                ("s.json", r#"{"Subnets": [{"SubnetId": "subnet-1", "CidrBlock": "10.0.1.0/24"}]}"#),
                ("v.json", r#"{"Vpcs": [{"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16"}]}"#),
                ("pl-7.json", r#"{"Entries": [{"Cidr": "10.9.0.0/16"}]}"#),
            ],
            &wanted,
        );
        assert!(facts.problems.is_empty(), "{:?}", facts.problems);
        let interface = &facts.interfaces[&"eni-1".parse().unwrap()];
        assert_eq!(interface.subnets, ["10.0.1.0/24".parse().unwrap()]);
        assert_eq!(interface.connection_tracking.udp_timeout, Some(40));
        assert_eq!(facts.vpc_cidrs, ["10.0.0.0/16".parse().unwrap()]);
        assert_eq!(facts.absent_groups, ["sg-2", "sg-8"].map(|id| id.parse().unwrap()).into());
        let web = vec!["sg-1".parse().unwrap()];
        assert_eq!(facts.resolved.values().collect::<Vec<_>>(), [&vec![], &web, &web]);
        assert_eq!(facts.members[&"sg-9".parse().unwrap()].len(), 0);
        assert_eq!(facts.members[&"sg-1".parse().unwrap()].len(), 1);
        assert!(facts.prefix_lists.contains_key(&"pl-7".parse().unwrap()));
    }

    #[test]
    fn a_file_that_is_none_of_ec2s_is_refused() {
        let refused = |name: &str, text: &str| document(Path::new(name), text.as_bytes()).err().unwrap();
        assert!(refused("a.json", "{}").contains("no SecurityGroups"));
        assert!(refused("a.json", "[").contains("not EC2's JSON"));
        assert!(refused("a.json", r#"{"Entries": []}"#).contains("pl-….json"));
        assert!(
            refused("a.json", r#"{"NetworkInterfaces": [{"NetworkInterfaceId": "web"}]}"#).contains("eni-")
        );
    }
}
