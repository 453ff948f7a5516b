//! Pods that a policy selects but that have no branch ENI: the webhook that asks for one was away, or the policy is
//! younger than the pod. They are always reported; by their namespace's setting they are denied or left to the kernel.

use std::net::Ipv4Addr;

use espalier_api::agent::{AgentPodState, Problem, ProblemReason};
use espalier_api::snapshot::Gateway;
use espalier_api::{ConnectionTracking, GroupId, Mac, OnRuleChange, Pod, Vlan};

use super::groups::Choice;
use super::{Fate, Work};
use crate::cluster::{Cluster, PodFacts};

/// Annotation of a namespace: `deny` or `kernel`.
pub const UNPROTECTED_ANNOTATION: &str = "espalier.dev/unprotected-pods";

/// The group of denied pods; it has no rules.
pub(super) const DENIED_GROUP: &str = "sg-denied";

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
    if state == AgentPodState::Denied
        && let Err(error) = deny(work, pod)
    {
        return Fate {
            state: AgentPodState::Held,
            reason: Some(format!("{message}; not denied yet: {error}")),
        };
    }
    Fate { state, reason: Some(message) }
}

/// Puts the pod into the draft with a branch that does not exist and a group that allows nothing: the switch takes its
/// interface over, and nothing leaves it.
fn deny(work: &mut Work, pod: &PodFacts) -> Result<(), String> {
    let (veth, netns) = work.inputs.places.ports.find(&pod.name, &pod.addresses)?;
    let group: GroupId = DENIED_GROUP.parse()?;
    let last = work.inputs.previous.and_then(|previous| previous.pods.get(&pod.name));
    let last = last.filter(|last| last.security_groups.contains(&group)).map(|last| last.vlan);
    let used = |vlan: &Vlan| {
        work.draft.pods.values().any(|other| other.vlan == *vlan) || work.claims.has_vlan(*vlan)
    };
    let vlan = last.into_iter().chain((121..=4094).rev().filter_map(Vlan::new)).find(|vlan| !used(vlan));
    let vlan = vlan.ok_or("no VLAN is left to deny it with")?;
    let [high, low] = vlan.get().to_be_bytes();
    let mac = |kind| Mac::new([0x02, 0xe5, 0x0d, kind, high, low]).ok_or("no MAC address");
    let entry = Pod {
        name: pod.name.clone(),
        uid: Some(pod.uid.clone()),
        eni_id: format!("eni-denied-{vlan}").parse()?,
        vlan,
        mac: mac(0)?,
        addresses: pod.addresses.clone(),
        subnets: Vec::new(),
        // Given, so that nobody is asked for it.
        gateway: Gateway { ipv4: Some(Ipv4Addr::new(169, 254, 1, 1)), ipv6: None, mac: Some(mac(1)?) },
        veth,
        netns,
        security_groups: vec![group],
        connection_tracking: ConnectionTracking::default(),
        on_rule_change: OnRuleChange::Revoke,
        audit: false,
    };
    if work.draft.overlaps(&entry) {
        return Err("another pod has its address".to_owned());
    }
    work.draft.pods.insert(pod.name.clone(), entry);
    Ok(())
}
