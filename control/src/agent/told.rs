//! What there is to tell of a pod as an event, and when: good news once enforced, bad news once it lasts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use espalier_api::PodName;
use espalier_api::agent::{AgentPod, AgentPodState};

use super::event;
use crate::kube::PodEvent;

/// What is looked up for longer than this is worth an event.
const LASTING: Duration = Duration::from_secs(10);

/// Since when pods wait.
#[derive(Default)]
pub(super) struct Told {
    held: BTreeMap<PodName, Instant>,
}

impl Told {
    /// What is to be told of a pod now.
    pub(super) fn event(&mut self, pod: &AgentPod, in_force: bool) -> Option<PodEvent> {
        if pod.state != AgentPodState::Held {
            self.held.remove(&pod.name);
        }
        let groups = pod.security_groups.iter().map(|group| group.as_str()).collect::<Vec<_>>().join(", ");
        let reason = pod.reason.clone().unwrap_or_default();
        match pod.state {
            AgentPodState::Sent => in_force.then(|| {
                let note = pod.reason.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
                let message = format!("The switch of this node enforces {groups}{note}");
                event("SecurityGroupsEnforced", false, message)
            }),
            AgentPodState::Partial => in_force.then(|| {
                event("SecurityGroupsUnresolved", true, format!("Enforced: {groups}, but {reason}"))
            }),
            AgentPodState::Held => {
                let since = *self.held.entry(pod.name.clone()).or_insert_with(Instant::now);
                (since.elapsed() >= LASTING)
                    .then(|| event("SecurityGroupsUnresolved", true, format!("Not enforced yet: {reason}")))
            }
            AgentPodState::Denied | AgentPodState::Kernel => {
                Some(event("SecurityGroupsMissing", true, reason))
            }
        }
    }

    /// Forgets the pods that are gone.
    pub(super) fn retain(&mut self, known: impl Fn(&PodName) -> bool) {
        self.held.retain(|name, _| known(name));
    }
}
