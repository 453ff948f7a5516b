//! The desired state of one node, whole: trunk, pods with their branch ENIs, groups, prefix lists, members.
//!
//! A snapshot is parsed from JSON or YAML ([`Snapshot::from_json`], [`Snapshot::from_yaml`]) and is valid when it
//! exists; the agent builds one in memory and calls [`Snapshot::validate`]. The switch enforces it or refuses it whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::InputError;
use crate::ids::{EniId, Generation, GroupId, Mac, PodName, PrefixListId, Vlan};
use crate::rule::{Family, SecurityGroupRule};

/// The whole desired state of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    /// Number of this state; the switch refuses one below the generation it enforces.
    pub generation: Generation,
    /// The VPC the node is in.
    #[serde(default)]
    pub vpc: Vpc,
    /// The trunk ENI.
    pub trunk: Trunk,
    /// The pods with a branch ENI.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// The security groups the pods have, and any others worth knowing.
    #[serde(default)]
    pub security_groups: Vec<SecurityGroup>,
    /// The managed prefix lists the rules name.
    #[serde(default)]
    pub prefix_lists: Vec<PrefixList>,
    /// Private addresses (or delegated prefixes) of the interfaces that have a group. The pods above need not be
    /// listed: a pod is a member of its groups.
    #[serde(default)]
    pub group_members: BTreeMap<GroupId, Vec<Address>>,
    /// EC2 JSON files to read groups, rules, prefix lists and members from. Resolved by [`crate::file`], relative to
    /// the snapshot file; a snapshot sent over the control socket has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ec2: Vec<Ec2Reference>,
}

/// The VPC, as far as the data path needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vpc {
    /// `vpc-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// CIDR blocks; the Amazon-provided resolver is the base of the first IPv4 block plus two.
    #[serde(default, deserialize_with = "prefixes")]
    pub cidrs: Vec<IpNet>,
    /// Replaces the built-in list of services that security groups do not filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfiltered: Option<Vec<Unfiltered>>,
}

/// A service that security groups do not filter (`reference`: VPC user guide, "Control traffic using security groups").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unfiltered {
    /// Name shown as the reason of the verdict (`amazon-dns`).
    pub name: String,
    /// The service's address.
    pub address: IpAddr,
    /// IP protocol number; absent = every protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The service's TCP or UDP port; absent = every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// The trunk ENI of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trunk {
    /// Name of the network interface.
    pub interface: String,
    /// `eni-…` of the trunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eni_id: Option<EniId>,
}

/// A pod and its branch ENI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// `namespace/name`.
    pub name: PodName,
    /// Kubernetes UID; a changed UID is another pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The branch ENI.
    pub eni_id: EniId,
    /// VLAN of the branch on the trunk.
    pub vlan: Vlan,
    /// MAC address of the branch ENI.
    pub mac: Mac,
    /// Private addresses of the branch ENI that the pod owns.
    pub addresses: Vec<IpAddr>,
    /// Subnets of the branch; the IPv4 gateway is the base plus one.
    #[serde(default, deserialize_with = "prefixes")]
    pub subnets: Vec<IpNet>,
    /// Overrides of the gateway.
    #[serde(default, skip_serializing_if = "Gateway::is_default")]
    pub gateway: Gateway,
    /// Host end of the pod's veth. Give it, or `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veth: Option<String>,
    /// The pod's network namespace; the host end is found from its `eth0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Security groups of the branch ENI.
    pub security_groups: Vec<GroupId>,
    /// Idle timeouts of the branch ENI.
    #[serde(default, skip_serializing_if = "ConnectionTracking::is_default")]
    pub connection_tracking: ConnectionTracking,
    /// What happens to tracked flows when the rules change.
    #[serde(default, skip_serializing_if = "OnRuleChange::is_default")]
    pub on_rule_change: OnRuleChange,
    /// Audit mode: what the pod's groups deny passes all the same, counted and reported as would-deny.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
}

/// The next hop of a branch. What is absent is derived (IPv4: subnet base plus one; IPv6: `fe80:ec2::1`) or learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// IPv4 address of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// MAC address of the gateway; absent = learned by ARP and neighbour discovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

