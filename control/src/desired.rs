//! Desired state as a pure function: what is known of Kubernetes, EC2 and the node in; a draft snapshot and problems out.
//!
//! Called by the agent whenever an input changed. The order in which changes arrived does not matter. A pod is drafted
//! only with everything its groups need; one that runs keeps its last entry while something is looked up. Whatever is
//! not understood opens nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use espalier_api::agent::{AgentPod, AgentPodState, Problem, ProblemReason};
use espalier_api::snapshot::{Trunk, Vpc};
use espalier_api::{ConnectionTracking, GroupId, Pod};
use ipnet::IpNet;

use crate::cluster::{Branch, Cluster, PodClass, PodFacts};
use crate::facts::{Facts, Wanted};

mod branches;
mod draft;
mod groups;
#[cfg(test)]
mod tests;
mod unprotected;
mod veth;
mod wanted;

pub use draft::Draft;
pub use unprotected::{UNPROTECTED_ANNOTATION, Unprotected};
pub use veth::PodPorts;

use branches::Claims;
use groups::Choice;

/// Where a pod's groups come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupSource {
    /// The groups EC2 reports on the branch ENI: exactly what AWS enforces.
    Eni,
    /// The SecurityGroupPolicies that select the pod now, whatever the branch ENI was made with.
    Policy,
}

impl GroupSource {
    /// As it is written in the settings.
    pub fn label(self) -> &'static str {
        match self {
            Self::Eni => "eni",
            Self::Policy => "policy",
        }
    }
}

/// How to decide.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Where a pod's groups come from.
    pub group_source: GroupSource,
    /// What becomes of pods that should have groups and have no branch, where their namespace does not say.
    pub unprotected: Unprotected,
    /// The VPC, where it is configured.
    pub vpc_id: Option<String>,
    /// CIDR blocks of the VPC, where they are configured.
    pub vpc_cidrs: Vec<IpNet>,
    /// ENI id of the trunk, where it is configured.
    pub trunk_eni: Option<espalier_api::EniId>,
}

/// What was found on the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Name of the trunk's network interface, or why it is not known.
    pub trunk: Result<String, String>,
    /// How pods' ports are found.
    pub ports: PodPorts,
}

/// Everything the desired state depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// How to decide.
    pub rules: &'a Rules,
    /// Kubernetes.
    pub cluster: &'a Cluster,
    /// EC2.
    pub facts: &'a Facts,
    /// The node.
    pub places: &'a Places,
    /// What was desired before; at the agent's start, what the switch enforces.
    pub previous: Option<&'a Draft>,
}

/// What is desired.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// The node's state; absent while not even the pods or the trunk are known.
    pub draft: Option<Draft>,
    /// The pods that have or should have groups.
    pub pods: Vec<AgentPod>,
    /// Whether a pod waits for an answer that is under way.
    pub pending: bool,
    /// What is wrong.
    pub problems: BTreeSet<Problem>,
}

/// What the sources are to find out.
pub fn wanted(rules: &Rules, cluster: &Cluster, previous: Option<&Draft>) -> Wanted {
    wanted::wanted(rules, cluster, previous)
}

/// The desired state.
pub fn desired(inputs: &Inputs) -> Desired {
    let mut work = Work {
        inputs,
        claims: Claims::default(),
        kept: Vec::new(),
        draft: Draft::default(),
        out: Desired::default(),
    };
    work.collect_problems();
    for pod in branches::in_order(inputs.cluster) {
        work.pod(pod);
    }
    work.finish()
}

/// The state of one computation.
struct Work<'a> {
    inputs: &'a Inputs<'a>,
    claims: Claims<'a>,
    /// Pods whose last entry stays, as indices into `out.pods`.
    kept: Vec<usize>,
    draft: Draft,
    out: Desired,
}

/// What becomes of a pod, and why.
struct Fate {
    state: AgentPodState,
    reason: Option<String>,
}

