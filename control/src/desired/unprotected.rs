//! Pods that a policy selects but that have no branch ENI: the webhook that asks for one was away, or the policy is
//! younger than the pod. They are always reported; by their namespace's setting they are denied or left to the kernel.

use espalier_api::agent::{AgentPodState, Problem, ProblemReason};

use super::groups::Choice;
use super::{Denied, Fate, Work};
use crate::cluster::{Cluster, PodFacts};

/// Annotation of a namespace: `deny` or `kernel`.
pub const UNPROTECTED_ANNOTATION: &str = "espalier.dev/unprotected-pods";

/// What becomes of pods that should have groups and have no branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Unprotected {
    /// Nothing leaves their interface.
    Deny,
    /// The kernel carries their traffic with the node's groups, as without this project.
    Kernel,
}

/// Settings of namespaces that cannot be read.
pub(super) fn problems(cluster: &Cluster) -> impl Iterator<Item = Problem> {
    cluster.namespaces.iter().filter_map(|(namespace, annotations)| {
        let text = annotations.get(UNPROTECTED_ANNOTATION)?;
        parse(text).is_none().then(|| {
            let message = format!(
                "annotation {UNPROTECTED_ANNOTATION} of the namespace is {text:?}: expected deny or kernel; deny is used"
            );
            Problem::new(ProblemReason::PolicyInvalid, namespace, message)
        })
    })
}

fn parse(text: &str) -> Option<Unprotected> {
    match text {
        "deny" => Some(Unprotected::Deny),
        "kernel" => Some(Unprotected::Kernel),
        _ => None,
    }
}

/// Judges a pod without a branch.
pub(super) fn judge(work: &mut Work, pod: &PodFacts, choice: &Choice) -> Fate {
    if pod.addresses.is_empty() {
        let reason = "its branch ENI is not there yet".to_owned();
        return Fate { state: AgentPodState::Held, reason: Some(reason) };
    }
    let annotations = work.inputs.cluster.namespaces.get(pod.name.namespace());
    // What somebody meant to set and misspelt is not left open.
    let set = annotations.and_then(|all| all.get(UNPROTECTED_ANNOTATION));
    let setting = set.map(|text| parse(text).unwrap_or(Unprotected::Deny));
    let (state, what) = match setting.unwrap_or(work.inputs.rules.unprotected) {
        Unprotected::Deny => (AgentPodState::Denied, "nothing leaves it"),
        Unprotected::Kernel => {
            (AgentPodState::Kernel, "the kernel carries its traffic with the node's groups")
        }
    };
    let message = format!(
        "{} should give it {}, but it has no branch ENI, and has run without its groups since it started: delete the \
         pod so that it is made anew; until then {what} ({UNPROTECTED_ANNOTATION} of its namespace)",
        choice.policies.join(", "),
        super::listed(&choice.groups),
    );
    work.out.problems.insert(Problem::new(ProblemReason::BranchMissing, &pod.name, message.clone()));
    if state == AgentPodState::Denied {
        match work.inputs.places.ports.find(&pod.name, &pod.addresses) {
            Ok((veth, netns)) => {
                let denied = Denied { name: pod.name.clone(), uid: Some(pod.uid.clone()), veth, netns };
                work.draft.denied.insert(pod.name.clone(), denied);
            }
            Err(error) => return Fate { state: AgentPodState::Kernel, reason: Some(error) },
        }
    }
    Fate { state, reason: Some(message) }
}
