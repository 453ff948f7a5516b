//! What is known of EC2, part by part, and the [`Facts`] it amounts to.
//!
//! An answer changes only the parts it is about; a failure changes none, so that the last known good stays. A group is
//! published in the last version of which every reference is known too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use espalier_api::agent::{Problem, ProblemReason};
use espalier_api::{
    Address, ConnectionTracking, EniId, GroupId, GroupReference, PrefixList, PrefixListId, RuleId,
    RuleTarget, SecurityGroup,
};
use ipnet::IpNet;

use super::convert::{FetchedGroup, ListHead, rule_key};
use super::failure::{Action, Failure, Kind};
use super::plan::{Reach, Request};
use super::table::{Round, Table};
use crate::facts::{Facts, GroupSelector, InterfaceFacts, Wanted};

/// Ids of a group's rules by [`rule_key`].
pub(crate) type RuleIds = HashMap<String, RuleId>;

/// An answer to a [`Request`]: what was asked for, and what of it there is.
#[derive(Debug)]
pub(crate) enum Answer {
    Interfaces(Vec<EniId>, HashMap<EniId, InterfaceFacts>),
    Groups(Vec<GroupId>, Vec<FetchedGroup>),
    Named(Vec<GroupSelector>, Vec<FetchedGroup>),
    RuleIds(Vec<GroupId>, HashMap<GroupId, RuleIds>),
    Members(HashMap<GroupId, Vec<Address>>),
    Lists(Vec<PrefixListId>, HashMap<PrefixListId, ListHead>),
    Entries(PrefixListId, Entries),
    Subnets(Vec<String>, HashMap<String, Vec<IpNet>>),
    Vpcs(Vec<String>, HashMap<String, Vec<IpNet>>),
    InstanceType(String, ConnectionTracking),
}

/// A group with the ids of its rules, and what the rules refer to.
#[derive(Debug)]
pub(crate) struct Rules {
    source: Arc<FetchedGroup>,
    ids: Option<Arc<RuleIds>>,
    group: Arc<SecurityGroup>,
    has_ids: bool,
    pub(crate) references: Vec<GroupId>,
    pub(crate) lists: Vec<PrefixListId>,
}

/// Entries of a list and the version they are of.
#[derive(Debug, PartialEq)]
pub(crate) struct Entries {
    pub(crate) version: Option<i64>,
    pub(crate) entries: Vec<Address>,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    pub(crate) interfaces: Table<EniId, Option<Arc<InterfaceFacts>>>,
    pub(crate) groups: Table<GroupId, Option<Arc<FetchedGroup>>>,
    pub(crate) named: Table<GroupSelector, Vec<GroupId>>,
    pub(crate) rule_ids: Table<GroupId, Arc<RuleIds>>,
    pub(crate) members: Table<GroupId, Arc<Vec<Address>>>,
    pub(crate) lists: Table<PrefixListId, Option<ListHead>>,
    pub(crate) entries: Table<PrefixListId, Entries>,
    pub(crate) subnets: Table<String, Vec<IpNet>>,
    pub(crate) vpcs: Table<String, Vec<IpNet>>,
    pub(crate) types: Table<String, ConnectionTracking>,
    /// The newest version of each group, and the newest of which every reference is known.
    rules: HashMap<GroupId, Arc<Rules>>,
    published: HashMap<GroupId, Arc<Rules>>,
    failures: BTreeMap<Action, Failure>,
}

impl Rules {
    fn new(source: Arc<FetchedGroup>, ids: Option<Arc<RuleIds>>) -> Self {
        let mut group = source.group.clone();
        let (mut references, mut lists) = (BTreeSet::new(), BTreeSet::new());
        let mut has_ids = true;
        for rule in &mut group.rules {
            rule.id = ids.as_ref().and_then(|ids| ids.get(&rule_key(rule)).cloned());
            has_ids &= rule.id.is_some();
            match &rule.target {
                RuleTarget::Group(reference) if is_live(reference) => {
                    references.insert(reference.group_id.clone());
                }
                RuleTarget::PrefixList(id) => drop(lists.insert(id.clone())),
                _ => {}
            }
        }
        let (references, lists) = (references.into_iter().collect(), lists.into_iter().collect());
        Self { source, ids, group: Arc::new(group), has_ids, references, lists }
    }

