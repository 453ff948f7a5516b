//! The rules of a snapshot with every reference resolved: policies, lowered rules, members, services.
//!
//! Built from a valid [`Snapshot`] and immutable. The engines evaluate it, `explain` and the listings read it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use espalier_api::{
    Direction, GroupId, Pod, PodName, PrefixListId, RuleTarget, SecurityGroup, SecurityGroupRule, Snapshot,
};
use ipnet::IpNet;

use crate::engine::{PolicyId, RuleRef};
use crate::lower::{LoweredRule, Predicate};
use crate::services::Services;
use crate::settings::Settings;
use crate::warning::Warning;

mod quota;

/// Policies, rules, members and services of one snapshot.
#[derive(Debug, Clone, Default)]
pub struct Model {
    rules: Vec<Option<LoweredRule>>,
    pub(crate) groups: Vec<Group>,
    policies: Vec<Policy>,
    pods: Vec<(PodName, PolicyId)>,
    by_name: HashMap<PodName, usize>,
    members: BTreeMap<GroupId, Arc<[IpNet]>>,
    services: Services,
    always_tracked: Vec<IpNet>,
}

/// A group of the snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: Option<String>,
    pub(crate) rules: Vec<RuleRef>,
    pub(crate) pods: Vec<PodName>,
}

/// A set of groups.
#[derive(Debug, Clone, Default)]
struct Policy {
    groups: Vec<GroupId>,
    rules: Vec<RuleRef>,
}

impl Model {
    /// Resolves a valid snapshot. What matches nothing, or exceeds EC2's quotas, is reported.
    pub fn new(snapshot: &Snapshot) -> (Self, Vec<Warning>) {
        Self::numbered(snapshot, &Numbering::fresh(snapshot), &Settings::default())
    }

    /// [`new`](Self::new) with the numbers that a compiler has given to the rules and policies of this snapshot.
    pub(crate) fn numbered(
        snapshot: &Snapshot,
        numbering: &Numbering,
        settings: &Settings,
    ) -> (Self, Vec<Warning>) {
        let mut warnings = Vec::new();
        let mut model = Self {
            members: members(snapshot),
            services: Services::new(snapshot),
            always_tracked: settings.always_tracked.clone(),
            ..Self::default()
        };
        model.add_groups(snapshot, numbering, &mut warnings);
        model.add_pods(snapshot, numbering);
        quota::check(&model, &mut warnings);
        (model, warnings)
    }

    /// The policy of `snapshot.pods[pod]`.
    pub fn policy_of(&self, pod: usize) -> Option<PolicyId> {
        self.pods.get(pod).map(|(_, policy)| *policy)
    }

