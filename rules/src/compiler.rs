//! Compiles snapshots to [`Tables`], whole or by what changed.
//!
//! Held by the switch's management thread. Each version shares the pages that did not change with the one before; the
//! cost of an update follows the change, not the snapshot. Readers hold versions as long as they like.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use espalier_api::{Direction, Family, GroupId, Snapshot};
use ipnet::IpNet;

use crate::change::{Change, changes, members_of, nets};
use crate::compiled::Tables;
use crate::compiled::address::Prefix;
use crate::compiled::classes::{ALWAYS_TRACKED, Classes, SERVICE, TargetId, WORLD_V4, WORLD_V6};
use crate::compiled::family::FamilyTable;
use crate::compiled::policies::Policies;
use crate::compiled::rulebook::{GroupDiff, Rule, Rulebook, TargetKey, diff_group};
use crate::compiled::verdicts::VerdictWriter;
use crate::engine::{PolicyId, RuleRef};
use crate::judge::Judge;
use crate::model::{Numbering, group_set, members};
use crate::services::Services;
use crate::settings::Settings;

/// The rules of the last snapshot, compiled, with all that is needed to follow the next one.
#[derive(Debug)]
pub struct Compiler {
    snapshot: Arc<Snapshot>,
    settings: Arc<Settings>,
    numbering: Arc<Numbering>,
    services: Arc<Services>,
    rulebook: Rulebook,
    policies: Policies,
    classes: Classes,
    v4: FamilyTable<u32, 8>,
    v6: FamilyTable<u128, 3>,
    verdicts: VerdictWriter,
}

/// Books that must be written anew because a rule with this target came or went.
type Stale = BTreeSet<(PolicyId, Direction, TargetId)>;

