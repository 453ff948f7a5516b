//! Policies: for each set of groups, its rules by target, from which the books of every class follow.
//!
//! Kept by the compiler. Numbers stay with a set of groups as long as a pod has it.

use std::collections::HashMap;
use std::sync::Arc;

use espalier_api::{Direction, Family, GroupId};
use rustc_hash::FxHashMap;

use super::classes::{Class, Classes, TargetId, WORLD_V4, WORLD_V6};
use super::ports::{Span, paint};
use super::rulebook::{Rule, Rulebook};
use super::verdicts::{Book, OTHERS, Row, SLOT_PROTOCOLS, SLOTS, VerdictWriter};
use crate::engine::PolicyId;

/// Rules of one direction by target, each list in order of attribution.
type ByTarget = FxHashMap<TargetId, Vec<u32>>;

/// A set of groups.
#[derive(Debug)]
struct Policy {
    groups: Arc<[GroupId]>,
    pods: usize,
    rules: [ByTarget; 2],
}

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    slots: Vec<Option<Policy>>,
    by_groups: HashMap<Arc<[GroupId]>, PolicyId>,
    free: Vec<u32>,
}

/// The row of a policy in one direction.
#[inline]
pub(crate) fn row(policy: PolicyId, direction: Direction) -> Row {
    policy.0 * 2 + u32::from(direction == Direction::Egress)
}

fn world(family: Family) -> TargetId {
    match family {
        Family::V4 => WORLD_V4,
        Family::V6 => WORLD_V6,
    }
}

impl Policies {
    /// One more than the highest row.
    pub(crate) fn rows(&self) -> usize {
        self.slots.len() * 2
    }

    /// Policies in use.
    pub(crate) fn ids(&self) -> impl Iterator<Item = PolicyId> {
        (0u32..).zip(&self.slots).filter(|(_, policy)| policy.is_some()).map(|(id, _)| PolicyId(id))
    }

    /// Policies that `group` is part of.
    pub(crate) fn with_group(&self, group: &GroupId) -> Vec<PolicyId> {
        let has = |id: &PolicyId| {
            let policy = self.slots[id.index()].as_ref();
            policy.is_some_and(|policy| policy.groups.binary_search(group).is_ok())
        };
        self.ids().filter(has).collect()
    }

    /// The policy of a pod with these sorted groups; `rules` are theirs if it is a new one. Says whether it is.
    pub(crate) fn acquire(
        &mut self,
        groups: &[GroupId],
        rules: impl Iterator<Item = u32>,
        rulebook: &Rulebook,
    ) -> (PolicyId, bool) {
        if let Some(id) = self.by_groups.get(groups) {
            if let Some(policy) = &mut self.slots[id.index()] {
                policy.pods += 1;
            }
            return (*id, false);
        }
        let groups: Arc<[GroupId]> = groups.into();
        let mut policy = Policy { groups: groups.clone(), pods: 1, rules: Default::default() };
        policy.add_all(rules, rulebook);
        let id = PolicyId(self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        }));
        self.slots[id.index()] = Some(policy);
        self.by_groups.insert(groups, id);
        (id, true)
    }

    /// One pod less. A policy without pods is free for another set; its books stay until then, nobody asks for them.
    pub(crate) fn release(&mut self, id: PolicyId) {
        let Some(slot) = self.slots.get_mut(id.index()) else { return };
        let Some(policy) = slot else { return };
        policy.pods -= 1;
        if policy.pods == 0 {
            self.by_groups.remove(&policy.groups);
            *slot = None;
            self.free.push(id.0);
        }
    }

    /// Adds a rule of one of the policy's groups.
    pub(crate) fn add_rule(&mut self, id: PolicyId, number: u32, rulebook: &Rulebook) {
        let Some(policy) = &mut self.slots[id.index()] else { return };
        let Some((rule, target)) = targeted(rulebook, number) else { return };
        let list = policy.rules[direction_index(rule.direction())].entry(target).or_default();
        let precedence = |number: &u32| rulebook.get(*number).map(Rule::precedence);
        let at = list.partition_point(|other| precedence(other) < Some(rule.precedence()));
        list.insert(at, number);
    }

    /// Takes out a rule that the rulebook has no more.
    pub(crate) fn remove_rule(&mut self, id: PolicyId, number: u32, rule: &Rule) {
        let (Some(policy), Some(target)) = (&mut self.slots[id.index()], rule.target) else { return };
        let rules = &mut policy.rules[direction_index(rule.direction())];
        if let Some(list) = rules.get_mut(&target) {
            list.retain(|other| *other != number);
            if list.is_empty() {
                rules.remove(&target);
            }
        }
    }

    /// Writes the books of these classes, both directions or one.
    pub(crate) fn write_books(
        &self,
        id: PolicyId,
        direction: Direction,
        numbers: &[u32],
        (classes, rulebook): (&Classes, &Rulebook),
        writer: &mut VerdictWriter,
    ) {
        let Some(policy) = &self.slots[id.index()] else { return };
        let row = row(id, direction);
        let mut written: FxHashMap<Relevant, u32> = FxHashMap::default();
        for number in numbers {
            let Some(class) = classes.by_number(*number) else { continue };
            let relevant = policy.relevant(direction, &class);
            if let Some(same) = written.get(&relevant) {
                writer.copy(row, *number, *same);
                continue;
            }
            let book = policy.book(direction, &relevant, rulebook, writer);
            writer.set(row, *number, book);
            written.insert(relevant, *number);
        }
    }
}