    /// Index in `snapshot.pods` of the pod with this name.
    pub fn pod_index(&self, name: &PodName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The rule a decision is attributed to.
    pub fn rule(&self, rule: RuleRef) -> Option<&LoweredRule> {
        self.rules.get(rule.index())?.as_ref()
    }

    /// All rules.
    pub fn rules(&self) -> impl Iterator<Item = (RuleRef, &LoweredRule)> {
        (0u32..).zip(&self.rules).filter_map(|(number, rule)| Some((RuleRef(number), rule.as_ref()?)))
    }

    /// Number of rules.
    pub fn rule_count(&self) -> usize {
        self.rules().count()
    }

    /// Every [`RuleRef::index`] is below it.
    pub fn rule_bound(&self) -> usize {
        self.rules.len()
    }

    /// Every [`PolicyId::index`] is below it.
    pub fn policy_bound(&self) -> usize {
        self.policies.len()
    }

    /// The rules of a policy, group by group, in the snapshot's order.
    pub fn rules_of_policy(&self, policy: PolicyId) -> impl Iterator<Item = (RuleRef, &LoweredRule)> {
        let refs = self.policies.get(policy.index()).map_or(&[][..], |policy| &policy.rules);
        refs.iter().filter_map(|rule| Some((*rule, self.rule(*rule)?)))
    }

    /// The groups of a policy, sorted.
    pub fn groups_of_policy(&self, policy: PolicyId) -> &[GroupId] {
        self.policies.get(policy.index()).map_or(&[], |policy| &policy.groups)
    }

    /// Addresses and prefixes of the group's members, sorted; empty for a group without members.
    pub fn members_of(&self, group: &GroupId) -> &[IpNet] {
        self.members.get(group).map_or(&[], |members| members)
    }

    /// The never-filtered list.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Whether flows with this address are tracked whatever the rules say.
    pub(crate) fn is_always_tracked(&self, remote: IpAddr) -> bool {
        self.always_tracked.iter().any(|net| net.contains(&remote))
    }

    /// Name and policy of every pod, in the snapshot's order.
    pub(crate) fn pods(&self) -> &[(PodName, PolicyId)] {
        &self.pods
    }

    fn add_groups(&mut self, snapshot: &Snapshot, numbering: &Numbering, warnings: &mut Vec<Warning>) {
        let lists: HashMap<&PrefixListId, Arc<[IpNet]>> = snapshot
            .prefix_lists
            .iter()
            .map(|list| (&list.prefix_list_id, sorted(list.entries.iter().map(|entry| entry.net()))))
            .collect();
        for group in &snapshot.security_groups {
            let numbers = numbering.of_group(&group.group_id);
            for ((position, source), number) in group.rules.iter().enumerate().zip(numbers) {
                let rule = self.lower(snapshot, group, position, source, &lists, warnings);
                put(&mut self.rules, number.index(), Some(rule));
            }
            self.groups.push(Group {
                id: group.group_id.clone(),
                name: group.group_name.clone(),
                rules: numbers.to_vec(),
                pods: Vec::new(),
            });
        }
    }

    fn lower(
        &self,
        snapshot: &Snapshot,
        group: &SecurityGroup,
        position: usize,
        source: &SecurityGroupRule,
        lists: &HashMap<&PrefixListId, Arc<[IpNet]>>,
        warnings: &mut Vec<Warning>,
    ) -> LoweredRule {
        let mut rule = LoweredRule {
            group: group.group_id.clone(),
            position,
            source: source.clone(),
            predicate: Predicate::new(source.protocol),
            prefixes: Arc::default(),
        };
        match &source.target {
            RuleTarget::Cidr4(net) => rule.prefixes = Arc::new([IpNet::V4(*net)]),
            RuleTarget::Cidr6(net) => rule.prefixes = Arc::new([IpNet::V6(*net)]),
            RuleTarget::PrefixList(id) => match lists.get(id) {
                Some(entries) => rule.prefixes = entries.clone(),
                None => warnings.push(Warning::UnknownPrefixList { rule: rule.label(), list: id.clone() }),
            },
            RuleTarget::Group(reference) => {
                let reference_id = reference.group_id.clone();
                if let Some(status) = stale(reference.peering_status.as_deref()) {
                    let status = status.to_owned();
                    let rule = rule.label();
                    warnings.push(Warning::StalePeering { rule, reference: reference_id, status });
                } else if let Some(members) = self.members.get(&reference_id) {
                    rule.prefixes = members.clone();
                } else if !snapshot.security_groups.iter().any(|group| group.group_id == reference_id) {
                    warnings.push(Warning::UnknownGroup { rule: rule.label(), reference: reference_id });
                }
            }
        }
        rule
    }

    fn add_pods(&mut self, snapshot: &Snapshot, numbering: &Numbering) {
        let group_index: HashMap<GroupId, usize> =
            self.groups.iter().enumerate().map(|(index, group)| (group.id.clone(), index)).collect();
        for (index, (pod, policy)) in snapshot.pods.iter().zip(&numbering.policies).enumerate() {
            let groups = group_set(pod);
            let own: Vec<usize> = groups.iter().filter_map(|id| group_index.get(id).copied()).collect();
            for group in &own {
                self.groups[*group].pods.push(pod.name.clone());
            }
            if self.groups_of_policy(*policy).is_empty() {
                let rules = own.iter().flat_map(|group| self.groups[*group].rules.iter().copied()).collect();
                put(&mut self.policies, policy.index(), Policy { groups, rules });
            }
            self.pods.push((pod.name.clone(), *policy));
            self.by_name.insert(pod.name.clone(), index);
        }
    }
}

/// Which rule and which policy has which number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbering {
    /// The rules of each group, by position.
    pub(crate) rules: BTreeMap<GroupId, Vec<RuleRef>>,
    /// The policy of each pod, by position.
    pub(crate) policies: Vec<PolicyId>,
}

impl Numbering {
    /// Numbers in the order of the snapshot.
    pub(crate) fn fresh(snapshot: &Snapshot) -> Self {
        let mut next = 0..u32::MAX;
        let mut numbers = |count: usize| next.by_ref().take(count).map(RuleRef).collect();
        let groups = snapshot.security_groups.iter();
        let rules = groups.map(|group| (group.group_id.clone(), numbers(group.rules.len()))).collect();
        let mut known: HashMap<Vec<GroupId>, PolicyId> = HashMap::new();
        let policies = snapshot.pods.iter().map(|pod| {
            let new = PolicyId(known.len() as u32);
            *known.entry(group_set(pod)).or_insert(new)
        });
        Self { rules, policies: policies.collect() }
    }

    /// The rules of a group, by position.
    pub(crate) fn of_group(&self, group: &GroupId) -> &[RuleRef] {
        self.rules.get(group).map_or(&[], |rules| rules)
    }
}