const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Compiler {
    /// Compiles a valid snapshot.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self::with_settings(snapshot, Arc::default())
    }

    /// Compiles a valid snapshot under other settings than the default ones.
    pub fn with_settings(snapshot: Arc<Snapshot>, settings: Arc<Settings>) -> Self {
        let mut rulebook = Rulebook::default();
        let mut numbering = Numbering::default();
        let mut given = Given::default();
        let members = members(&snapshot);
        for group in &snapshot.security_groups {
            let mut numbers = Vec::with_capacity(group.rules.len());
            for (position, source) in group.rules.iter().enumerate() {
                let (number, new) = rulebook.add(&group.group_id, position, source);
                numbers.push(RuleRef(number));
                let Some(target) = new else { continue };
                match &target.key {
                    TargetKey::Net(net) => given.add(*net, target.id),
                    TargetKey::Group(group) => {
                        members
                            .get(group)
                            .into_iter()
                            .flat_map(|nets| nets.iter())
                            .for_each(|net| given.add(*net, target.id));
                    }
                    TargetKey::List(list) => {
                        let lists = snapshot.prefix_lists.iter().filter(|own| own.prefix_list_id == *list);
                        lists
                            .flat_map(|list| &list.entries)
                            .for_each(|entry| given.add(entry.net(), target.id));
                    }
                }
            }
            numbering.rules.insert(group.group_id.clone(), numbers);
        }
        let services = Arc::new(Services::new(&snapshot));
        services.list().iter().for_each(|service| given.add(service.address.into(), SERVICE));
        settings.always_tracked.iter().for_each(|prefix| given.add(*prefix, ALWAYS_TRACKED));
        let mut classes = Classes::default();
        let v4 = FamilyTable::new(Family::V4, WORLD_V4, given.v4, &mut classes);
        let v6 = FamilyTable::new(Family::V6, WORLD_V6, given.v6, &mut classes);
        let verdicts = VerdictWriter::new(0, 0);
        let mut compiler = Self {
            snapshot,
            settings,
            numbering: Arc::new(numbering),
            services,
            rulebook,
            policies: Policies::default(),
            classes,
            v4,
            v6,
            verdicts,
        };
        let new_policies = compiler.replace_pods();
        compiler.write_books(&new_policies, &Stale::new());
        compiler
    }

    /// Goes over to the next snapshot; returns what differed.
    pub fn update(&mut self, snapshot: Arc<Snapshot>) -> Vec<Change> {
        let changes = changes(&self.snapshot, &snapshot);
        self.apply(snapshot, &changes);
        changes
    }

    /// Goes over to the next snapshot, of which the caller knows the differences ([`changes`]).
    pub fn apply(&mut self, snapshot: Arc<Snapshot>, changes: &[Change]) {
        self.snapshot = snapshot;
        let mut groups = Vec::new();
        for change in changes {
            match change {
                Change::Members { group, joined, left } => {
                    self.edit_target(&TargetKey::Group(group.clone()), joined, left);
                }
                Change::Entries { list, added, removed } => {
                    self.edit_target(&TargetKey::List(list.clone()), added, removed);
                }
                Change::Services { added, removed } => {
                    self.services = Arc::new(Services::new(&self.snapshot));
                    let host = |address: &IpAddr| IpNet::from(*address);
                    self.edit(added.iter().map(host), SERVICE, true);
                    self.edit(removed.iter().map(host), SERVICE, false);
                }
                Change::Rules { group } => groups.push(group),
                Change::Pods => {}
            }
        }
        let mut stale = Stale::new();
        for group in groups {
            self.replace_rules(group, &mut stale);
        }
        let new_policies = if changes.contains(&Change::Pods) { self.replace_pods() } else { Vec::new() };
        self.write_books(&new_policies, &stale);
    }

    /// The current version for the switch.
    pub fn judge(&self) -> Judge {
        Judge::new(
            (self.snapshot.clone(), self.settings.clone()),
            self.numbering.clone(),
            self.services.clone(),
            Arc::new(self.tables()),
        )
    }

    /// The current version's tables.
    pub fn tables(&self) -> Tables {
        Tables {
            v4: self.v4.trie().clone(),
            v6: self.v6.trie().clone(),
            hosts4: self.v4.hosts().clone(),
            hosts6: self.v6.hosts().clone(),
            verdicts: self.verdicts.verdicts().clone(),
            services: self.services.clone(),
        }
    }

    /// Prefixes and addresses in the tables.
    pub fn prefix_count(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Classes in use.
    pub fn class_count(&self) -> usize {
        self.classes.numbers().len()
    }

    fn edit_target(&mut self, key: &TargetKey, added: &[IpNet], removed: &[IpNet]) {
        if let Some(target) = self.rulebook.target(key) {
            self.edit(added.iter().copied(), target, true);
            self.edit(removed.iter().copied(), target, false);
        }
    }

    fn edit(&mut self, nets: impl IntoIterator<Item = IpNet>, target: TargetId, add: bool) {
        for net in nets {
            match Prefix::from(net) {
                Prefix::V4(address, len) => self.v4.edit(address, len, target, add, &mut self.classes),
                Prefix::V6(address, len) => self.v6.edit(address, len, target, add, &mut self.classes),
            }
        }
    }

    /// What a target stands for in the current snapshot.
    fn nets_of(&self, key: &TargetKey) -> BTreeSet<IpNet> {
        match key {
            TargetKey::Net(net) => BTreeSet::from([*net]),
            TargetKey::Group(group) => members_of(&self.snapshot, group),
            TargetKey::List(id) => {
                let list = self.snapshot.prefix_lists.iter().find(|list| list.prefix_list_id == *id);
                list.map(|list| nets(&list.entries)).unwrap_or_default()
            }
        }
    }

    /// Rules come before rules go, so that a target both point at stays in the tables.
    fn replace_rules(&mut self, group: &GroupId, stale: &mut Stale) {
        let snapshot = self.snapshot.clone();
        let rules =
            snapshot.security_groups.iter().find(|own| own.group_id == *group).map(|own| &own.rules[..]);
        let GroupDiff { gone, kept } =
            diff_group(&self.rulebook, &self.numbering, group, rules.unwrap_or_default());
        let policies = self.policies.with_group(group);
        let mut numbers = Vec::with_capacity(kept.len());
        for ((position, source), kept) in rules.unwrap_or_default().iter().enumerate().zip(kept) {
            let number = kept.unwrap_or_else(|| {
                let (number, new) = self.rulebook.add(group, position, source);
                if let Some(target) = new {
                    self.edit(self.nets_of(&target.key), target.id, true);
                }
                for policy in &policies {
                    self.policies.add_rule(*policy, number, &self.rulebook);
                }
                mark(stale, &policies, self.rulebook.get(number));
                number
            });
            numbers.push(RuleRef(number));
        }
        for number in gone {
            let Some((rule, gone)) = self.rulebook.remove(number) else { continue };
            for policy in &policies {
                self.policies.remove_rule(*policy, number, &rule);
            }
            mark(stale, &policies, Some(&rule));
            if let Some(target) = gone {
                self.edit(self.nets_of(&target.key), target.id, false);
            }
        }
        let numbering = Arc::make_mut(&mut self.numbering);
        match rules {
            Some(_) => numbering.rules.insert(group.clone(), numbers),
            None => numbering.rules.remove(group),
        };
    }

    /// Gives every pod its policy; returns the new ones.
    fn replace_pods(&mut self) -> Vec<PolicyId> {
        let snapshot = self.snapshot.clone();
        let mut new_policies = Vec::new();
        let mut policies = Vec::with_capacity(snapshot.pods.len());
        for pod in &snapshot.pods {
            let groups = group_set(pod);
            let rules = groups.iter().flat_map(|group| self.numbering.of_group(group)).map(|rule| rule.0);
            let (policy, new) = self.policies.acquire(&groups, rules, &self.rulebook);
            policies.push(policy);
            new_policies.extend(new.then_some(policy));
        }
        let old = std::mem::replace(&mut Arc::make_mut(&mut self.numbering).policies, policies);
        old.into_iter().for_each(|policy| self.policies.release(policy));
        new_policies
    }

    fn write_books(&mut self, new_policies: &[PolicyId], stale: &Stale) {
        self.verdicts.need_rows(self.policies.rows());
        let begun = self.verdicts.follow(&self.classes.take_events());
        let sources = (&self.classes, &self.rulebook);
        let all = if new_policies.is_empty() { Vec::new() } else { self.classes.numbers() };
        for policy in self.policies.ids() {
            let classes = if new_policies.contains(&policy) { &all } else { &begun };
            if classes.is_empty() {
                continue;
            }
            for direction in BOTH {
                self.policies.write_books(policy, direction, classes, sources, &mut self.verdicts);
            }
        }
        for (policy, direction, target) in stale {
            if new_policies.contains(policy) {
                continue;
            }
            // A rule for all addresses also decides what is tracked, in both directions, for every class.
            let (directions, classes) = match *target {
                WORLD_V4 | WORLD_V6 => (&BOTH[..], self.classes.numbers()),
                target => (std::slice::from_ref(direction), self.classes.with_target(target)),
            };
            for direction in directions {
                self.policies.write_books(*policy, *direction, &classes, sources, &mut self.verdicts);
            }
        }
    }
}

fn mark(stale: &mut Stale, policies: &[PolicyId], rule: Option<&Rule>) {
    let Some((rule, target)) = rule.and_then(|rule| Some((rule, rule.target?))) else { return };
    stale.extend(policies.iter().map(|policy| (*policy, rule.direction(), target)));
}

/// Prefixes with their targets, by family.
#[derive(Default)]
struct Given {
    v4: Vec<(u32, u8, TargetId)>,
    v6: Vec<(u128, u8, TargetId)>,
}

impl Given {
    fn add(&mut self, net: IpNet, target: TargetId) {
        match Prefix::from(net) {
            Prefix::V4(address, len) => self.v4.push((address, len, target)),
            Prefix::V6(address, len) => self.v6.push((address, len, target)),
        }
    }
}
