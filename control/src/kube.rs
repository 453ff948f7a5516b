//! The Kubernetes API as a [`ClusterSource`]: watches what this node's pods depend on and keeps it as [`Cluster`].
//!
//! One watch per kind, each with its own back-off, lists anew on 410 Gone and resumes at bookmarks (kube's watcher).
//! A watch that fails leaves what is known in place, and a problem that names the missing permission or the fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use espalier_api::agent::{Problem, ProblemReason};
use futures_util::StreamExt;
use kube::runtime::watcher;
use kube::{Client, Config};
use tokio::sync::watch;

use crate::cluster::{Cluster, ClusterSource};

mod events;
mod failure;
mod known;
mod watches;

pub use events::{PodEvent, PodEvents};
use known::Known;
use watches::{Kind, Notice, NoticeKind};

/// A watch is silent for 290 s at most before the server ends it; a connection silent for longer is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(310);

/// Changes that arrive together are published together, up to this many.
const AT_ONCE: usize = 4096;

/// A failed watch that is silent for this long has recovered: its back-off never waits longer than 30 s.
const RECOVERED: Duration = Duration::from_secs(45);

/// The API server could not be addressed.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// Neither a kubeconfig nor a service account.
    #[error("no Kubernetes configuration: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Config(String),
    /// The configuration cannot be used.
    #[error("Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// A client by the usual chain: KUBECONFIG or `~/.kube/config`, then the pod's service account.
pub async fn client() -> Result<(Client, String), KubeError> {
    let mut config = Config::infer().await.map_err(|error| KubeError::Config(error.to_string()))?;
    config.read_timeout = Some(READ_TIMEOUT);
    let place = config.cluster_url.to_string();
    Ok((Client::try_from(config)?, place))
}

/// The Kubernetes API, seen from one node.
pub struct KubeSource {
    client: Client,
    node: String,
    place: String,
}

impl KubeSource {
    /// What concerns the pods of `node`.
    pub fn new(client: Client, node: impl Into<String>, place: impl Into<String>) -> Self {
        Self { client, node: node.into(), place: place.into() }
    }
}

impl ClusterSource for KubeSource {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn start(self: Box<Self>) -> watch::Receiver<Arc<Cluster>> {
        let (sender, receiver) = watch::channel(Arc::new(Cluster::default()));
        tokio::spawn(follow(*self, sender));
        receiver
    }
}

async fn follow(source: KubeSource, sender: watch::Sender<Arc<Cluster>>) {
    let mut state = State::default();
    let mut notices = watches::all(&source.client, &source.node).ready_chunks(AT_ONCE);
    let mut look_again = tokio::time::interval(RECOVERED / 3);
    loop {
        tokio::select! {
            batch = notices.next() => {
                let Some(batch) = batch else { return };
                let learnt = Instant::now();
                for notice in batch {
                    state.take(notice, learnt);
                }
            }
            _ = look_again.tick() => state.forgive(Instant::now()),
            () = sender.closed() => return,
        }
        let cluster = state.cluster();
        sender.send_if_modified(|last| {
            let changed = **last != cluster;
            if changed {
                *last = Arc::new(cluster);
            }
            changed
        });
    }
}

/// What is known, and how the watches are.
#[derive(Default)]
struct State {
    known: Known,
    synced: BTreeSet<Kind>,
    listed: BTreeMap<Kind, BTreeSet<String>>,
    failures: BTreeMap<Kind, Failure>,
    learnt: Option<Instant>,
}

struct Failure {
    problem: Problem,
    since: SystemTime,
    last: Instant,
}

impl State {
    fn take(&mut self, Notice { kind, what }: Notice, now: Instant) {
        match what {
            NoticeKind::Failed(error) => return self.fail(kind, &error, now),
            NoticeKind::Begin => {
                self.listed.insert(kind, BTreeSet::new());
            }
            NoticeKind::Put { key, object, listed } => {
                if listed && let Some(seen) = self.listed.get_mut(&kind) {
                    seen.insert(key.clone());
                }
                if self.known.put(&key, object) {
                    self.learnt = Some(now);
                }
            }
            NoticeKind::Remove(key) => {
                if self.known.remove(kind, &key) {
                    self.learnt = Some(now);
                }
            }
            NoticeKind::Complete => {
                let seen = self.listed.remove(&kind).unwrap_or_default();
                if self.known.retain(kind, &seen) {
                    self.learnt = Some(now);
                }
                if self.synced.insert(kind) {
                    self.learnt = Some(now);
                }
            }
        }
        self.failures.remove(&kind);
    }

    fn fail(&mut self, kind: Kind, error: &watcher::Error, now: Instant) {
        let problem = failure::explain(kind, error);
        tracing::warn!(kind = kind.plural(), reason = problem.reason.label(), "{}", problem.message);
        // A resource that is not installed has no objects.
        if problem.reason == ProblemReason::KubernetesMissing && self.synced.insert(kind) {
            self.learnt = Some(now);
        }
        let since = self.failures.get(&kind).map_or_else(SystemTime::now, |failure| failure.since);
        self.failures.insert(kind, Failure { problem, since, last: now });
    }

    /// A watch that resumed says nothing until something changes.
    fn forgive(&mut self, now: Instant) {
        let synced = &self.synced;
        self.failures.retain(|kind, failure| {
            let silent = now.duration_since(failure.last) > RECOVERED;
            !silent || !synced.contains(kind) || failure.problem.reason == ProblemReason::KubernetesMissing
        });
    }

    fn cluster(&self) -> Cluster {
        let stale = self
            .failures
            .values()
            .filter(|failure| failure.problem.reason != ProblemReason::KubernetesMissing)
            .map(|failure| failure.since);
        Cluster {
            pods: self.known.pods.clone(),
            policies: self.known.policies.clone(),
            service_accounts: self.known.service_accounts.clone(),
            namespaces: self.known.namespaces.clone(),
            node: self.known.node.clone(),
            problems: self.failures.values().map(|failure| failure.problem.clone()).collect(),
            synced: self.synced.iter().map(|kind| kind.plural()).collect(),
            stale_since: stale.min(),
            learnt: self.learnt,
        }
    }
}