/// The groups of a pod as a set: what pods with one policy share.
pub(crate) fn group_set(pod: &Pod) -> Vec<GroupId> {
    let mut groups = pod.security_groups.clone();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Sets `list[index]`, which may lie behind the end.
fn put<T: Default>(list: &mut Vec<T>, index: usize, value: T) {
    if list.len() <= index {
        list.resize_with(index + 1, T::default);
    }
    list[index] = value;
}

/// Private addresses of the interfaces that have each group: those listed, and this node's pods.
pub(crate) fn members(snapshot: &Snapshot) -> BTreeMap<GroupId, Arc<[IpNet]>> {
    let mut members: BTreeMap<GroupId, Vec<IpNet>> = BTreeMap::new();
    for (group, addresses) in &snapshot.group_members {
        members.entry(group.clone()).or_default().extend(addresses.iter().map(|address| address.net()));
    }
    for pod in &snapshot.pods {
        for group in &pod.security_groups {
            let of_pod = pod.addresses.iter().map(|address| IpNet::from(*address));
            members.entry(group.clone()).or_default().extend(of_pod);
        }
    }
    members.into_iter().map(|(group, addresses)| (group, sorted(addresses))).collect()
}

/// The state of a peering, unless references over it are good. Absent = the same VPC, or a peering nobody doubts.
pub(crate) fn stale(peering_status: Option<&str>) -> Option<&str> {
    peering_status.filter(|status| !status.is_empty() && !status.eq_ignore_ascii_case("active"))
}

fn sorted(nets: impl IntoIterator<Item = IpNet>) -> Arc<[IpNet]> {
    let mut nets: Vec<IpNet> = nets.into_iter().collect();
    nets.sort_unstable();
    nets.dedup();
    nets.into()
}

/// Rules of one direction among `rules`.
pub(crate) fn in_direction<'a>(
    rules: impl Iterator<Item = (RuleRef, &'a LoweredRule)>,
    direction: Direction,
) -> impl Iterator<Item = (RuleRef, &'a LoweredRule)> {
    rules.filter(move |(_, rule)| rule.direction() == direction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;

    #[test]
    fn pods_with_the_same_groups_share_a_policy() {
        let mut snapshot = snapshot("sg-1: []\nsg-2: []");
        let (model, warnings) = Model::new(&snapshot);
        assert_eq!(warnings, []);
        assert_eq!(model.policy_bound(), 2);
        let mut twin = snapshot.pods[0].clone();
        twin.name = "default/twin".parse().unwrap();
        twin.security_groups.reverse();
        snapshot.pods.push(twin);
        let (model, _) = Model::new(&snapshot);
        assert_eq!(model.policy_of(0), model.policy_of(2));
        assert_eq!(model.policy_bound(), 2);
        assert_eq!(model.policy_of(3), None);
    }

    #[test]
    fn a_pod_is_a_member_of_its_groups() {
        let (model, _) = Model::new(&snapshot("sg-1: []\nsg-2: []"));
        let members = |id: &str| -> Vec<String> {
            model.members_of(&id.parse().unwrap()).iter().map(IpNet::to_string).collect()
        };
        assert_eq!(members("sg-1"), ["10.0.1.10/32", "2001:db8::10/128"]);
        assert_eq!(members("sg-2"), ["10.0.1.10/32", "10.0.1.11/32", "10.0.9.0/28", "2001:db8::10/128"]);
        assert_eq!(members("sg-3"), [""; 0]);
    }

    #[test]
    fn references_to_nothing_are_reported_and_empty() {
        let (model, warnings) = Model::new(&snapshot(
            "sg-1:
  - {SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 1, ToPort: 1, ReferencedGroupInfo: {GroupId: sg-9}}
  - {SecurityGroupRuleId: sgr-2, IpProtocol: tcp, FromPort: 1, ToPort: 1, ReferencedGroupInfo: {GroupId: sg-2, PeeringStatus: deleted}}
  - {SecurityGroupRuleId: sgr-3, IpProtocol: tcp, FromPort: 1, ToPort: 1, ReferencedGroupInfo: {GroupId: sg-2, PeeringStatus: active}}
sg-2: []",
        ));
        let texts: Vec<String> = warnings.iter().map(Warning::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].contains("sgr-1 of sg-1 refers to sg-9"), "{texts:?}");
        assert!(texts[1].contains("peering that is deleted"), "{texts:?}");
        let sizes: Vec<usize> = model.rules().map(|(_, rule)| rule.prefixes.len()).collect();
        assert_eq!(sizes, [0, 0, 4]);
    }

    #[test]
    fn exceeding_a_quota_is_a_warning() {
        let rules: String = (0..1001)
            .map(|port| {
                format!("  - {{IpProtocol: tcp, FromPort: {port}, ToPort: {port}, CidrIpv4: 10.0.0.0/8}}\n")
            })
            .collect();
        let (model, warnings) = Model::new(&snapshot(&format!("sg-1:\n{rules}sg-2: []")));
        assert_eq!(model.rules().count(), 1001);
        assert!(matches!(warnings[0], Warning::RuleQuota { rules: 1001, .. }), "{warnings:?}");
        assert!(matches!(warnings[1], Warning::InterfaceQuota { rules: 1001, .. }), "{warnings:?}");
        assert_eq!(warnings.len(), 2);
    }
}
