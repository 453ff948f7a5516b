//! Which rule a number in a flow entry means. Numbers are reused after a rule goes, so each has a short history.

use std::collections::HashMap;

use espalier_api::{GroupId, RuleId, SecurityGroupRule};
use espalier_rules::Model;

use crate::flow::RuleKey;
use crate::flow::state_file::RESTORED;
use crate::worker::RuleSpan;

/// Meanings of one number that are remembered; a flow of an older one has no known rule.
const REMEMBERED: usize = 64;

/// A rule, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RuleName {
    /// Its id, where it has one.
    pub(super) id: Option<RuleId>,
    /// Its group.
    pub(super) group: GroupId,
    /// All of it, where it has no id.
    unnamed: Option<Box<SecurityGroupRule>>,
}

impl RuleName {
    /// Of a group's rule.
    pub(super) fn of(group: &GroupId, rule: &SecurityGroupRule) -> Self {
        let unnamed = rule.id.is_none().then(|| Box::new(rule.clone()));
        Self { id: rule.id.clone(), group: group.clone(), unnamed }
    }
}

/// The history of all numbers.
#[derive(Default)]
pub(super) struct RuleNames {
    /// By number: the meanings and the first generation of each, oldest first.
    meanings: HashMap<u32, Vec<(u32, Option<RuleName>)>>,
}

impl RuleNames {
    /// Takes a generation's rules in.
    pub(super) fn note(&mut self, model: &Model, generation: u32) {
        let mut now: HashMap<u32, RuleName> = model
            .rules()
            .map(|(rule, lowered)| (rule.index() as u32, RuleName::of(&lowered.group, &lowered.source)))
            .collect();
        for (number, history) in &mut self.meanings {
            let name = now.remove(number);
            if history.last().is_some_and(|(_, last)| *last == name) {
                continue;
            }
            history.push((generation, name));
            if history.len() > REMEMBERED {
                history.remove(0);
            }
        }
        for (number, name) in now {
            self.meanings.insert(number, vec![(generation, Some(name))]);
        }
    }

    /// The rule that a number meant in its generation.
    pub(super) fn name(&self, RuleKey { rule, generation }: RuleKey) -> Option<&RuleName> {
        if generation == RESTORED {
            return None;
        }
        let history = self.meanings.get(&rule)?;
        let (_, name) = history.iter().rev().find(|(since, _)| *since <= generation)?;
        name.as_ref()
    }

    /// Every number that meant the rule, and when.
    pub(super) fn spans(&self, id: &RuleId) -> Vec<RuleSpan> {
        self.spans_where(|name| name.id.as_ref() == Some(id))
    }

    /// Every number that meant a rule of the group, and when.
    pub(super) fn spans_of_group(&self, group: &GroupId) -> Vec<RuleSpan> {
        self.spans_where(|name| name.group == *group)
    }

    fn spans_where(&self, fits: impl Fn(&RuleName) -> bool) -> Vec<RuleSpan> {
        let mut spans = Vec::new();
        for (number, history) in &self.meanings {
            for (index, (from, name)) in history.iter().enumerate() {
                if name.as_ref().is_some_and(&fits) {
                    let until = history.get(index + 1).map_or(RESTORED, |(next, _)| *next);
                    spans.push(RuleSpan { rule: *number, from: *from, until });
                }
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_api::Snapshot;
    use espalier_rules::Compiler;
    use std::sync::Arc;

    fn snapshot(generation: u32, rules: &[&str]) -> Arc<Snapshot> {
        let rules: String = rules
            .iter()
            .map(|id| {
                format!("\n      - {{SecurityGroupRuleId: {id}, IpProtocol: '-1', CidrIpv4: 10.0.0.0/8}}")
            })
            .collect();
        let text = format!(
            "generation: {generation}\ntrunk: {{interface: t}}\nsecurityGroups:\n  - groupId: sg-1\n    rules: {}",
            if rules.is_empty() { "[]".to_owned() } else { rules }
        );
        Arc::new(Snapshot::from_yaml(&text).unwrap())
    }

    #[test]
    fn a_reused_number_means_the_rule_of_its_time() {
        let mut compiler = Compiler::new(snapshot(1, &["sgr-a"]));
        let mut names = RuleNames::default();
        names.note(compiler.judge().model(), 1);
        compiler.update(snapshot(2, &[]));
        names.note(compiler.judge().model(), 2);
        compiler.update(snapshot(3, &["sgr-b"]));
        names.note(compiler.judge().model(), 3);
        let spans = |id: &str| names.spans(&id.parse().unwrap());
        let (a, b) = (spans("sgr-a")[0], spans("sgr-b")[0]);
        assert_eq!((a.from, a.until), (1, 2));
        assert_eq!((b.from, b.until), (3, RESTORED));
        assert_eq!(a.rule, b.rule, "the test needs a reused number");
        let id = |generation| {
            names
                .name(RuleKey { rule: a.rule, generation })
                .and_then(|name| name.id.clone())
                .map(|id| id.to_string())
        };
        assert_eq!(id(1).as_deref(), Some("sgr-a"));
        assert_eq!(id(2), None);
        assert_eq!(id(9).as_deref(), Some("sgr-b"));
        assert_eq!(id(RESTORED), None);
    }
}
