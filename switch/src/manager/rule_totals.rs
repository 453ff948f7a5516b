//! What each rule has let pass since the switch started: gathered from the workers' accounts, under the rules' names.
//!
//! Accounts are by number and generation, and are settled here at every snapshot, before a number can mean another rule.
//! Rules that are gone keep their counts; the longest gone are merged into their group's once there are very many.

use std::collections::HashMap;

use espalier_api::control::GroupStatus;
use espalier_api::hits::{RuleHits, RuleUsage, RuleUse};
use espalier_api::{GroupId, PodName, SecurityGroupRule};
use espalier_rules::Model;

use super::rule_names::{RuleName, RuleNames};
use super::{Manager, ManagerError};
use crate::clock;
use crate::flow::{Accounts, Now, RuleCounts, RuleKey};
use crate::metrics::Facts;

/// Rules that are gone and still have counts of their own.
const GONE: usize = 4096;

/// What was let pass, for good: without what live flows have carried.
#[derive(Default)]
pub(super) struct RuleTotals {
    sums: Sums,
    known: HashMap<RuleName, Known>,
    /// The sums told last.
    last: Sums,
}

/// Since when a rule is in force, and since when not any more.
struct Known {
    since: Now,
    gone: Option<Now>,
}

/// Counts under their names.
#[derive(Default, Clone)]
pub(super) struct Sums {
    rules: HashMap<RuleName, RuleCounts>,
    /// Of rules long gone, by group.
    merged: HashMap<GroupId, RuleCounts>,
    without_rule: RuleCounts,
    earlier: RuleCounts,
}

impl Sums {
    fn add(&mut self, accounts: Accounts, names: &RuleNames) {
        for (key, counts) in accounts {
            let sum = match names.name(key) {
                _ if key == RuleKey::NONE => &mut self.without_rule,
                Some(name) => self.rules.entry(name.clone()).or_default(),
                None => &mut self.earlier,
            };
            sum.add(&counts);
        }
    }

    /// What a rule let pass.
    pub(super) fn rule(&self, group: &GroupId, rule: &SecurityGroupRule) -> RuleHits {
        let counts = self.rules.get(&RuleName::of(group, rule));
        hits(&counts.copied().unwrap_or_default(), clock::now())
    }

    /// What the rules of each group let pass, those that are gone included.
    pub(super) fn groups(&self) -> HashMap<&GroupId, RuleHits> {
        let mut groups: HashMap<&GroupId, RuleCounts> = HashMap::new();
        let rules = self.rules.iter().map(|(name, counts)| (&name.group, counts));
        for (group, counts) in rules.chain(&self.merged) {
            groups.entry(group).or_default().add(counts);
        }
        let now = clock::now();
        groups.into_iter().map(|(group, counts)| (group, hits(&counts, now))).collect()
    }
}

impl RuleTotals {
    /// Takes note of the rules in force from now on.
    fn note(&mut self, model: &Model) {
        let now = clock::now();
        self.known.values_mut().for_each(|known| {
            known.gone.get_or_insert(now);
        });
        for (_, rule) in model.rules() {
            let name = RuleName::of(&rule.group, &rule.source);
            let known = self.known.entry(name).or_insert(Known { since: now, gone: None });
            if known.gone.take().is_some_and(|gone| gone < now) {
                known.since = now;
            }
        }
        self.merge_gone();
    }

    /// Has groups keep the counts of the rules that are gone longest, if too many are.
    fn merge_gone(&mut self) {
        let gone = self.known.iter().filter_map(|(name, known)| Some((known.gone?, name)));
        let mut gone: Vec<(Now, RuleName)> = gone.map(|(since, name)| (since, name.clone())).collect();
        let excess = gone.len().saturating_sub(GONE);
        gone.sort_unstable_by_key(|(since, _)| *since);
        for (_, name) in gone.into_iter().take(excess) {
            self.known.remove(&name);
            if let Some(counts) = self.sums.rules.remove(&name) {
                self.sums.merged.entry(name.group).or_default().add(&counts);
            }
        }
    }
}

