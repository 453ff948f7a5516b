//! A snapshot in the making: its big parts are shared with the facts, so that a change copies little.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use espalier_api::agent::{Problem, ProblemReason};
use espalier_api::snapshot::{Trunk, Vpc};
use espalier_api::{
    Address, Generation, GroupId, Pod, PodName, PrefixList, PrefixListId, RuleTarget, SecurityGroup, Snapshot,
};

use crate::facts::Facts;

/// A node's desired state without its number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// The VPC.
    pub vpc: Vpc,
    /// The trunk; there is none only while the draft is made.
    pub trunk: Option<Trunk>,
    /// Pods with a branch, and those that are denied.
    pub pods: BTreeMap<PodName, Pod>,
    /// Groups of the pods.
    pub groups: BTreeMap<GroupId, Arc<SecurityGroup>>,
    /// Members of the groups that rules name.
    pub members: BTreeMap<GroupId, Arc<Vec<Address>>>,
    /// Prefix lists that rules name.
    pub prefix_lists: BTreeMap<PrefixListId, Arc<PrefixList>>,
    /// What each group's rules name, read once for each version of a group.
    uses: Uses,
}

impl Draft {
    /// What a switch enforces, as a start.
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        Self {
            vpc: snapshot.vpc,
            trunk: Some(snapshot.trunk),
            pods: snapshot.pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect(),
            groups: snapshot
                .security_groups
                .into_iter()
                .map(|group| (group.group_id.clone(), Arc::new(group)))
                .collect(),
            members: snapshot.group_members.into_iter().map(|(id, list)| (id, Arc::new(list))).collect(),
            prefix_lists: snapshot
                .prefix_lists
                .into_iter()
                .map(|list| (list.prefix_list_id.clone(), Arc::new(list)))
                .collect(),
            uses: Uses::default(),
        }
    }

    /// The whole snapshot; `None` without a trunk.
    pub fn to_snapshot(&self, generation: Generation) -> Option<Snapshot> {
        Some(Snapshot {
            generation,
            vpc: self.vpc.clone(),
            trunk: self.trunk.clone()?,
            pods: self.pods.values().cloned().collect(),
            security_groups: self.groups.values().map(|group| SecurityGroup::clone(group)).collect(),
            prefix_lists: self.prefix_lists.values().map(|list| PrefixList::clone(list)).collect(),
            group_members: self.members.iter().map(|(id, list)| (id.clone(), list.to_vec())).collect(),
            ec2: Vec::new(),
        })
    }

    /// Whether a pod of another name has something that belongs to one branch.
    pub(super) fn overlaps(&self, pod: &Pod) -> bool {
        self.pods.values().filter(|other| other.name != pod.name).any(|other| {
            other.vlan == pod.vlan
                || other.mac == pod.mac
                || other.eni_id == pod.eni_id
                || other.addresses.iter().any(|address| pod.addresses.contains(address))
        })
    }

    /// Adds the groups of the pods and what their rules name: as known now, else as known last, else without rules.
    pub(super) fn add_groups(&mut self, facts: &Facts, previous: Option<&Self>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let ids: BTreeSet<&GroupId> = self.pods.values().flat_map(|pod| &pod.security_groups).collect();
        let mut each = BTreeMap::new();
        let mut all_known = true;
        let mut groups = BTreeMap::new();
        for id in ids {
            let last = previous.and_then(|previous| previous.groups.get(id));
            let last = last.filter(|_| !facts.absent_groups.contains(id));
            let group = facts.groups.get(id).or(last).cloned().unwrap_or_else(|| empty(id));
            let known = previous.and_then(|previous| {
                let same = previous.groups.get(id).is_some_and(|last| Arc::ptr_eq(last, &group));
                previous.uses.each.get(id).filter(|_| same).cloned()
            });
            all_known &= known.is_some();
            let own = known.unwrap_or_else(|| Arc::new(References::of(&group)));
            each.insert(id.clone(), own);
            groups.insert(id.clone(), group);
        }
        // As many groups, and each the same: they name together what they named before.
        let same = previous.filter(|previous| all_known && previous.uses.each.len() == each.len());
        let all = match same {
            Some(previous) => Arc::clone(&previous.uses.all),
            None => Arc::new(References::union(each.values())),
        };
        for id in &all.lists {
            let last = || previous.and_then(|previous| previous.prefix_lists.get(id));
            match facts.prefix_lists.get(id).or_else(last) {
                Some(list) => {
                    self.prefix_lists.insert(id.clone(), Arc::clone(list));
                }
                None => {
                    let message = "its entries are not known: the rules that name it allow nothing";
                    problems.push(Problem::new(ProblemReason::PrefixListUnknown, id, message));
                    groups.values_mut().for_each(|group| without(group, id));
                }
            }
        }
        for id in &all.groups {
            let last = || previous.and_then(|previous| previous.members.get(id));
            if let Some(members) = facts.members.get(id).or_else(last) {
                self.members.insert(id.clone(), Arc::clone(members));
            }
        }
        self.groups = groups;
        self.uses = Uses { each, all };
        problems
    }
}

