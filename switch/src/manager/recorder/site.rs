//! What numbers in facts mean: which pod sits in a slot, which rule a number is.
//!
//! The recorder's own copy of what the manager knows, so that neither waits for the other over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use espalier_api::{EniId, GroupId, PodName, RuleId, Snapshot};
use espalier_rules::Judge;
use ipnet::IpNet;

use super::super::rule_names::RuleNames;
use crate::flow::{PodSlot, RuleKey};

/// A pod in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SitePod {
    /// Its name.
    pub(crate) name: PodName,
    /// Its branch.
    pub(crate) eni_id: EniId,
}

/// A generation that is about to be published.
pub(crate) struct Published {
    /// The snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The slot of each of its pods.
    pub(crate) placed: Vec<PodSlot>,
    /// Its policies.
    pub(crate) judge: Judge,
}

/// What numbers mean now.
pub(crate) struct Site {
    pods: BTreeMap<PodSlot, SitePod>,
    rules: RuleNames,
    published: Published,
}

impl Site {
    /// Of the first generation.
    pub(crate) fn new(published: Published) -> Self {
        let mut rules = RuleNames::default();
        note(&mut rules, &published);
        Self { pods: pods_of(&published), rules, published }
    }

    /// The slots whose pod the next generation does not have there.
    pub(crate) fn gone(&self, next: &Published) -> Vec<PodSlot> {
        let stay = pods_of(next);
        self.pods.iter().filter(|(slot, pod)| stay.get(slot) != Some(pod)).map(|(slot, _)| *slot).collect()
    }

    /// Goes on with the next generation.
    pub(crate) fn update(&mut self, next: Published) {
        self.pods = pods_of(&next);
        note(&mut self.rules, &next);
        self.published = next;
    }

    /// The pods, by slot.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (PodSlot, &SitePod)> {
        self.pods.iter().map(|(slot, pod)| (*slot, pod))
    }

    /// The pod in a slot.
    pub(crate) fn pod(&self, slot: PodSlot) -> Option<&SitePod> {
        self.pods.get(&slot)
    }

    /// The rule that a number meant in its generation: its id, where it has one, and its group.
    pub(crate) fn rule(&self, account: RuleKey) -> Option<(Option<&RuleId>, &GroupId)> {
        let name = self.rules.name(account)?;
        Some((name.id.as_ref(), &name.group))
    }

    /// The snapshot.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.published.snapshot
    }

    /// The VPC.
    pub(crate) fn vpc_id(&self) -> Option<&str> {
        self.snapshot().vpc.id.as_deref()
    }

    /// The VPC's prefixes.
    pub(crate) fn vpc_cidrs(&self) -> &[IpNet] {
        &self.snapshot().vpc.cidrs
    }
}

fn pods_of(published: &Published) -> BTreeMap<PodSlot, SitePod> {
    let pods = published.snapshot.pods.iter();
    let pods = pods.map(|pod| SitePod { name: pod.name.clone(), eni_id: pod.eni_id.clone() });
    published.placed.iter().copied().zip(pods).collect()
}

fn note(rules: &mut RuleNames, published: &Published) {
    rules.note(published.judge.model(), published.snapshot.generation.0 as u32);
}
