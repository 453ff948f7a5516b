//! What the agent wants to know of EC2, what it knows, and the trait of those who find out.
//!
//! The agent states its needs as [`Wanted`]; a [`FactsSource`] (EC2's API, a folder of files, one day a cache of the
//! cluster) answers with [`Facts`]. Plain data: `desired` reads it, nobody patches it. A source never publishes a hole
//! as truth: what cannot be read again keeps its last known good value and gets a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use espalier_api::agent::{Problem, RequestUse};
use espalier_api::{
    Address, ConnectionTracking, EniId, GroupId, Mac, PrefixList, PrefixListId, SecurityGroup,
};
use ipnet::IpNet;
use tokio::sync::watch;

/// What this node's pods need now. A source fetches this and no more (and what it refers to, transitively).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Branch ENIs of the pods, and the trunk.
    pub interfaces: BTreeSet<EniId>,
    /// Groups named by policies. Groups of the interfaces are wanted too where `follow_interfaces` is set.
    pub groups: BTreeSet<GroupId>,
    /// Groups named by name or tag.
    pub named_groups: BTreeSet<GroupSelector>,
    /// Whether the groups that EC2 reports on `interfaces` are wanted with their rules (group source `eni`).
    pub follow_interfaces: bool,
    /// VPC of the node, where it is configured or known; else that of the interfaces.
    pub vpc_id: Option<String>,
    /// Type of the node's instance (`node.kubernetes.io/instance-type`), for its default timeouts.
    pub instance_type: Option<String>,
}

/// A group by what people call it: `name=web` or `tag:team=payments`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupSelector {
    /// EC2's `GroupName`, unique in a VPC.
    Name(String),
    /// A tag; every group of the VPC that has it is meant.
    Tag {
        /// Key of the tag.
        key: String,
        /// Value of the tag.
        value: String,
    },
}

impl FromStr for GroupSelector {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} names no group: expected sg-…, name=NAME or tag:KEY=VALUE");
        if let Some(name) = text.strip_prefix("name=").filter(|name| !name.is_empty()) {
            return Ok(Self::Name(name.to_owned()));
        }
        let (key, value) = text.strip_prefix("tag:").and_then(|tag| tag.split_once('=')).ok_or_else(bad)?;
        if key.is_empty() {
            Err(bad())
        } else {
            Ok(Self::Tag { key: key.to_owned(), value: value.to_owned() })
        }
    }
}

impl fmt::Display for GroupSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "name={name}"),
            Self::Tag { key, value } => write!(f, "tag:{key}={value}"),
        }
    }
}

/// A network interface as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// `vpc-…`.
    pub vpc_id: Option<String>,
    /// `subnet-…`.
    pub subnet_id: Option<String>,
    /// CIDR blocks of the subnet, both families, where they are known.
    pub subnets: Vec<IpNet>,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// Its groups, in EC2's order.
    pub groups: Vec<GroupId>,
    /// Its private addresses: primary first, then secondary, IPv6, delegated prefixes.
    pub addresses: Vec<Address>,
    /// Idle timeouts set on it.
    pub connection_tracking: ConnectionTracking,
}

/// What is known. Big parts are shared, so that publishing a change copies pointers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Interfaces that were wanted and exist.
    pub interfaces: BTreeMap<EniId, Arc<InterfaceFacts>>,
    /// Groups with their rules: those wanted. A group is listed only together with the members of the groups and the
    /// entries of the prefix lists that its rules name (or a problem for each that could not be had).
    pub groups: BTreeMap<GroupId, Arc<SecurityGroup>>,
    /// Private addresses of the interfaces that have a group: of every group that a listed group's rules name.
    /// An empty list means that nobody has it.
    pub members: BTreeMap<GroupId, Arc<Vec<Address>>>,
    /// Lists that rules of listed groups name.
    pub prefix_lists: BTreeMap<PrefixListId, Arc<PrefixList>>,
    /// Groups found by name or tag. An empty list means that there is none.
    pub resolved: BTreeMap<GroupSelector, Vec<GroupId>>,
    /// Wanted groups that were asked for and do not exist (in the node's VPC or one it may refer to).
    pub absent_groups: BTreeSet<GroupId>,
    /// Wanted groups that could never be read so far, for a reason among `problems`. What is in none of `groups`,
    /// `absent_groups` and `failed_groups` is still being looked up, which takes no longer than a request may.
    pub failed_groups: BTreeSet<GroupId>,
    /// Wanted interfaces that were asked for and do not exist.
    pub absent_interfaces: BTreeSet<EniId>,
    /// Wanted interfaces that could never be read so far.
    pub failed_interfaces: BTreeSet<EniId>,
    /// CIDR blocks of the VPC, the primary one first.
    pub vpc_cidrs: Vec<IpNet>,
    /// `vpc-…` of the node.
    pub vpc_id: Option<String>,
    /// Default idle timeouts of the instance type.
    pub tracking_defaults: ConnectionTracking,
    /// What could not be had, and why.
    pub problems: Vec<Problem>,
    /// Whether everything in the last `Wanted` has been answered, be it with "does not exist" or a failure.
    pub complete: bool,
    /// When the oldest part in use was last confirmed; `None` before the first answer.
    pub as_of: Option<SystemTime>,
    /// Use of the request budget, where requests cost something.
    pub requests: Option<RequestUse>,
    /// When what changed last was learnt; the start of the change-to-enforced latency.
    pub learnt: Option<Instant>,
}

/// Somebody who finds facts out. It runs until the receiver it returns is dropped.
pub trait FactsSource {
    /// `ec2` or `file`.
    fn name(&self) -> &'static str;

    /// Where it looks, for people.
    fn place(&self) -> String;

    /// Starts to look, on the current tokio runtime. Sends whenever something changed or was confirmed.
    fn start(self: Box<Self>, wanted: watch::Receiver<Arc<Wanted>>) -> watch::Receiver<Arc<Facts>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_go_by_name_or_tag() {
        for text in ["name=web", "tag:team=payments", "tag:k=", "tag:a=b=c"] {
            assert_eq!(
                text.parse::<GroupSelector>().map(|selector| selector.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["web", "name=", "tag:=x", "tag:x", ""] {
            assert!(text.parse::<GroupSelector>().is_err(), "{text}");
        }
    }
}
