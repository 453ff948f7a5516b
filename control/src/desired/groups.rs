//! Which groups a pod is to have: those of its branch ENI, or those of the policies that select it.

use std::collections::HashSet;

use espalier_api::agent::{Problem, ProblemReason};
use espalier_api::{GroupId, OnRuleChange};

use super::{GroupSource, Inputs};
use crate::cluster::{PodFacts, Policy};
use crate::facts::GroupSelector;

/// The groups of a pod and what is to be said of them.
#[derive(Default)]
pub(super) struct Choice {
    /// In the order of first mention, without repeats.
    pub(super) groups: Vec<GroupId>,
    /// Names of the policies that select the pod.
    pub(super) policies: Vec<String>,
    /// What becomes of tracked flows.
    pub(super) on_rule_change: OnRuleChange,
    /// Whether what the groups deny passes and is only reported.
    pub(super) audit: bool,
    /// Why the pod cannot be drafted yet.
    pub(super) waiting: Option<String>,
    /// Whether it waits for an answer that is under way.
    pub(super) pending: bool,
    /// Why some of the groups allow nothing.
    pub(super) lacking: Vec<String>,
    /// Worth knowing, though nothing is wrong.
    pub(super) note: Option<String>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

/// Chooses.
pub(super) fn choose(inputs: &Inputs, pod: &PodFacts) -> Choice {
    let mut choice = Choice::default();
    let selecting = selecting(inputs, pod, &mut choice);
    choice.policies = selecting.iter().map(|policy| policy.name.to_string()).collect();
    if selecting.iter().any(|policy| policy.on_rule_change == OnRuleChange::Revoke) {
        choice.on_rule_change = OnRuleChange::Revoke;
    }
    // One policy cannot take the protection away that another gives.
    choice.audit = !selecting.is_empty() && selecting.iter().all(|policy| policy.audit);
    let by_policy = !selecting.is_empty() && inputs.rules.group_source == GroupSource::Policy;
    match &pod.branch {
        Some(Ok(branch)) if !by_policy => of_interface(inputs, &branch.eni_id, &mut choice),
        _ => of_policies(inputs, &selecting, &mut choice),
    }
    if matches!(pod.branch, Some(Ok(_))) {
        if selecting.is_empty() && inputs.rules.group_source == GroupSource::Policy {
            choice.note = Some("no policy selects it: it has the groups of its branch ENI".to_owned());
        }
        if choice.audit {
            choice.note = Some("audit mode: what its groups deny passes and is reported".to_owned());
        }
        check_known(inputs, pod, &mut choice);
    }
    choice
}

/// The policies of the pod's namespace that select it, by name.
fn selecting<'a>(inputs: &Inputs<'a>, pod: &PodFacts, choice: &mut Choice) -> Vec<&'a Policy> {
    let cluster = inputs.cluster;
    let namespace = pod.name.namespace();
    let account =
        crate::cluster::ObjectName { namespace: namespace.to_owned(), name: pod.service_account.clone() };
    let labels = cluster.service_accounts.get(&account).map(AsRef::as_ref);
    let mut selecting = Vec::new();
    for policy in cluster.policies.values().filter(|policy| policy.name.namespace == namespace) {
        match policy.selects(&pod.labels, labels) {
            Some(true) => selecting.push(policy.as_ref()),
            Some(false) => {}
            None if inputs.rules.group_source == GroupSource::Eni && pod.branch.is_some() => {}
            None => {
                let message =
                    format!("policy {} asks for the labels of service account {account}", policy.name);
                choice.waiting = Some(format!("{message}, which are not known"));
                if cluster.synced.contains("serviceaccounts") {
                    let message = format!("{message}, which does not exist");
                    choice.problems.push(Problem::new(
                        ProblemReason::ServiceAccountMissing,
                        &pod.name,
                        message,
                    ));
                }
            }
        }
    }
    selecting
}

/// `eni`: exactly what EC2 enforces.
fn of_interface(inputs: &Inputs, eni: &espalier_api::EniId, choice: &mut Choice) {
    let facts = inputs.facts;
    if let Some(interface) = facts.interfaces.get(eni).filter(|interface| !interface.groups.is_empty()) {
        choice.groups = interface.groups.clone();
        return;
    }
    let message = if facts.absent_interfaces.contains(eni) {
        let message = format!("{eni} does not exist in EC2: the pod's branch is dead, delete the pod");
        choice.problems.push(Problem::new(ProblemReason::InterfaceUnknown, eni, message.clone()));
        message
    } else if facts.failed_interfaces.contains(eni) {
        format!("{eni} could not be read from EC2")
    } else {
        choice.pending = true;
        format!("{eni} is being looked up in EC2")
    };
    choice.waiting = Some(message);
}

/// `policy`: the union, in the order of the policies' names.
fn of_policies(inputs: &Inputs, selecting: &[&Policy], choice: &mut Choice) {
    for policy in selecting {
        choice.groups.extend(policy.groups.iter().cloned());
        for selector in &policy.named_groups {
            named(inputs, policy, selector, choice);
        }
    }
    let mut seen = HashSet::new();
    choice.groups.retain(|group| seen.insert(group.clone()));
    if !selecting.is_empty() && choice.groups.is_empty() && choice.waiting.is_none() {
        choice.waiting = Some("its policies name no group that could be found".to_owned());
    }
}

fn named(inputs: &Inputs, policy: &Policy, selector: &GroupSelector, choice: &mut Choice) {
    match inputs.facts.resolved.get(selector).map(Vec::as_slice) {
        None => {
            choice.pending = true;
            choice.waiting = Some(format!("group {selector} is being looked up in EC2"));
        }
        Some([]) => lack(choice, policy, format!("no group of the VPC is {selector}")),
        Some([_, _, ..]) if matches!(selector, GroupSelector::Name(_)) => {
            lack(choice, policy, format!("several groups are {selector}: name one by its id"));
        }
        Some(found) => choice.groups.extend(found.iter().cloned()),
    }
}

fn lack(choice: &mut Choice, policy: &Policy, message: String) {
    choice.problems.push(Problem::new(ProblemReason::GroupUnresolved, &policy.name, message.clone()));
    choice.lacking.push(message);
}

/// Whether the rules of every group can be had: now, from before, or not at all.
fn check_known(inputs: &Inputs, pod: &PodFacts, choice: &mut Choice) {
    let facts = inputs.facts;
    let runs = inputs.previous.is_some_and(|previous| previous.pods.contains_key(&pod.name));
    for group in &choice.groups {
        if facts.groups.contains_key(group) {
            continue;
        }
        if facts.absent_groups.contains(group) {
            let message =
                format!("{group} does not exist in EC2, so it allows nothing: mend the policy that names it");
            choice.problems.push(Problem::new(ProblemReason::GroupUnknown, group, message));
            choice.lacking.push(format!("{group} does not exist"));
        } else if inputs.previous.is_some_and(|previous| previous.groups.contains_key(group)) {
            // The last known good rules serve.
        } else if facts.failed_groups.contains(group) && runs {
            choice.lacking.push(format!("{group} could not be read from EC2, so it allows nothing yet"));
        } else if facts.failed_groups.contains(group) {
            choice.waiting = Some(format!("{group} could not be read from EC2"));
        } else {
            choice.pending = true;
            choice.waiting = Some(format!("{group} is being looked up in EC2"));
        }
    }
}