impl Gateway {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Idle timeouts in seconds, in EC2's ranges (`ConnectionTrackingSpecificationRequest`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionTracking {
    /// 60–432000; EC2's default is 432000, or 350 on Nitro v6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_established_timeout: Option<u32>,
    /// 60–180, default 180: UDP flows with more than one request and response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_stream_timeout: Option<u32>,
    /// 30–60, default 30: other UDP flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<u32>,
}

impl ConnectionTracking {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens to tracked flows when the rules that allowed them change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRuleChange {
    /// They go on until they time out, as in EC2.
    #[default]
    Keep,
    /// They are judged again on their next packet.
    Revoke,
}

impl OnRuleChange {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A security group with its rules in EC2's `SecurityGroupRule` shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub group_id: GroupId,
    /// Name of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// VPC of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<String>,
    /// Audit mode of all pods that have the group: what their groups deny passes all the same, counted and reported as
    /// would-deny.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// The rules, both directions.
    #[serde(default)]
    pub rules: Vec<SecurityGroupRule>,
}

/// A managed prefix list: one family, its current entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixList {
    /// `pl-…`.
    pub prefix_list_id: PrefixListId,
    /// Name of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The family of all entries.
    pub address_family: Family,
    /// Version of the list, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The entries.
    #[serde(default)]
    pub entries: Vec<Address>,
}

/// An EC2 JSON file as the AWS CLI prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ec2Reference {
    /// Path of the file, relative to the snapshot file.
    pub file: PathBuf,
    /// The list whose entries the file holds: needed for `get-managed-prefix-list-entries`, which does not repeat it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_list_id: Option<PrefixListId>,
}

/// A single address or a prefix, host bits cleared. A bare address is a /32 or /128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Address(IpNet);

impl Address {
    /// The prefix.
    pub fn net(self) -> IpNet {
        self.0
    }
}

impl From<IpNet> for Address {
    fn from(net: IpNet) -> Self {
        Self(net.trunc())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl std::str::FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<IpAddr>()
            .map(Self::from)
            .or_else(|_| text.parse::<IpNet>().map(Self::from))
            .map_err(|_| format!("{text:?} is not an address or CIDR"))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Prefixes; a refusal shows the text, which `ipnet`'s own does not.
fn prefixes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    struct Prefix(IpNet);
    impl<'de> Deserialize<'de> for Prefix {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            let net = text.parse().map_err(|_| {
                de::Error::custom(format!("{text:?} is not a CIDR: expected the like of 10.0.1.0/24"))
            });
            net.map(Self)
        }
    }
    let prefixes = Vec::<Prefix>::deserialize(deserializer)?;
    Ok(prefixes.into_iter().map(|prefix| prefix.0).collect())
}

impl Snapshot {
    /// Parses and validates a JSON snapshot.
    pub fn from_json(text: &[u8]) -> Result<Self, InputError> {
        let snapshot = Self::parse_json(text)?;
        snapshot.validate()?;
        Ok(snapshot)
    }

    /// Parses and validates a YAML (or JSON) snapshot.
    pub fn from_yaml(text: &str) -> Result<Self, InputError> {
        let snapshot = Self::parse_yaml(text)?;
        snapshot.validate()?;
        Ok(snapshot)
    }

    pub(crate) fn parse_json(text: &[u8]) -> Result<Self, InputError> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let snapshot =
            serde_path_to_error::deserialize(&mut deserializer).map_err(InputError::from_path_error)?;
        deserializer.end().map_err(|error| InputError::new("", error.to_string()))?;
        Ok(snapshot)
    }

    /// The host end of the pod's veth, its addresses and VLAN are unique; groups exist; families fit.
    pub fn validate(&self) -> Result<(), InputError> {
        crate::validate::snapshot(self)
    }

    /// Whether the pod, or a group it has, is in audit mode.
    pub fn audits(&self, pod: &Pod) -> bool {
        let audited = |group: &SecurityGroup| group.audit && pod.security_groups.contains(&group.group_id);
        pod.audit || self.security_groups.iter().any(audited)
    }
}

impl Pod {
    /// The IPv4 next hop: configured, or the first IPv4 subnet's base plus one.
    pub fn gateway_v4(&self) -> Option<Ipv4Addr> {
        self.gateway.ipv4.or_else(|| {
            self.subnets.iter().find_map(|subnet| match subnet {
                IpNet::V4(net) => Some(Ipv4Addr::from(u32::from(net.network()).wrapping_add(1))),
                IpNet::V6(_) => None,
            })
        })
    }

