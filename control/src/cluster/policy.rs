//! A SecurityGroupPolicy, checked: whom it selects, which groups it gives, and what is wrong with it.
//!
//! The rules of the VPC resource controller (`GetMatchingSecurityGroupForPods`): a policy without selectors or groups
//! is skipped, and so is one whose selector is not valid. Beyond AWS, annotations name groups by name or tag.

use std::collections::BTreeSet;

use espalier_api::agent::{Problem, ProblemReason};
use espalier_api::{GroupId, OnRuleChange};

use super::{Labels, ObjectName, SecurityGroupPolicy, Selector};
use crate::facts::GroupSelector;

/// Further groups of a policy, comma-separated: `sg-…`, `name=NAME` or `tag:KEY=VALUE`.
pub const GROUPS_ANNOTATION: &str = "espalier.dev/groups";

/// `keep` or `revoke`: what becomes of tracked flows of the policy's pods when their rules change.
pub const ON_RULE_CHANGE_ANNOTATION: &str = "espalier.dev/on-rule-change";

/// `true` or `false`: whether what the policy's pods are denied passes and is only reported.
pub const AUDIT_ANNOTATION: &str = "espalier.dev/audit";

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: ObjectName,
    /// What must hold of the pod's labels, where it says so.
    pub pods: Option<Selector>,
    /// What must hold of the labels of the pod's service account, where it says so.
    pub service_accounts: Option<Selector>,
    /// Groups by id, in its order.
    pub groups: Vec<GroupId>,
    /// Groups by name or tag.
    pub named_groups: BTreeSet<GroupSelector>,
    /// What becomes of tracked flows.
    pub on_rule_change: OnRuleChange,
    /// Whether its pods may be in audit mode.
    pub audit: bool,
    /// Whether it takes part at all.
    pub valid: bool,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Policy {
    /// Checks a policy as it came.
    pub fn new(object: &SecurityGroupPolicy) -> Self {
        let metadata = &object.metadata;
        let mut policy = Self {
            name: ObjectName {
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
            },
            pods: None,
            service_accounts: None,
            groups: Vec::new(),
            named_groups: BTreeSet::new(),
            on_rule_change: OnRuleChange::Keep,
            audit: false,
            valid: true,
            problems: Vec::new(),
        };
        policy.read_selectors(object);
        policy.read_groups(object);
        let annotation = |key| metadata.annotations.as_ref().and_then(|all| all.get(key));
        if let Some(text) = annotation(GROUPS_ANNOTATION) {
            policy.read_named_groups(text);
        }
        match annotation(ON_RULE_CHANGE_ANNOTATION).map(String::as_str) {
            None | Some("keep") => {}
            Some("revoke") => policy.on_rule_change = OnRuleChange::Revoke,
            Some(other) => policy.complain(
                ProblemReason::PolicyInvalid,
                format!("annotation {ON_RULE_CHANGE_ANNOTATION} is {other:?}: expected keep or revoke; keep is used"),
            ),
        }
        match annotation(AUDIT_ANNOTATION).map(String::as_str) {
            None | Some("false") => {}
            Some("true") => policy.audit = true,
            Some(other) => policy.complain(
                ProblemReason::PolicyInvalid,
                format!("annotation {AUDIT_ANNOTATION} is {other:?}: expected true or false; false is used"),
            ),
        }
        policy.judge();
        policy
    }

    /// Whether it selects a pod with these labels whose service account has those; `None` where a service account
    /// matters and is not known.
    pub fn selects(&self, pod: &Labels, service_account: Option<&Labels>) -> Option<bool> {
        if !self.valid || self.pods.as_ref().is_some_and(|selector| !selector.matches(pod)) {
            return Some(false);
        }
        match &self.service_accounts {
            None => Some(true),
            Some(selector) => service_account.map(|labels| selector.matches(labels)),
        }
    }

    fn read_selectors(&mut self, object: &SecurityGroupPolicy) {
        let spec = &object.spec;
        for (field, selector) in
            [("podSelector", &spec.pod_selector), ("serviceAccountSelector", &spec.service_account_selector)]
        {
            let checked = selector.as_ref().map(Selector::new);
            let (place, checked) = match (field, checked) {
                (_, None) => continue,
                ("podSelector", Some(checked)) => (&mut self.pods, checked),
                (_, Some(checked)) => (&mut self.service_accounts, checked),
            };
            match checked {
                Ok(selector) => *place = Some(selector),
                Err(error) => {
                    self.valid = false;
                    self.complain(
                        ProblemReason::SelectorInvalid,
                        format!("spec.{field}.{error}; the policy selects no pod until it is mended"),
                    );
                }
            }
        }
        if spec.pod_selector.is_none() && spec.service_account_selector.is_none() {
            self.valid = false;
            self.complain(
                ProblemReason::PolicyInvalid,
                "spec has neither podSelector nor serviceAccountSelector, so it selects no pod: an empty \
                 podSelector ({}) selects the whole namespace",
            );
        }
    }

    fn read_groups(&mut self, object: &SecurityGroupPolicy) {
        let ids = object.spec.security_groups.iter().flat_map(|groups| groups.group_ids.iter().flatten());
        for (index, id) in ids.enumerate() {
            match id.parse::<GroupId>() {
                Ok(id) if self.groups.contains(&id) => {}
                Ok(id) => self.groups.push(id),
                Err(error) => self.complain(
                    ProblemReason::PolicyInvalid,
                    format!("spec.securityGroups.groupIds[{index}]: {error}; the policy's other groups are enforced"),
                ),
            }
        }
    }

    fn read_named_groups(&mut self, text: &str) {
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if let Ok(id) = item.parse::<GroupId>() {
                if !self.groups.contains(&id) {
                    self.groups.push(id);
                }
                continue;
            }
            match item.parse() {
                Ok(selector) => {
                    self.named_groups.insert(selector);
                }
                Err(error) => self.complain(
                    ProblemReason::PolicyInvalid,
                    format!(
                        "annotation {GROUPS_ANNOTATION}: {error}; the policy's other groups are enforced"
                    ),
                ),
            }
        }
    }

    /// A policy that names nothing is skipped, as the VPC resource controller does; one whose every id is wrong is
    /// not: its pods are to have groups, and get none that allows anything.
    fn judge(&mut self) {
        if self.groups.is_empty() && self.named_groups.is_empty() && self.problems.is_empty() {
            self.valid = false;
            self.complain(
                ProblemReason::PolicyInvalid,
                format!(
                    "spec.securityGroups.groupIds is empty, so the policy is skipped: name a group there or in the \
                     annotation {GROUPS_ANNOTATION}"
                ),
            );
        }
    }

    fn complain(&mut self, reason: ProblemReason, message: impl Into<String>) {
        self.problems.push(Problem::new(reason, &self.name, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: serde_json::Value) -> Policy {
        Policy::new(&serde_json::from_value(json).unwrap())
    }

    fn spec(spec: serde_json::Value) -> Policy {
        policy(serde_json::json!({
            "apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy",
            "metadata": {"namespace": "shop", "name": "web"}, "spec": spec}))
    }

    #[test]
    fn both_selectors_are_joined_by_and_and_an_empty_one_selects_all() {
        let both = spec(serde_json::json!({
            "podSelector": {}, "serviceAccountSelector": {"matchLabels": {"team": "a"}},
            "securityGroups": {"groupIds": ["sg-1", "sg-2", "sg-1"]}}));
        assert_eq!(both.groups.len(), 2);
        let none = Labels::new();
        let team = Labels::from([("team".into(), "a".into())]);
        assert_eq!(both.selects(&none, Some(&team)), Some(true));
        assert_eq!(both.selects(&none, Some(&none)), Some(false));
        assert_eq!(both.selects(&none, None), None);
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_skipped_and_named() {
        for (bad, reason) in [
            (serde_json::json!({"securityGroups": {"groupIds": ["sg-1"]}}), ProblemReason::PolicyInvalid),
            (serde_json::json!({"podSelector": {}}), ProblemReason::PolicyInvalid),
            (
                serde_json::json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Equals"}]},
                    "securityGroups": {"groupIds": ["sg-1"]}}),
                ProblemReason::SelectorInvalid,
            ),
        ] {
            let policy = spec(bad);
            assert_eq!(policy.selects(&Labels::new(), None), Some(false));
            assert_eq!(policy.problems[0].reason, reason);
            assert_eq!(policy.problems[0].subject, "shop/web");
        }
    }

    #[test]
    fn a_wrong_id_leaves_the_others() {
        let policy =
            spec(serde_json::json!({"podSelector": {}, "securityGroups": {"groupIds": ["web", "sg-2"]}}));
        assert!(policy.valid);
        assert_eq!(policy.groups, ["sg-2".parse().unwrap()]);
        assert!(policy.problems[0].message.contains("groupIds[0]"), "{:?}", policy.problems);
        let none = spec(serde_json::json!({"podSelector": {}, "securityGroups": {"groupIds": ["web"]}}));
        assert!(none.valid && none.groups.is_empty());
    }

    #[test]
    fn only_the_word_true_puts_pods_into_audit_mode() {
        for (text, audit, problems) in
            [("true", true, 0), ("false", false, 0), ("True", false, 1), ("", false, 1)]
        {
            let policy = policy(serde_json::json!({
                "metadata": {"namespace": "shop", "name": "web", "annotations": {AUDIT_ANNOTATION: text}},
                "spec": {"podSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}}));
            assert_eq!((policy.audit, policy.problems.len()), (audit, problems), "{text:?}");
            assert!(policy.valid);
        }
    }

    #[test]
    fn annotations_name_groups_and_what_becomes_of_flows() {
        let policy = policy(serde_json::json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": {
                GROUPS_ANNOTATION: "name=web, tag:team=a,sg-9, web", ON_RULE_CHANGE_ANNOTATION: "revoke"}},
            "spec": {"podSelector": {}}}));
        assert!(policy.valid);
        assert_eq!(policy.named_groups.len(), 2);
        assert_eq!(policy.groups, ["sg-9".parse().unwrap()]);
        assert_eq!(policy.on_rule_change, OnRuleChange::Revoke);
        assert!(policy.problems[0].message.contains("\"web\" names no group"), "{:?}", policy.problems);
    }
}