impl Manager {
    /// Takes note of the rules of the snapshot that is in force now. What was counted by the numbers of earlier ones is
    /// put under its names, as long as these are known.
    pub(super) fn note_rules(&mut self) {
        let Some(enforced) = &self.enforced else { return };
        for handle in self.crew.iter().flat_map(super::Crew::handles) {
            match handle.settled_accounts() {
                Ok(accounts) => self.rule_totals.sums.add(accounts, &self.rule_names),
                Err(error) => tracing::debug!(%error, "the rules' counts are settled later"),
            }
        }
        self.rule_totals.note(enforced.judge.model());
    }

    /// What the rules let pass so far, and whether that is of this moment: where a worker does not answer, it is what was
    /// told last.
    pub(super) fn rule_sums(&mut self) -> (&Sums, bool) {
        match self.gather() {
            Ok(sums) => {
                self.rule_totals.last = sums;
                (&self.rule_totals.last, true)
            }
            Err(error) => {
                tracing::warn!(%error, "the rules' counts are those of an earlier moment");
                (&self.rule_totals.last, false)
            }
        }
    }

    fn gather(&mut self) -> Result<Sums, ManagerError> {
        let mut live = Vec::new();
        for handle in self.crew.iter().flat_map(super::Crew::handles) {
            let keep = |settled| self.rule_totals.sums.add(settled, &self.rule_names);
            live.push(handle.accounts(keep).map_err(ManagerError::failed)?);
        }
        let mut sums = self.rule_totals.sums.clone();
        live.into_iter().for_each(|accounts| sums.add(accounts, &self.rule_names));
        Ok(sums)
    }

    /// What the metrics are made of.
    pub fn facts(&mut self) -> Result<Facts, ManagerError> {
        let workers = self.crew.as_ref().map_or(1, super::Crew::count);
        Ok(Facts {
            status: self.status()?,
            pods: self.pods()?,
            usage: self.rule_usage(),
            groups: self.groups_counted(),
            flow_capacity: self.shard_flows(workers).ipv4.flows,
        })
    }

    /// The groups, with what their rules let pass by the sums told last.
    pub(super) fn groups_counted(&self) -> Vec<GroupStatus> {
        let groups = self.enforced.as_ref().map(|enforced| enforced.judge.model().groups());
        let hits = self.rule_totals.last.groups();
        let counted = |group: GroupStatus| GroupStatus {
            hits: Some(hits.get(&group.group_id).copied().unwrap_or_default()),
            ..group
        };
        groups.into_iter().flatten().map(counted).collect()
    }

    /// The rules in force and what each let pass.
    pub fn rule_usage(&mut self) -> RuleUsage {
        let counting_seconds = self.started.elapsed().as_secs();
        let (_, fresh) = self.rule_sums();
        let Some(enforced) = &self.enforced else {
            return RuleUsage { counting_seconds, ..RuleUsage::default() };
        };
        let (model, totals, now) = (enforced.judge.model(), &self.rule_totals, clock::now());
        let pods: HashMap<GroupId, Vec<PodName>> =
            model.groups().into_iter().map(|group| (group.group_id, group.pods)).collect();
        let sums = &totals.last;
        let mut rest: HashMap<_, _> = sums.rules.iter().collect();
        let rules = model
            .rules()
            .map(|(_, rule)| {
                let name = RuleName::of(&rule.group, &rule.source);
                rest.remove(&name);
                let since = totals.known.get(&name).map_or(now, |known| known.since);
                RuleUse {
                    group: rule.group.clone(),
                    rule: rule.source.clone(),
                    pods: pods.get(&rule.group).map_or(0, Vec::len),
                    known_seconds: now.0.saturating_sub(since.0) / 1000,
                    hits: hits(&sums.rules.get(&name).copied().unwrap_or_default(), now),
                }
            })
            .collect();
        let mut gone = RuleCounts::default();
        rest.into_values().chain(sums.merged.values()).for_each(|counts| gone.add(counts));
        RuleUsage {
            counting_seconds,
            rules,
            gone: hits(&gone, now),
            without_rule: hits(&sums.without_rule, now),
            earlier: hits(&sums.earlier, now),
            stale: !fresh,
        }
    }
}

/// The shape of the control socket.
fn hits(counts: &RuleCounts, now: Now) -> RuleHits {
    RuleHits {
        packets: counts.packets,
        bytes: counts.bytes,
        reply_packets: counts.reply_packets,
        reply_bytes: counts.reply_bytes,
        flows: counts.flows,
        refused_flows: counts.refused,
        last_hit_ms: counts.idle_ms(now),
    }
}