impl<'a> Work<'a> {
    fn collect_problems(&mut self) {
        let Inputs { cluster, facts, places, .. } = self.inputs;
        let problems = &mut self.out.problems;
        problems.extend(cluster.problems.iter().chain(&facts.problems).cloned());
        problems.extend(cluster.policies.values().flat_map(|policy| policy.problems.iter().cloned()));
        problems.extend(unprotected::problems(cluster));
        if let Err(error) = &places.trunk {
            problems.insert(Problem::new(ProblemReason::TrunkMissing, "trunk", error.clone()));
        }
    }

    fn pod(&mut self, pod: &'a PodFacts) {
        let choice = groups::choose(self.inputs, pod);
        self.out.problems.extend(choice.problems.iter().cloned());
        let (fate, branch) = match &pod.branch {
            None if choice.policies.is_empty() => return,
            None => (unprotected::judge(self, pod, &choice), None),
            Some(Err(error)) => {
                let message = format!("annotation {}: {error}", crate::cluster::POD_ENI_ANNOTATION);
                let problem = Problem::new(ProblemReason::AnnotationMalformed, &pod.name, message.clone());
                self.out.problems.insert(problem);
                (self.keep(message), None)
            }
            Some(Ok(branch)) => (self.branch(pod, branch, &choice), Some(branch)),
        };
        self.out.pods.push(AgentPod {
            name: pod.name.clone(),
            eni_id: branch.map(|branch| branch.eni_id.clone()),
            vlan: branch.map(|branch| branch.vlan),
            security_groups: choice.groups,
            policies: choice.policies,
            state: fate.state,
            reason: fate.reason,
        });
    }

    fn branch(&mut self, pod: &'a PodFacts, branch: &'a Branch, choice: &Choice) -> Fate {
        if let Err(conflict) = self.claims.claim(&pod.name, branch) {
            let problem = Problem::new(ProblemReason::BranchConflict, &pod.name, conflict.clone());
            self.out.problems.insert(problem);
            return Fate { state: AgentPodState::Held, reason: Some(conflict) };
        }
        self.out.pending |= choice.pending;
        if let Some(waiting) = &choice.waiting {
            let problem = Problem::new(ProblemReason::Waiting, &pod.name, waiting.clone());
            self.out.problems.insert(problem);
            return self.keep(waiting.clone());
        }
        match self.draft_pod(pod, branch, choice) {
            Ok(entry) => {
                self.draft.pods.insert(pod.name.clone(), entry);
                let state =
                    if choice.lacking.is_empty() { AgentPodState::Sent } else { AgentPodState::Partial };
                let reason = (!choice.lacking.is_empty()).then(|| choice.lacking.join("; "));
                Fate { state, reason: reason.or_else(|| choice.note.clone()) }
            }
            Err(missing) => {
                let problem = Problem::new(ProblemReason::Waiting, &pod.name, missing.clone());
                self.out.problems.insert(problem);
                self.keep(missing)
            }
        }
    }

    /// The pod's last entry stays, if it is still the same pod and nobody else has its branch now.
    fn keep(&mut self, reason: String) -> Fate {
        self.kept.push(self.out.pods.len());
        Fate { state: AgentPodState::Held, reason: Some(reason) }
    }

    fn restore_kept(&mut self) {
        for index in std::mem::take(&mut self.kept) {
            let pod = &mut self.out.pods[index];
            let last = self.inputs.previous.and_then(|previous| previous.pods.get(&pod.name));
            let uid = self.inputs.cluster.pods.get(&pod.name).map(|pod| pod.uid.as_str());
            if let Some(last) = last.filter(|last| last.uid.as_deref() == uid)
                && !self.draft.overlaps(last)
            {
                self.draft.pods.insert(pod.name.clone(), last.clone());
                let reason = pod.reason.take().unwrap_or_default();
                pod.reason = Some(format!("{reason}; what was enforced stays"));
            }
        }
    }