    fn is_of(&self, source: &Arc<FetchedGroup>, ids: Option<&Arc<RuleIds>>) -> bool {
        let same_ids = match (&self.ids, ids) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        Arc::ptr_eq(&self.source, source) && same_ids
    }
}

/// A reference over a peering that is gone means nobody.
fn is_live(reference: &GroupReference) -> bool {
    let status = reference.peering_status.as_deref().unwrap_or_default();
    status.is_empty() || status.eq_ignore_ascii_case("active")
}

impl Knowledge {
    pub(crate) fn has_group(&self, id: &GroupId) -> bool {
        self.rules.contains_key(id)
    }

    /// Whether every rule of the group has its id, as far as the newest answers tell.
    pub(crate) fn has_rule_ids(&self, id: &GroupId) -> bool {
        self.rules.get(id).is_some_and(|rules| rules.has_ids)
    }

    /// The newest version of a group, and the one in use.
    pub(crate) fn rules_of(&self, id: &GroupId) -> impl Iterator<Item = &Arc<Rules>> {
        self.rules.get(id).into_iter().chain(self.published.get(id))
    }

    /// What is asked for is not asked for again in this round, whatever comes of it.
    pub(crate) fn mark_tried(&mut self, request: &Request, round: &Round) {
        match request {
            Request::Interfaces(ids) => self.interfaces.mark_tried(ids, round),
            Request::Groups(ids) => self.groups.mark_tried(ids, round),
            Request::Named { selectors, .. } => self.named.mark_tried(selectors, round),
            Request::RuleIds(ids) => self.rule_ids.mark_tried(ids, round),
            Request::Members(ids) => self.members.mark_tried(ids, round),
            Request::Lists(ids) => self.lists.mark_tried(ids, round),
            Request::Entries { list, .. } => self.entries.mark_tried(std::slice::from_ref(list), round),
            Request::Subnets(ids) => self.subnets.mark_tried(ids, round),
            Request::Vpcs(ids) => self.vpcs.mark_tried(ids, round),
            Request::InstanceType(id) => self.types.mark_tried(std::slice::from_ref(id), round),
        }
    }

