//! A snapshot in the making: its big parts are shared with the facts, so that a change copies little.

use std::collections::{BTreeMap, BTreeSet};
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
        let mut used = References::default();
        let mut uses = BTreeMap::new();
        let mut groups = BTreeMap::new();
        for id in ids {
            let last = previous.and_then(|previous| previous.groups.get(id));
            let last = last.filter(|_| !facts.absent_groups.contains(id));
            let group = facts.groups.get(id).or(last).cloned().unwrap_or_else(|| empty(id));
            let known = previous.and_then(|previous| {
                let same = previous.groups.get(id).is_some_and(|last| Arc::ptr_eq(last, &group));
                previous.uses.0.get(id).filter(|_| same).cloned()
            });
            let own = known.unwrap_or_else(|| Arc::new(References::of(&group)));
            used.add(&own);
            uses.insert(id.clone(), own);
            groups.insert(id.clone(), group);
        }
        for id in used.lists {
            let last = || previous.and_then(|previous| previous.prefix_lists.get(&id));
            match facts.prefix_lists.get(&id).or_else(last) {
                Some(list) => {
                    self.prefix_lists.insert(id, Arc::clone(list));
                }
                None => {
                    let message = "its entries are not known: the rules that name it allow nothing";
                    problems.push(Problem::new(ProblemReason::PrefixListUnknown, &id, message));
                    groups.values_mut().for_each(|group| without(group, &id));
                }
            }
        }
        for id in used.groups {
            let last = || previous.and_then(|previous| previous.members.get(&id));
            if let Some(members) = facts.members.get(&id).or_else(last) {
                self.members.insert(id, Arc::clone(members));
            }
        }
        self.groups = groups;
        self.uses = Uses(uses);
        problems
    }
}

/// What the rules of each group name. It follows from the groups, so that drafts do not differ in it.
#[derive(Debug, Clone, Default)]
struct Uses(BTreeMap<GroupId, Arc<References>>);

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

    fn add(&mut self, other: &Self) {
        self.lists.extend(other.lists.iter().cloned());
        for id in &other.groups {
            if !self.groups.contains(id) {
                self.groups.insert(id.clone());
            }
        }
    }
}

/// A group that allows nothing.
fn empty(id: &GroupId) -> Arc<SecurityGroup> {
    Arc::new(SecurityGroup {
        group_id: id.clone(),
        group_name: None,
        description: Some("its rules are not known: it allows nothing".to_owned()),
        vpc_id: None,
        rules: Vec::new(),
    })
}

/// Takes the rules out that name a list.
fn without(group: &mut Arc<SecurityGroup>, list: &PrefixListId) {
    let names = |target: &RuleTarget| matches!(target, RuleTarget::PrefixList(id) if id == list);
        audit: false,
    if group.rules.iter().any(|rule| names(&rule.target)) {
        Arc::make_mut(group).rules.retain(|rule| !names(&rule.target));
    }
}
