//! The rules of all groups with numbers that stay theirs from snapshot to snapshot, and the targets they point at.
//!
//! Kept by the compiler. A rule that is equal before and after a change keeps its number, so the verdicts that name it
//! stay as they are.

use std::collections::HashMap;

use espalier_api::{Direction, GroupId, PrefixListId, RuleTarget, SecurityGroupRule};
use ipnet::IpNet;

use super::classes::{FIRST_TARGET, TargetId, WORLD_V4, WORLD_V6};
use super::ports::Verdict;
use crate::engine::RuleRef;
use crate::lower::{Precedence, Predicate};
use crate::model::{Numbering, stale};

/// What a rule points at, apart from ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TargetKey {
    /// A CIDR.
    Net(IpNet),
    /// A prefix list.
    List(PrefixListId),
    /// The members of a group.
    Group(GroupId),
}

impl TargetKey {
    /// The target of a rule, unless its peering is stale.
    fn of(rule: &SecurityGroupRule) -> Option<Self> {
        match &rule.target {
            RuleTarget::Cidr4(net) => Some(Self::Net(IpNet::V4(*net))),
            RuleTarget::Cidr6(net) => Some(Self::Net(IpNet::V6(*net))),
            RuleTarget::PrefixList(id) => Some(Self::List(id.clone())),
            RuleTarget::Group(reference) => match stale(reference.peering_status.as_deref()) {
                Some(_) => None,
                None => Some(Self::Group(reference.group_id.clone())),
            },
        }
    }
}

/// A rule of a group.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) group: GroupId,
    pub(crate) position: usize,
    pub(crate) source: SecurityGroupRule,
    pub(crate) predicate: Predicate,
    /// `None` matches nothing.
    pub(crate) target: Option<TargetId>,
}

impl Rule {
    pub(crate) fn precedence(&self) -> Precedence<'_> {
        Precedence::of(&self.source, &self.group, self.position)
    }

    pub(crate) fn direction(&self) -> Direction {
        self.source.direction
    }
}

/// All rules and targets.
#[derive(Debug)]
pub(crate) struct Rulebook {
    rules: Vec<Option<Rule>>,
    free: Vec<u32>,
    targets: HashMap<TargetKey, (TargetId, u32)>,
    free_targets: Vec<TargetId>,
    next_target: TargetId,
}

/// A target that rules have begun or ceased to point at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TargetChange {
    pub(crate) key: TargetKey,
    pub(crate) id: TargetId,
}

impl Default for Rulebook {
    fn default() -> Self {
        // The worlds are always there: every address has a class.
        let world = |cidr: IpNet, id| (TargetKey::Net(cidr), (id, 1));
        let worlds = [
            world(IpNet::V4(ipnet::Ipv4Net::default()), WORLD_V4),
            world(IpNet::V6(ipnet::Ipv6Net::default()), WORLD_V6),
        ];
        Self {
            rules: Vec::new(),
            free: Vec::new(),
            targets: HashMap::from(worlds),
            free_targets: Vec::new(),
            next_target: FIRST_TARGET,
        }
    }
}

impl Rulebook {
    /// The rule with this number.
    pub(crate) fn get(&self, rule: u32) -> Option<&Rule> {
        self.rules.get(rule as usize)?.as_ref()
    }

    /// The target's number, if a rule points at it.
    pub(crate) fn target(&self, key: &TargetKey) -> Option<TargetId> {
        self.targets.get(key).map(|(id, _)| *id)
    }

    /// Adds a rule; also returns its target if it is new.
    pub(crate) fn add(
        &mut self,
        group: &GroupId,
        position: usize,
        source: &SecurityGroupRule,
    ) -> (u32, Option<TargetChange>) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.rules.push(None);
            (self.rules.len() - 1) as u32
        });
        let fits = (number as usize) < Verdict::RULES_MAX;
        let target = TargetKey::of(source).filter(|_| fits).map(|key| self.point_at(key));
        self.rules[number as usize] = Some(Rule {
            group: group.clone(),
            position,
            source: source.clone(),
            predicate: Predicate::new(source.protocol),
            target: target.as_ref().map(|(id, _)| *id),
        });
        (number, target.and_then(|(_, new)| new))
    }

    /// Takes a rule out; also returns its target if no rule points at it any more.
    pub(crate) fn remove(&mut self, number: u32) -> Option<(Rule, Option<TargetChange>)> {
        let rule = self.rules.get_mut(number as usize)?.take()?;
        self.free.push(number);
        let gone = rule.target.and(TargetKey::of(&rule.source)).and_then(|key| self.point_away(key));
        Some((rule, gone))
    }

    fn point_at(&mut self, key: TargetKey) -> (TargetId, Option<TargetChange>) {
        if let Some((id, users)) = self.targets.get_mut(&key) {
            *users += 1;
            return (*id, None);
        }
        let id = self.free_targets.pop().unwrap_or_else(|| {
            self.next_target += 1;
            self.next_target - 1
        });
        self.targets.insert(key.clone(), (id, 1));
        (id, Some(TargetChange { key, id }))
    }

    fn point_away(&mut self, key: TargetKey) -> Option<TargetChange> {
        let (id, users) = self.targets.get_mut(&key)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        let id = *id;
        self.targets.remove(&key);
        self.free_targets.push(id);
        Some(TargetChange { key, id })
    }
}

/// What becomes of a group's rules: numbers that end, and for each new position the number that stays.
pub(crate) struct GroupDiff {
    pub(crate) gone: Vec<u32>,
    pub(crate) kept: Vec<Option<u32>>,
}

/// Matches a group's rules before and after. Equal rules keep their number; the position matters only without an id.
pub(crate) fn diff_group(
    rulebook: &Rulebook,
    numbering: &Numbering,
    group: &GroupId,
    rules: &[SecurityGroupRule],
) -> GroupDiff {
    let mut known: HashMap<(&SecurityGroupRule, Option<usize>), u32> = HashMap::new();
    let key =
        |rule: &SecurityGroupRule, position: usize| if rule.id.is_some() { None } else { Some(position) };
    for RuleRef(number) in numbering.of_group(group) {
        if let Some(rule) = rulebook.get(*number) {
            known.insert((&rule.source, key(&rule.source, rule.position)), *number);
        }
    }
    let kept: Vec<Option<u32>> =
        rules.iter().enumerate().map(|(position, rule)| known.remove(&(rule, key(rule, position)))).collect();
    let mut gone: Vec<u32> = known.into_values().collect();
    gone.sort_unstable();
    GroupDiff { gone, kept }
}
