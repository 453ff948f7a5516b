//! EC2's quotas, as warnings: Espalier enforces what exceeds them, EC2 would have refused it.
//!
//! Called once per model. Sources stand beside the numbers in [`crate::warning`].

use std::collections::BTreeMap;

use espalier_api::{Direction, Family, GroupId, RuleTarget};

use super::Model;
use crate::warning::{GROUPS_PER_INTERFACE, RULES_PER_GROUP, RULES_PER_INTERFACE, Warning};

pub(super) fn check(model: &Model, warnings: &mut Vec<Warning>) {
    for group in &model.groups {
        let mut counts: BTreeMap<(Direction, Family), usize> = BTreeMap::new();
        for rule in group.rules.iter().filter_map(|rule| model.rule(*rule)) {
            for family in families(&rule.source.target) {
                *counts.entry((rule.direction(), *family)).or_default() += 1;
            }
        }
        warnings.extend(counts.into_iter().filter(|(_, rules)| *rules > RULES_PER_GROUP).map(
            |((direction, family), rules)| Warning::RuleQuota {
                group: group.id.clone(),
                direction,
                family,
                rules,
            },
        ));
    }
    // Pods of one policy exceed together: the first one speaks for them.
    let mut seen = vec![false; model.policy_bound()];
    for (pod, policy) in model.pods() {
        if std::mem::replace(&mut seen[policy.index()], true) {
            continue;
        }
        let groups: &[GroupId] = model.groups_of_policy(*policy);
        if groups.len() > GROUPS_PER_INTERFACE {
            warnings.push(Warning::GroupQuota { pod: pod.clone(), groups: groups.len() });
        }
        let rules = model.rules_of_policy(*policy).count();
        if rules > RULES_PER_INTERFACE {
            warnings.push(Warning::InterfaceQuota { pod: pod.clone(), rules });
        }
    }
}

/// The families a rule counts in: a group reference counts in both.
fn families(target: &RuleTarget) -> &'static [Family] {
    match target {
        RuleTarget::Cidr4(_) => &[Family::V4],
        RuleTarget::Cidr6(_) => &[Family::V6],
        RuleTarget::PrefixList(_) | RuleTarget::Group(_) => &[Family::V4, Family::V6],
    }
}