/// What the rules of each group name, and those of all. It follows from the groups, so that drafts do not differ in it.
#[derive(Debug, Clone, Default)]
struct Uses {
    each: BTreeMap<GroupId, Arc<References>>,
    all: Arc<References>,
}

impl PartialEq for Uses {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What rules name.
#[derive(Debug, Default)]
struct References {
    lists: BTreeSet<PrefixListId>,
    groups: BTreeSet<GroupId>,
}

impl References {
    fn of(group: &SecurityGroup) -> Self {
        let mut own = Self::default();
        for rule in &group.rules {
            match &rule.target {
                RuleTarget::PrefixList(id) if !own.lists.contains(id) => {
                    own.lists.insert(id.clone());
                }
                RuleTarget::Group(reference) if !own.groups.contains(&reference.group_id) => {
                    own.groups.insert(reference.group_id.clone());
                }
                _ => {}
            }
        }
        own
    }

    fn union<'a>(each: impl Iterator<Item = &'a Arc<Self>> + Clone) -> Self {
        // On a large node each id is named by dozens of groups: hashing is what makes that cheap.
        let lists: HashSet<_> = each.clone().flat_map(|own| &own.lists).collect();
        let groups: HashSet<_> = each.flat_map(|own| &own.groups).collect();
        Self { lists: lists.into_iter().cloned().collect(), groups: groups.into_iter().cloned().collect() }
    }
}

/// A group that allows nothing.
fn empty(id: &GroupId) -> Arc<SecurityGroup> {
    Arc::new(SecurityGroup {
        group_id: id.clone(),
        group_name: None,
        description: Some("its rules are not known: it allows nothing".to_owned()),
        vpc_id: None,
        audit: false,
        rules: Vec::new(),
    })
}

/// Takes the rules out that name a list.
fn without(group: &mut Arc<SecurityGroup>, list: &PrefixListId) {
    let names = |target: &RuleTarget| matches!(target, RuleTarget::PrefixList(id) if id == list);
    if group.rules.iter().any(|rule| names(&rule.target)) {
        Arc::make_mut(group).rules.retain(|rule| !names(&rule.target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A draft with one pod in these groups.
    fn with_groups(groups: &str) -> Draft {
        let yaml = format!(
            "{{generation: 1, vpc: {{}}, trunk: {{interface: t}}, pods: [{{name: a/b, eniId: eni-1, vlan: 1, \
             mac: '06:00:00:00:00:01', addresses: [10.0.0.9], subnets: [10.0.0.0/24], veth: v, \
             securityGroups: [{groups}]}}], securityGroups: [{{groupId: sg-1, rules: []}}, {{groupId: sg-2, rules: []}}]}}"
        );
        let Draft { pods, .. } = Draft::from_snapshot(Snapshot::from_yaml(&yaml).unwrap());
        Draft { pods, ..Draft::default() }
    }

    fn naming(group: &str, named: &str) -> (GroupId, Arc<SecurityGroup>) {
        let rules = serde_json::json!([{"IpProtocol": "-1", "ReferencedGroupInfo": {"GroupId": named}}]);
        let id: GroupId = group.parse().unwrap();
        let rules = serde_json::from_value(rules).unwrap();
        (id.clone(), Arc::new(SecurityGroup { rules, ..SecurityGroup::clone(&empty(&id)) }))
    }

    #[test]
    fn what_groups_name_follows_their_versions_and_their_number() {
        let mut facts = Facts::default();
        facts.groups.extend([naming("sg-1", "sg-8"), naming("sg-2", "sg-9")]);
        for id in ["sg-7", "sg-8", "sg-9"] {
            facts.members.insert(id.parse().unwrap(), Arc::default());
        }
        let mut previous: Option<Draft> = None;
        let mut members = |facts: &Facts, groups: &str| {
            let mut draft = with_groups(groups);
            assert_eq!(draft.add_groups(facts, previous.as_ref()), []);
            let members: Vec<_> = draft.members.keys().map(ToString::to_string).collect();
            previous = Some(draft);
            members
        };
        assert_eq!(members(&facts, "sg-1, sg-2"), ["sg-8", "sg-9"]);
        assert_eq!(members(&facts, "sg-1, sg-2"), ["sg-8", "sg-9"]);
        facts.groups.extend([naming("sg-2", "sg-7")]);
        assert_eq!(members(&facts, "sg-1, sg-2"), ["sg-7", "sg-8"]);
        assert_eq!(members(&facts, "sg-1"), ["sg-8"]);
        assert_eq!(members(&facts, "sg-2"), ["sg-7"]);
    }
}