    /// A request failed: nothing of what is known changes.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failures.insert(failure.action, failure);
    }

    /// An action that was denied or failed before works.
    pub(crate) fn clear_failures(&mut self, succeeded: &HashSet<Action>) {
        self.failures.retain(|action, _| !succeeded.contains(action));
    }

    /// Takes an answer in; says whether anything is different from before.
    pub(crate) fn apply(&mut self, answer: Answer, round: &Round) -> bool {
        match answer {
            Answer::Interfaces(ids, mut found) => any(ids, |id| match found.remove(&id) {
                Some(interface) => self.interfaces.put(id, Some(Arc::new(interface)), round),
                None => self.interfaces.put_absent(id, round),
            }),
            Answer::Groups(ids, found) => {
                let present: HashSet<_> =
                    found.iter().map(|fetched| fetched.group.group_id.clone()).collect();
                let missing = ids.into_iter().filter(|id| !present.contains(id));
                let gone = any(missing, |id| {
                    let changed = self.groups.put_absent(id.clone(), round);
                    self.renew(&id);
                    changed
                });
                self.put_groups(found, round) | gone
            }
            Answer::Named(selectors, found) => {
                let resolved = any(selectors, |selector| {
                    let fitting = found.iter().filter(|fetched| fits(&selector, fetched));
                    let mut ids: Vec<_> = fitting.map(|fetched| fetched.group.group_id.clone()).collect();
                    ids.sort_unstable();
                    self.named.put(selector, ids, round)
                });
                self.put_groups(found, round) | resolved
            }
            Answer::RuleIds(ids, mut found) => any(ids, |id| {
                let ids = Arc::new(found.remove(&id).unwrap_or_default());
                let changed = self.rule_ids.put(id.clone(), ids, round);
                self.renew(&id);
                changed
            }),
            Answer::Members(found) => any(found, |(id, mut members)| {
                members.sort_unstable();
                members.dedup();
                members.shrink_to_fit();
                self.members.put(id, Arc::new(members), round)
            }),
            Answer::Lists(ids, mut found) => any(ids, |id| match found.remove(&id) {
                Some(head) => self.lists.put(id, Some(head), round),
                None => self.lists.put_absent(id, round),
            }),
            Answer::Entries(list, entries) => self.entries.put(list, entries, round),
            Answer::Subnets(ids, mut found) => {
                any(ids, |id| self.subnets.put(id.clone(), found.remove(&id).unwrap_or_default(), round))
            }
            Answer::Vpcs(ids, mut found) => {
                any(ids, |id| self.vpcs.put(id.clone(), found.remove(&id).unwrap_or_default(), round))
            }
            Answer::InstanceType(id, defaults) => self.types.put(id, defaults, round),
        }
    }

    /// Forgets what is no longer wanted.
    pub(crate) fn forget(&mut self, wanted: &Wanted, reach: &Reach) {
        self.interfaces.keep(&wanted.interfaces.iter().cloned().collect());
        self.named.keep(&wanted.named_groups.iter().cloned().collect());
        self.types.keep(&wanted.instance_type.iter().cloned().collect());
        self.groups.keep(&reach.groups);
        self.rule_ids.keep(&reach.groups);
        self.rules.retain(|id, _| reach.groups.contains(id));
        self.published.retain(|id, _| reach.groups.contains(id));
        self.members.keep(&reach.members);
        self.lists.keep(&reach.lists);
        self.entries.keep(&reach.lists);
        self.subnets.keep(&reach.subnets);
        self.vpcs.keep(&reach.vpc.iter().cloned().collect());
    }

    fn put_groups(&mut self, found: Vec<FetchedGroup>, round: &Round) -> bool {
        any(found, |fetched| {
            let id = fetched.group.group_id.clone();
            let changed = self.groups.put(id.clone(), Some(Arc::new(fetched)), round);
            self.renew(&id);
            changed
        })
    }

    /// Joins a group's rules with their ids, if either is new.
    fn renew(&mut self, id: &GroupId) {
        match self.groups.get(id) {
            Some(Some(source)) => {
                let ids = self.rule_ids.get(id);
                if self.rules.get(id).is_none_or(|rules| !rules.is_of(source, ids)) {
                    let rules = Rules::new(Arc::clone(source), ids.cloned());
                    self.rules.insert(id.clone(), Arc::new(rules));
                }
            }
            _ => {
                self.rules.remove(id);
                self.published.remove(id);
            }
        }
    }

    /// Whether the action fails for good, so that nobody should wait for it.
    fn is_denied(&self, action: Action) -> bool {
        self.failures.get(&action).is_some_and(|failure| failure.kind == Kind::Denied)
    }

    /// Whether all that the rules refer to is known, or cannot be had.
    fn is_whole(&self, rules: &Rules) -> bool {
        let no_members = self.is_denied(Action::DescribeNetworkInterfaces);
        let no_lists = self.is_denied(Action::DescribeManagedPrefixLists);
        let no_entries = self.is_denied(Action::GetManagedPrefixListEntries);
        let has_list = |id: &PrefixListId| match self.lists.get(id) {
            Some(Some(_)) => no_entries || self.entries.get(id).is_some(),
            Some(None) => true,
            None => no_lists,
        };
        let mut references = rules.references.iter();
        references.all(|id| no_members || self.members.get(id).is_some()) && rules.lists.iter().all(has_list)
    }

    /// What is known, for those who use it.
    pub(crate) fn facts(&mut self, wanted: &Wanted, reach: &Reach) -> Facts {
        let mut facts = Facts { vpc_id: reach.vpc.clone(), ..Facts::default() };
        self.add_interfaces(&mut facts, wanted);
        for id in &reach.groups {
            if let Some(rules) = self.rules.get(id).filter(|rules| self.is_whole(rules)) {
                self.published.insert(id.clone(), Arc::clone(rules));
            }
            match self.published.get(id) {
                Some(rules) => self.add_group(&mut facts, id, rules),
                None if self.groups.get(id) == Some(&None) => drop(facts.absent_groups.insert(id.clone())),
                None if self.groups.was_ever_tried(id) => drop(facts.failed_groups.insert(id.clone())),
                None => {}
            }
        }
        for selector in &wanted.named_groups {
            if let Some(ids) = self.named.get(selector) {
                facts.resolved.insert(selector.clone(), ids.clone());
            }
        }
        let vpc = reach.vpc.as_ref().and_then(|vpc| self.vpcs.get(vpc));
        facts.vpc_cidrs = vpc.cloned().unwrap_or_default();
        let defaults = wanted.instance_type.as_ref().and_then(|id| self.types.get(id));
        facts.tracking_defaults = defaults.copied().unwrap_or_default();
        facts.problems.extend(self.problems(wanted, reach));
        facts.problems.sort_unstable();
        facts.problems.dedup();
        facts.as_of = self.oldest(wanted, reach);
        facts
    }

    fn add_interfaces(&self, facts: &mut Facts, wanted: &Wanted) {
        for id in &wanted.interfaces {
            match self.interfaces.get(id) {
                Some(Some(interface)) => {
                    let blocks = interface.subnet_id.as_ref().and_then(|subnet| self.subnets.get(subnet));
                    let mut interface = Arc::clone(interface);
                    if let Some(blocks) = blocks {
                        Arc::make_mut(&mut interface).subnets.clone_from(blocks);
                    }
                    facts.interfaces.insert(id.clone(), interface);
                }
                Some(None) => drop(facts.absent_interfaces.insert(id.clone())),
                None if self.interfaces.was_ever_tried(id) => {
                    facts.failed_interfaces.insert(id.clone());
                }
                None => {}
            }
        }
    }

    fn add_group(&self, facts: &mut Facts, id: &GroupId, rules: &Rules) {
        facts.groups.insert(id.clone(), Arc::clone(&rules.group));
        for id in &rules.references {
            if let Some(members) = self.members.get(id) {
                facts.members.insert(id.clone(), Arc::clone(members));
            }
        }
        for id in &rules.lists {
            let (Some(Some(head)), Some(known)) = (self.lists.get(id), self.entries.get(id)) else {
                continue;
            };
            facts.prefix_lists.entry(id.clone()).or_insert_with(|| {
                Arc::new(PrefixList {
                    prefix_list_id: id.clone(),
                    name: head.name.clone(),
                    address_family: head.family,
                    version: known.version,
                    entries: known.entries.clone(),
                })
            });
        }
    }

    fn problems(&self, wanted: &Wanted, reach: &Reach) -> Vec<Problem> {
        let mut problems: Vec<_> = self.failures.values().map(Failure::problem).collect();
        let mut add = |reason, subject: &str, message: String| {
            problems.push(Problem::new(reason, subject, message));
        };
        for id in &reach.groups {
            if self.groups.get(id) == Some(&None) {
                let message = "EC2 knows no such group in this account and Region, or not yet; the other groups are \
                               enforced, and it is looked for again";
                add(ProblemReason::GroupUnknown, id.as_str(), message.to_owned());
            } else if self.groups.is_doubted(id) {
                let message = "missing from EC2's last answer; kept until another answer says so too";
                add(ProblemReason::GroupUnknown, id.as_str(), message.to_owned());
            }
            let Some(rules) = self.rules.get(id) else { continue };
            for odd in &rules.source.odd {
                let message = format!("a rule is left out, it cannot be understood: {odd}");
                add(ProblemReason::Ec2Malformed, id.as_str(), message);
            }
            for (member, owner) in rules.foreign_references() {
                let message = format!(
                    "referred to by {id}, belongs to account {owner}, whose interfaces this role cannot see: nobody is \
                     taken for a member"
                );
                add(ProblemReason::GroupUnknown, member.as_str(), message);
            }
        }
        for id in &reach.lists {
            if self.lists.get(id) == Some(&None) {
                let message = "EC2 knows no such prefix list: rules that name it allow nothing";
                add(ProblemReason::PrefixListUnknown, id.as_str(), message.to_owned());
            }
        }
        for id in &wanted.interfaces {
            if self.interfaces.get(id) == Some(&None) || self.interfaces.is_doubted(id) {
                let message = "EC2 knows no such network interface, or not yet; it is looked for again";
                add(ProblemReason::InterfaceUnknown, id.as_str(), message.to_owned());
            }
        }
        if reach.vpc.is_none() && !wanted.named_groups.is_empty() {
            let message =
                "groups go by name or tag within a VPC, and the node's is not known: configure the VPC's id";
            add(ProblemReason::GroupUnresolved, "vpc", message.to_owned());
        }
        problems
    }

    /// When the part in use that was confirmed longest ago was confirmed. What has a version, or hardly changes, does
    /// not age.
    fn oldest(&self, wanted: &Wanted, reach: &Reach) -> Option<SystemTime> {
        let interfaces = wanted.interfaces.iter().filter_map(|id| self.interfaces.at(id));
        let named = wanted.named_groups.iter().filter_map(|selector| self.named.at(selector));
        let groups = reach.groups.iter().filter_map(|id| self.groups.at(id));
        let members = reach.members.iter().filter_map(|id| self.members.at(id));
        let lists = reach.lists.iter().filter_map(|id| self.lists.at(id));
        interfaces.chain(named).chain(groups).chain(members).chain(lists).min()
    }

    /// Whether something wanted does not exist, or was missing from one answer.
    pub(crate) fn is_unsettled(&self, wanted: &Wanted, reach: &Reach) -> bool {
        let groups = &self.groups;
        reach.groups.iter().any(|id| groups.get(id) == Some(&None) || groups.is_doubted(id))
            || wanted
                .interfaces
                .iter()
                .any(|id| self.interfaces.get(id) == Some(&None) || self.interfaces.is_doubted(id))
            || wanted.named_groups.iter().any(|selector| self.named.get(selector).is_none_or(Vec::is_empty))
    }
}

impl Rules {
    /// Groups of other accounts that the rules refer to.
    fn foreign_references(&self) -> impl Iterator<Item = (&GroupId, &str)> {
        let own = self.source.owner.as_deref();
        self.group.rules.iter().filter_map(move |rule| {
            let RuleTarget::Group(reference) = &rule.target else { return None };
            let owner = reference.user_id.as_deref().filter(|owner| !owner.is_empty())?;
            (own.is_some_and(|own| own != owner) && is_live(reference))
                .then_some((&reference.group_id, owner))
        })
    }
}

/// Whether any of the items makes a change; all are dealt with.
fn any<T>(items: impl IntoIterator<Item = T>, mut change: impl FnMut(T) -> bool) -> bool {
    items.into_iter().fold(false, |changed, item| change(item) | changed)
}

fn fits(selector: &GroupSelector, fetched: &FetchedGroup) -> bool {
    match selector {
        GroupSelector::Name(name) => fetched.group.group_name.as_ref() == Some(name),
        GroupSelector::Tag { key, value } => fetched.tags.iter().any(|tag| tag.0 == *key && tag.1 == *value),
    }
}
