//! The agent's loop: what the sources say becomes the desired state, that an order for the switch, and both a view.
//!
//! Runs until it is cancelled. It holds no lock and waits for nobody: sources, feeder, events and the status server are
//! tasks of their own, joined by channels that keep the newest value.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use espalier_api::agent::AgentPodState;
use tokio::sync::watch;

use crate::cluster::{Cluster, ClusterSource};
use crate::desired::{Desired, Draft, Inputs, Places, Rules, desired, wanted};
use crate::facts::{Facts, FactsSource, Wanted};
use crate::kube::{PodEvent, PodEvents};
use crate::metrics::Metrics;
use crate::places::{self, Lookout};
use crate::push::{self, Order, Progress};

mod told;

use told::Told;

/// The agent looks at everything this often even if nothing happens: events that waited, ages that grew.
const TICK: Duration = Duration::from_secs(5);

/// What the agent is made of.
pub struct Agent {
    /// Name of the node, and of the lease.
    pub name: String,
    /// How to decide.
    pub rules: Rules,
    /// Who knows the cluster.
    pub cluster: Box<dyn ClusterSource + Send>,
    /// Who knows EC2.
    pub facts: Box<dyn FactsSource + Send>,
    /// Who looks at the node.
    pub lookout: Lookout,
    /// Who tells events, if somebody does.
    pub events: Option<PodEvents>,
    /// The switch's control socket.
    pub switch_socket: PathBuf,
}

/// A source's name and place.
#[derive(Debug, Clone, Default)]
pub struct SourceName {
    /// `kubernetes`, `ec2` or `file`.
    pub name: String,
    /// Where it looks.
    pub place: String,
}

/// Everything there is to show.
#[derive(Debug, Clone)]
pub struct View {
    /// Name of the node.
    pub name: String,
    /// How it is decided.
    pub rules: Rules,
    /// Source of the cluster's state.
    pub cluster_source: SourceName,
    /// Source of EC2's state.
    pub facts_source: SourceName,
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// EC2.
    pub facts: Arc<Facts>,
    /// What is desired.
    pub desired: Arc<Desired>,
    /// The draft ordered last.
    pub ordered: Option<Arc<Draft>>,
    /// How far the switch is.
    pub progress: Progress,
    /// When the loop last went round.
    pub alive: SystemTime,
}

/// The agent at work.
struct Loop {
    name: String,
    rules: Rules,
    cluster: watch::Receiver<Arc<Cluster>>,
    facts: watch::Receiver<Arc<Facts>>,
    places: watch::Receiver<Arc<Places>>,
    progress: watch::Receiver<Progress>,
    wanted: watch::Sender<Arc<Wanted>>,
    orders: watch::Sender<Option<Order>>,
    events: Option<PodEvents>,
    metrics: Arc<Metrics>,
    sources: [SourceName; 2],
    desired: Arc<Desired>,
    /// The draft ordered last.
    ordered: Option<Arc<Draft>>,
    /// When the oldest change was learnt that is not enforced yet.
    waiting_since: Option<Instant>,
    /// The enforced draft that was last taken note of.
    noted: Option<Arc<Draft>>,
    told: Told,
}

/// Starts the agent's tasks; the view follows what they do. Ends when the view is no longer looked at.
pub fn start(agent: Agent, metrics: Arc<Metrics>) -> watch::Receiver<Option<Arc<View>>> {
    let sources = [
        SourceName { name: agent.cluster.name().to_owned(), place: agent.cluster.place() },
        SourceName { name: agent.facts.name().to_owned(), place: agent.facts.place() },
    ];
    let (wanted, wishes) = watch::channel(Arc::default());
    let cluster = agent.cluster.start();
    let facts = agent.facts.start(wishes);
    let places = places::follow(agent.lookout, facts.clone(), cluster.clone());
    let (orders, waiting) = watch::channel(None);
    let (progressing, progress) = watch::channel(Progress::default());
    tokio::spawn(push::feed(agent.switch_socket, agent.name.clone(), waiting, progressing));
    let mut work = Loop {
        name: agent.name,
        rules: agent.rules,
        cluster,
        facts,
        places,
        progress,
        wanted,
        orders,
        events: agent.events,
        metrics,
        sources,
        desired: Arc::default(),
        ordered: None,
        waiting_since: None,
        noted: None,
        told: Told::default(),
    };
    let (view, shown) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = work.run(&view) => tracing::error!("a source ended: the agent stands still"),
            () = view.closed() => {}
        }
    });
    shown
}