/// The part of a class that one policy's rules speak of, most specific first.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Relevant {
    family: Family,
    targets: Vec<(usize, TargetId)>,
}

impl Policy {
    fn add_all(&mut self, numbers: impl Iterator<Item = u32>, rulebook: &Rulebook) {
        for number in numbers {
            if let Some((rule, target)) = targeted(rulebook, number) {
                self.rules[direction_index(rule.direction())].entry(target).or_default().push(number);
            }
        }
        for list in self.rules.iter_mut().flat_map(FxHashMap::values_mut) {
            list.sort_by(|a, b| {
                let precedence = |number: u32| rulebook.get(number).map(Rule::precedence);
                precedence(*a).cmp(&precedence(*b))
            });
        }
    }

    fn relevant(&self, direction: Direction, class: &Class) -> Relevant {
        let rules = &self.rules[direction_index(direction)];
        let mut targets: Vec<(usize, TargetId)> =
            class.targets().filter(|(_, target)| rules.contains_key(target)).collect();
        // Only the order counts: ranks without gaps make more classes alike.
        let mut rank = 0;
        let mut before = None;
        for (own, _) in &mut targets {
            let new = before.is_some_and(|before| before != *own);
            before = Some(*own);
            rank += usize::from(new);
            *own = rank;
        }
        Relevant { family: class.family, targets }
    }

    fn book(
        &self,
        direction: Direction,
        relevant: &Relevant,
        rulebook: &Rulebook,
        writer: &mut VerdictWriter,
    ) -> Book {
        let by_target = &self.rules[direction_index(direction)];
        let mut rules: Vec<(usize, u32, &Rule)> = Vec::new();
        for (rank, target) in &relevant.targets {
            let list = by_target.get(target).into_iter().flatten();
            rules.extend(list.filter_map(|number| Some((*rank, *number, rulebook.get(*number)?))));
        }
        if relevant.targets.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            rules.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.2.precedence().cmp(&b.2.precedence())));
        }
        let mut book = Book::default();
        let mut spans: Vec<(Span, u32)> = Vec::new();
        for slot in 0..SLOTS {
            spans.clear();
            spans
                .extend(rules.iter().filter_map(|(_, number, rule)| Some((slot_span(slot, rule)?, *number))));
            if !spans.is_empty() {
                let untracked = self.untracked(direction, relevant.family, slot, rulebook);
                book.0[slot] = writer.acquire_ports(paint(&spans, &untracked));
            }
        }
        book
    }

    /// The ports whose flows are untracked: those a rule for all addresses permits, if one rule of the opposite
    /// direction permits all addresses on all ports.
    fn untracked(&self, direction: Direction, family: Family, slot: usize, rulebook: &Rulebook) -> Vec<Span> {
        const TCP_AND_UDP: usize = 2;
        let world_rules = |direction: Direction| {
            let list = self.rules[direction_index(direction)].get(&world(family)).into_iter().flatten();
            list.filter_map(|number| rulebook.get(*number))
        };
        if slot >= TCP_AND_UDP {
            return Vec::new();
        }
        let back =
            world_rules(direction.opposite()).any(|rule| rule.predicate.covers_all_of(SLOT_PROTOCOLS[slot]));
        if !back {
            return Vec::new();
        }
        world_rules(direction).filter_map(|rule| slot_span(slot, rule)).collect()
    }
}

/// The selectors of a rule in one place of a book, if it speaks of its protocol.
fn slot_span(slot: usize, rule: &Rule) -> Option<Span> {
    let predicate = rule.predicate;
    match (slot, predicate.protocol) {
        (_, None) => Some((0, u16::MAX)),
        (OTHERS, Some(number)) => {
            (!SLOT_PROTOCOLS.contains(&number)).then_some((number.into(), number.into()))
        }
        (slot, Some(number)) => (SLOT_PROTOCOLS[slot] == number).then_some((predicate.first, predicate.last)),
    }
}

fn targeted(rulebook: &Rulebook, number: u32) -> Option<(&Rule, TargetId)> {
    let rule = rulebook.get(number)?;
    Some((rule, rule.target?))
}

fn direction_index(direction: Direction) -> usize {
    usize::from(direction == Direction::Egress)
}
