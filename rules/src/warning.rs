//! What is odd about a valid snapshot, though it can be enforced: empty references, stale peering, exceeded quotas.
//!
//! Reported when a model is built; the switch passes them on in its reply to `apply`.

use std::fmt;

use espalier_api::{Direction, Family, GroupId, PodName, PrefixListId};

/// Security groups per network interface (VPC user guide, "Amazon VPC quotas": 5 by default, 16 at most).
pub(crate) const GROUPS_PER_INTERFACE: usize = 16;
/// Rules per group, direction and family (same page; adjustable).
pub(crate) const RULES_PER_GROUP: usize = 60;
/// Rules per group times groups per interface (same page; not adjustable).
pub(crate) const RULES_PER_INTERFACE: usize = 1000;

/// Something a person should know about the rules in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Warning {
    /// A rule refers to a group nobody knows: it matches nothing.
    UnknownGroup {
        /// `sgr-… of sg-…`.
        rule: String,
        /// The group referred to.
        reference: GroupId,
    },
    /// A rule refers to a group over a peering that is not active: it matches nothing.
    StalePeering {
        /// `sgr-… of sg-…`.
        rule: String,
        /// The group referred to.
        reference: GroupId,
        /// The peering's state.
        status: String,
    },
    /// A rule names a prefix list that the snapshot does not have: it matches nothing.
    UnknownPrefixList {
        /// `sgr-… of sg-…`.
        rule: String,
        /// The list.
        list: PrefixListId,
    },
    /// A pod has more groups than EC2 would accept.
    GroupQuota {
        /// The pod.
        pod: PodName,
        /// How many it has.
        groups: usize,
    },
    /// A group has more rules than EC2's default quota.
    RuleQuota {
        /// The group.
        group: GroupId,
        /// The direction counted.
        direction: Direction,
        /// The family counted.
        family: Family,
        /// How many there are.
        rules: usize,
    },
    /// The groups of a pod have more rules together than EC2 would accept.
    InterfaceQuota {
        /// The pod.
        pod: PodName,
        /// How many rules they have.
        rules: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownGroup { rule, reference } => write!(
                f,
                "{rule} refers to {reference}, which is neither in securityGroups nor in groupMembers: it matches nothing"
            ),
            Self::StalePeering { rule, reference, status } => write!(
                f,
                "{rule} refers to {reference} over a peering that is {status}: the rule is stale and matches nothing"
            ),
            Self::UnknownPrefixList { rule, list } => {
                write!(f, "{rule} names {list}, which is not in prefixLists: it matches nothing")
            }
            Self::GroupQuota { pod, groups } => write!(
                f,
                "{pod} has {groups} security groups: EC2 accepts at most {GROUPS_PER_INTERFACE} on an interface"
            ),
            Self::RuleQuota { group, direction, family, rules } => write!(
                f,
                "{group} has {rules} {direction} rules for {family}: EC2's default quota is {RULES_PER_GROUP}"
            ),
            Self::InterfaceQuota { pod, rules } => write!(
                f,
                "the groups of {pod} have {rules} rules: EC2 accepts at most {RULES_PER_INTERFACE} on an interface"
            ),
        }
    }
}