impl Loop {
    async fn run(&mut self, view: &watch::Sender<Option<Arc<View>>>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let open = tokio::select! {
                changed = self.cluster.changed() => changed.is_ok(),
                changed = self.facts.changed() => changed.is_ok(),
                changed = self.places.changed() => changed.is_ok(),
                changed = self.progress.changed() => changed.is_ok(),
                _ = tick.tick() => true,
            };
            if !open {
                return;
            }
            view.send_replace(Some(Arc::new(self.round())));
        }
    }

    fn round(&mut self) -> View {
        let cluster = Arc::clone(&self.cluster.borrow_and_update());
        let facts = Arc::clone(&self.facts.borrow_and_update());
        let places = Arc::clone(&self.places.borrow_and_update());
        let progress = self.progress.borrow_and_update().clone();
        self.take_note(&progress);
        // Before it is known what the switch enforces nothing may be taken for the last state.
        let previous = match (&progress.found, &self.ordered) {
            (None, _) => None,
            (Some(found), None) => found.clone(),
            (Some(_), Some(ordered)) => Some(Arc::clone(ordered)),
        };
        let previous = previous.as_deref();
        self.wish(wanted(&self.rules, &cluster, previous));
        let inputs =
            Inputs { rules: &self.rules, cluster: &cluster, facts: &facts, places: &places, previous };
        let desired = desired(&inputs);
        if progress.found.is_some()
            && let Some(draft) = &desired.draft
        {
            let learnt = cluster.learnt.max(facts.learnt).unwrap_or_else(Instant::now);
            self.order(draft, learnt);
        }
        self.desired = Arc::new(desired);
        self.tell(&cluster, &progress);
        let [cluster_source, facts_source] = self.sources.clone();
        View {
            name: self.name.clone(),
            rules: self.rules.clone(),
            cluster_source,
            facts_source,
            cluster,
            facts,
            desired: Arc::clone(&self.desired),
            ordered: self.ordered.clone(),
            progress,
            alive: SystemTime::now(),
        }
    }

    fn wish(&mut self, wish: Wanted) {
        self.wanted.send_if_modified(|last| {
            let changed = **last != wish;
            if changed {
                *last = Arc::new(wish);
            }
            changed
        });
    }

    fn order(&mut self, draft: &Draft, learnt: Instant) {
        if self.ordered.as_deref() == Some(draft) {
            return;
        }
        let draft = Arc::new(draft.clone());
        let learnt = *self.waiting_since.get_or_insert(learnt);
        self.ordered = Some(Arc::clone(&draft));
        self.orders.send_replace(Some(Order { draft, learnt }));
    }

    /// Notes what the switch enforces now.
    fn take_note(&mut self, progress: &Progress) {
        let Some(last) = &progress.last else { return };
        if self.noted.as_ref().is_some_and(|noted| Arc::ptr_eq(noted, &last.draft)) {
            return;
        }
        self.noted = Some(Arc::clone(&last.draft));
        if self.ordered.as_ref().is_some_and(|ordered| Arc::ptr_eq(ordered, &last.draft)) {
            self.waiting_since = None;
        }
        match last.took {
            Some(took) => self.metrics.enforced(took),
            None => self.metrics.confirmed(),
        }
    }

    /// Events on the pods, as far as there is something to say.
    fn tell(&mut self, cluster: &Cluster, progress: &Progress) {
        let Some(events) = &mut self.events else { return };
        let enforced = progress.last.as_ref().map(|last| &last.draft);
        for pod in &self.desired.pods {
            let Some(facts) = cluster.pods.get(&pod.name) else { continue };
            let entry = |draft: &Draft| draft.pods.get(&pod.name).cloned();
            let in_force = enforced.is_some_and(|draft| {
                entry(draft).is_some() && entry(draft) == self.desired.draft.as_ref().and_then(entry)
            });
            if let Some(event) = self.told.event(pod, in_force) {
                events.tell(facts, event);
            }
        }
        let uids: BTreeMap<&str, ()> = cluster.pods.values().map(|pod| (pod.uid.as_str(), ())).collect();
        events.retain(|uid| uids.contains_key(uid));
        self.told.retain(|name| cluster.pods.contains_key(name));
    }
}

impl View {
    /// Whether everything has been read at least once and the switch enforces what is desired.
    pub fn is_ready(&self) -> bool {
        let enforced = self.progress.last.as_ref().map(|last| &last.draft);
        let same =
            enforced.zip(self.ordered.as_ref()).is_some_and(|(last, ordered)| Arc::ptr_eq(last, ordered));
        let whole = self.desired.draft.is_some() && !self.desired.pending && self.facts.complete;
        // Failures answer, too: where nothing else ever did, nothing has been read.
        let read =
            self.facts.as_of.is_some() || self.facts.problems.is_empty() || self.desired.pods.is_empty();
        whole && read && same && self.progress.connected && self.progress.problem.is_none()
    }

    /// Pods by state.
    pub fn states(&self) -> BTreeMap<AgentPodState, u64> {
        let mut states = BTreeMap::new();
        for pod in &self.desired.pods {
            *states.entry(pod.state).or_default() += 1;
        }
        states
    }
}

/// An event about a pod, in the words of its reason.
fn event(reason: &'static str, warning: bool, note: String) -> PodEvent {
    PodEvent { reason, warning, note }
}