    fn draft_pod(&self, pod: &PodFacts, branch: &Branch, choice: &Choice) -> Result<Pod, String> {
        let interface = self.inputs.facts.interfaces.get(&branch.eni_id);
        let mut subnets = branch.subnets.clone();
        subnets.retain(|subnet| matches!(subnet, IpNet::V6(_)) || has_gateway(subnet));
        if subnets.is_empty() {
            subnets = interface.map(|interface| interface.subnets.clone()).unwrap_or_default();
        }
        if branch.addresses.iter().any(IpAddr::is_ipv4) && !subnets.iter().any(has_gateway) {
            return Err(format!("the subnet of {} is not known yet", branch.eni_id));
        }
        let (veth, netns) = self.inputs.places.ports.find(&pod.name, &branch.addresses)?;
        let own = interface.map(|interface| interface.connection_tracking).unwrap_or_default();
        Ok(Pod {
            name: pod.name.clone(),
            uid: Some(pod.uid.clone()),
            eni_id: branch.eni_id.clone(),
            vlan: branch.vlan,
            mac: branch.mac,
            addresses: branch.addresses.clone(),
            subnets,
            gateway: Default::default(),
            veth,
            netns,
            security_groups: choice.groups.clone(),
            connection_tracking: timeouts(own, self.inputs.facts.tracking_defaults),
            on_rule_change: choice.on_rule_change,
            audit: choice.audit,
        })
    }

    fn finish(mut self) -> Desired {
        let Inputs { rules, cluster, facts, places, previous } = self.inputs;
        // Without the pods everything would be taken away from the switch; without the trunk nothing can be said to it.
        let (true, Ok(trunk)) = (cluster.synced.contains("pods"), &places.trunk) else {
            return self.out;
        };
        // The first state is whole: half of it would be enforced for the moment it takes to learn the rest.
        if previous.is_none() && (self.out.pending || !facts.complete) {
            return self.out;
        }
        let policies_needed = rules.group_source == GroupSource::Policy;
        if policies_needed && !cluster.synced.contains("securitygrouppolicies") {
            return self.out;
        }
        self.restore_kept();
        self.draft.trunk = Some(Trunk { interface: trunk.clone(), eni_id: rules.trunk_eni.clone() });
        let cidrs = if rules.vpc_cidrs.is_empty() { &facts.vpc_cidrs } else { &rules.vpc_cidrs };
        self.draft.vpc = Vpc {
            id: rules.vpc_id.clone().or_else(|| facts.vpc_id.clone()),
            cidrs: cidrs.clone(),
            unfiltered: None,
        };
        if let Some(last) = previous.filter(|_| cidrs.is_empty()) {
            self.draft.vpc = last.vpc.clone();
        }
        let problems = self.draft.add_groups(facts, *previous);
        self.out.problems.extend(problems);
        self.out.draft = Some(self.draft);
        self.out
    }
}

/// Whether the VPC router has an address in it: the base plus one.
fn has_gateway(subnet: &IpNet) -> bool {
    matches!(subnet, IpNet::V4(net) if net.prefix_len() <= 30)
}

/// What is set on the interface wins over the instance type's defaults.
fn timeouts(own: ConnectionTracking, defaults: ConnectionTracking) -> ConnectionTracking {
    ConnectionTracking {
        tcp_established_timeout: own.tcp_established_timeout.or(defaults.tcp_established_timeout),
        udp_stream_timeout: own.udp_stream_timeout.or(defaults.udp_stream_timeout),
        udp_timeout: own.udp_timeout.or(defaults.udp_timeout),
    }
}

/// The pods that may have a branch on this node.
fn candidates(cluster: &Cluster) -> impl Iterator<Item = &PodFacts> {
    let pods = cluster.pods.values().map(AsRef::as_ref);
    pods.filter(|pod: &&PodFacts| pod.class == PodClass::Linux && !pod.finished)
}

/// Names of groups, for sentences.
fn listed(groups: &[GroupId]) -> String {
    groups.iter().map(GroupId::as_str).collect::<Vec<_>>().join(", ")
}

/// Network namespaces of the node by the addresses in them.
pub type Namespaces = BTreeMap<IpAddr, PathBuf>;
