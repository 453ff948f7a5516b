//! Events on pods (`events.k8s.io/v1`), each said once until something else is to be said.
//!
//! Called by the agent after each change. Told without waiting: an API server that is away costs the events, nothing
//! else. kube's recorder folds repeated events into a series.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::cluster::PodFacts;

/// Events that wait to be sent; more are dropped and said again later.
const WAITING: usize = 256;

/// The same words about the same pod are not said again before this has passed.
const REPEAT: Duration = Duration::from_secs(600);

/// Something to tell about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// CamelCase reason (`SecurityGroupsEnforced`).
    pub reason: &'static str,
    /// Whether somebody should look.
    pub warning: bool,
    /// What happened.
    pub note: String,
}

/// Tells events, each once.
pub struct PodEvents {
    queue: mpsc::Sender<(ObjectReference, PodEvent)>,
    said: BTreeMap<String, (PodEvent, Instant)>,
}

impl PodEvents {
    /// Starts telling, in the name of the agent of `node`.
    pub fn start(client: Client, node: String) -> Self {
        let (queue, mut waiting) = mpsc::channel::<(ObjectReference, PodEvent)>(WAITING);
        let reporter = Reporter { controller: "espalier-agent".to_owned(), instance: Some(node) };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some((pod, event)) = waiting.recv().await {
                let name = pod.name.clone().unwrap_or_default();
                if let Err(error) = recorder.publish(&to_kube(event), &pod).await {
                    tracing::warn!(pod = name, %error, "an event could not be told: events.k8s.io needs create, patch");
                }
            }
        });
        Self { queue, said: BTreeMap::new() }
    }

    /// Tells an event, unless it was the last thing said about the pod.
    pub fn tell(&mut self, pod: &PodFacts, event: PodEvent) {
        let said = self.said.get(&pod.uid);
        if said.is_some_and(|(last, when)| *last == event && when.elapsed() < REPEAT) {
            return;
        }
        if self.queue.try_send((reference(pod), event.clone())).is_ok() {
            self.said.insert(pod.uid.clone(), (event, Instant::now()));
        }
    }

    /// Forgets the pods that are gone.
    pub fn retain(&mut self, known: impl Fn(&str) -> bool) {
        self.said.retain(|uid, _| known(uid));
    }
}

fn reference(pod: &PodFacts) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.name.namespace().to_owned()),
        name: Some(pod.name.name().to_owned()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

fn to_kube(event: PodEvent) -> Event {
    Event {
        type_: if event.warning { EventType::Warning } else { EventType::Normal },
        reason: event.reason.to_owned(),
        note: Some(event.note),
        action: "Enforce".to_owned(),
        secondary: None,
    }
}
