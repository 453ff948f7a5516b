//! A scenario: the VPC, the pods with their security groups, the hosts outside, and the probes with what is expected.
//!
//! Read from the YAML files under `lab/scenarios` or from a user's file. A value of [`Scenario`] has been checked;
//! a refusal names the file, the field and the fix. `snapshot.rs` makes of it what the switch enforces.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use espalier_api::{
    Address, Family, GroupId, InputError, OnRuleChange, PodName, PrefixList, RuleId, SecurityGroup, Verdict,
    Vlan,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod check;
mod endpoint;
mod protocol;
mod snapshot;

pub use endpoint::Endpoint;
pub use protocol::ProbeProtocol;
pub use snapshot::TRUNK_INTERFACE;

/// The shipped scenarios: name and text.
const SHIPPED: [(&str, &str); 4] = [
    ("rds", include_str!("../scenarios/rds.yaml")),
    ("stars", include_str!("../scenarios/stars.yaml")),
    ("rules-tour", include_str!("../scenarios/rules-tour.yaml")),
    ("dual-stack", include_str!("../scenarios/dual-stack.yaml")),
];

/// Name of the scenario that runs unless told otherwise.
pub const DEFAULT_SCENARIO: &str = "rds";

/// A VPC with one node, and what is expected of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Its name, shown in reports.
    pub name: String,
    /// What it shows, in a sentence.
    #[serde(default)]
    pub description: String,
    /// MTU of the VPC, the trunk and the pods; 1500 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The VPC.
    pub vpc: VpcBlock,
    /// Its subnets, and the networks outside it that hosts are in.
    pub subnets: Vec<Subnet>,
    /// The node's own, untagged address on the trunk.
    pub node: Attachment,
    /// Hosts elsewhere in the VPC or outside.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Pods of the node, each with a branch ENI.
    pub pods: Vec<ScenarioPod>,
    /// Security groups with their rules.
    pub security_groups: Vec<SecurityGroup>,
    /// Managed prefix lists the rules name.
    #[serde(default)]
    pub prefix_lists: Vec<PrefixList>,
    /// Further members of groups, besides the pods and hosts that say so themselves.
    #[serde(default)]
    pub group_members: BTreeMap<GroupId, Vec<Address>>,
    /// What is tried, and what must come of it.
    #[serde(default)]
    pub probes: Vec<Probe>,
}

/// The CIDR blocks of the VPC; the resolver is the base of the first IPv4 block plus two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VpcBlock {
    /// IPv4 and IPv6 blocks.
    pub cidrs: Vec<IpNet>,
}

/// A subnet. Its IPv4 gateway is the base plus one, its IPv6 gateway `fe80:ec2::1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subnet {
    /// Its name, for `subnet:` elsewhere in the file.
    pub name: String,
    /// At most one IPv4 and one IPv6 prefix.
    pub cidrs: Vec<IpNet>,
}

/// A place in a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attachment {
    /// Name of the subnet.
    pub subnet: String,
    /// Addresses in it.
    pub addresses: Vec<IpAddr>,
}

/// A host behind the VPC's router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Its name (`db`); the network namespace is `<lab>-host-<name>`.
    pub name: String,
    /// Name of the subnet.
    pub subnet: String,
    /// Addresses in it.
    pub addresses: Vec<IpAddr>,
    /// Groups of its network interface: it is a member of them, but nothing filters it here.
    #[serde(default)]
    pub security_groups: Vec<GroupId>,
    /// Further DNS names, besides `<name>.lab.internal`.
    #[serde(default)]
    pub names: Vec<String>,
    /// MTU of its link, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A pod of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScenarioPod {
    /// `namespace/name`; the network namespace is `<lab>-pod-<namespace>-<name>`.
    pub name: PodName,
    /// Name of the subnet.
    pub subnet: String,
    /// Addresses of its branch ENI.
    pub addresses: Vec<IpAddr>,
    /// Security groups of its branch ENI.
    pub security_groups: Vec<GroupId>,
    /// Further DNS names, besides `<name>.<namespace>.lab.internal`.
    #[serde(default)]
    pub names: Vec<String>,
    /// VLAN of the branch; by default the pods are numbered from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// What happens to its tracked flows when the rules change.
    #[serde(default)]
    pub on_rule_change: OnRuleChange,
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// A pod, a host or `node`.
    pub from: String,
    /// A pod, a host, `node`, `resolver` or `imds`.
    pub to: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, an IP protocol number, `dns` or `http`.
    pub protocol: ProbeProtocol,
    /// Destination port (TCP, UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// ICMP type; an echo request unless given.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code; 0 unless given.
    #[serde(default, rename = "code", skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Family, where both ends have both; IPv4 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// DNS name to look up first; it must resolve to the destination (`dns`: the name to ask for).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What must come of it.
    pub expect: Verdict,
    /// The rule that must decide, where the scenario cares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
}

impl Scenario {
    /// A shipped scenario by name, or a file by path.
    pub fn load(name_or_path: &str) -> Result<Self, InputError> {
        if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text).map_err(|error| error.in_file(format!("{name}.yaml")));
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            let names: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
            return Err(InputError::new(
                "",
                format!("{name_or_path:?} is neither a file nor a shipped scenario ({})", names.join(", ")),
            ));
        }
        let in_file = |error: InputError| error.in_file(path.display().to_string());
        let text = String::from_utf8(espalier_api::file::read(path)?)
            .map_err(|_| in_file(InputError::new("", "not UTF-8 text")))?;
        Self::parse(&text).map_err(in_file)
    }

    /// Parses and checks a scenario file's text.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let value: serde_json::Value = serde_saphyr::from_str(text)
            .map_err(|error| InputError::new("", format!("not valid YAML: {error}")))?;
        let scenario: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let field = error.path().to_string();
            InputError::new(if field == "." { String::new() } else { field }, error.into_inner().to_string())
        })?;
        check::scenario(&scenario)?;
        Ok(scenario)
    }

    /// The subnet of that name.
    pub fn subnet(&self, name: &str) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.name == name)
    }

    /// MTU of the VPC.
    pub fn mtu(&self) -> u32 {
        self.mtu.unwrap_or(1500)
    }
}

/// Names and descriptions of the shipped scenarios.
pub fn shipped() -> Vec<(&'static str, String)> {
    let description = |text| Scenario::parse(text).map(|scenario| scenario.description).unwrap_or_default();
    SHIPPED.iter().map(|(name, text)| (*name, description(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_scenarios_are_valid_and_make_valid_snapshots() {
        for (name, text) in SHIPPED {
            let scenario = Scenario::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(scenario.name, name);
            assert!(!scenario.description.is_empty(), "{name}");
            scenario.snapshot().unwrap_or_else(|error| panic!("{name}: {error}"));
            for expect in [Verdict::Allow, Verdict::Deny] {
                let count = scenario.probes.iter().filter(|probe| probe.expect == expect).count();
                assert!(count >= 2, "{name} has only {count} probes that expect {expect:?}");
            }
        }
    }

    #[test]
    fn an_unknown_scenario_lists_the_known_ones() {
        let error = Scenario::load("no-such").unwrap_err();
        assert!(error.message.contains("rds, stars, rules-tour, dual-stack"), "{error}");
    }
}