    /// The IPv6 next hop: configured, or the VPC router's well-known link-local address.
    pub fn gateway_v6(&self) -> Ipv6Addr {
        self.gateway.ipv6.unwrap_or(Ipv6Addr::new(0xfe80, 0xec2, 0, 0, 0, 0, 0, 1))
    }
}

impl Snapshot {
    pub(crate) fn parse_yaml(text: &str) -> Result<Self, InputError> {
        let budget = serde_saphyr::budget! {
            max_events: YAML_NODES * 2,
            max_nodes: YAML_NODES,
            max_total_scalar_bytes: crate::file::MAX_BYTES as usize,
        };
        let options = serde_saphyr::options! { budget: budget, with_snippet: false };
        let value: serde_json::Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| InputError::new("", format!("not valid YAML: {error}")))?;
        serde_path_to_error::deserialize(value).map_err(InputError::from_path_error)
    }
}

/// Enough for the largest file accepted; stops alias bombs, which grow far beyond their size.
const YAML_NODES: usize = 20_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
generation: 7
trunk: {interface: trunk0}
pods:
  - name: default/web
    eniId: eni-1
    vlan: 3
    mac: 06:00:00:00:00:01
    addresses: [10.0.1.10, '2001:db8::10']
    subnets: [10.0.1.0/24]
    veth: enia
    securityGroups: [sg-1]
securityGroups:
  - groupId: sg-1
    rules:
      - {SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 0.0.0.0/0}
groupMembers:
  sg-1: [10.0.9.9, 10.0.8.0/28]
";

    #[test]
    fn yaml_and_json_give_the_same_snapshot() {
        let yaml = Snapshot::from_yaml(SMALL).unwrap();
        let json = serde_json::to_vec(&yaml).unwrap();
        assert_eq!(Snapshot::from_json(&json).unwrap(), yaml);
        assert_eq!(yaml.pods[0].gateway_v4().unwrap().to_string(), "10.0.1.1");
    }

    #[test]
    fn refusals_name_the_field() {
        for (from, to, field, wanted) in [
            ("vlan: 3", "vlan: 4095", "pods[0].vlan", "expected 1 to 4094"),
            ("06:00:00:00:00:01", "07:00:00:00:00:01", "pods[0].mac", "unicast"),
            (
                "FromPort: 80",
                "FromPort: 81",
                "securityGroups[0].rules[0]",
                "sgr-1: FromPort 81 is above ToPort 80",
            ),
            ("[sg-1]", "[sg-2]", "pods[0].securityGroups[0]", "sg-2"),
            ("veth: enia", "vteh: enia", "pods[0].vteh", "unknown field"),
            ("generation: 7", "generation: -7", "generation", "-7"),
            ("10.0.8.0/28", "10.0.8.0/33", "groupMembers.sg-1[1]", "10.0.8.0/33"),
            ("[10.0.1.0/24]", "[10.0.1.0]", "pods[0].subnets[0]", "\"10.0.1.0\" is not a CIDR"),
        ] {
            assert!(SMALL.contains(from), "{from}");
            let error = Snapshot::from_yaml(&SMALL.replace(from, to)).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.message.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_foreign_file_is_not_quoted_whole() {
        let error = Snapshot::from_yaml(&"root:x:0:0:root:/root:/bin/bash\n".repeat(1000)).unwrap_err();
        assert!(error.message.starts_with("invalid type: string \"root:x:0:0:"), "{error}");
        assert!(error.message.ends_with("expected struct Snapshot"), "{error}");
        assert_eq!(error.message.chars().count(), 241, "{error}");
    }

    #[test]
    fn truncated_json_is_refused() {
        let json = serde_json::to_string(&Snapshot::from_yaml(SMALL).unwrap()).unwrap();
        for cut in 1..json.len() {
            let error = Snapshot::from_json(&json.as_bytes()[..cut]).unwrap_err();
            assert!(!error.field.contains('?') && !error.field.ends_with('.'), "{error}");
        }
        assert!(Snapshot::from_json(format!("{json}x").as_bytes()).is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..10 {
            let previous = format!("*a{}", level - 1);
            let row = vec![previous; 10].join(",");
            text += &format!("a{level}: &a{level} [{row}]\n");
        }
        assert!(Snapshot::from_yaml(&text).unwrap_err().message.contains("not valid YAML"));
    }
}
