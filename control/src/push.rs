//! Sends the desired state to the switch, whole and numbered, and says what is enforced.
//!
//! Holds the switch's lease while it runs: one agent feeds one switch. Numbers continue from what the switch enforces,
//! so they grow over restarts of either. Only the newest draft is sent; it counts as enforced when the switch says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use espalier_api::Generation;
use espalier_api::agent::{Problem, ProblemReason};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::desired::Draft;

mod client;
mod encode;

pub use client::{Link, PushError};
pub use encode::Encoder;

/// First and longest pause before the switch is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A draft to be enforced.
#[derive(Debug, Clone)]
pub struct Order {
    /// What is to be enforced.
    pub draft: Arc<Draft>,
    /// When the oldest change in it that is not enforced yet was learnt.
    pub learnt: Instant,
}

/// How far the switch is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Whether the lease is held.
    pub connected: bool,
    /// What the switch enforced when the lease was first taken.
    pub found: Option<Option<Arc<Draft>>>,
    /// Number of the newest draft.
    pub desired: Option<Generation>,
    /// Number of the newest draft that the switch enforces.
    pub enforced: Option<Generation>,
    /// The draft itself, with the time from learning to enforcement where it was a change.
    pub last: Option<Enforced>,
    /// What the switch says is not as it should be.
    pub warnings: Vec<String>,
    /// Why nothing can be sent, or was refused.
    pub problem: Option<Problem>,
}

/// A draft the switch enforces.
#[derive(Debug, Clone)]
pub struct Enforced {
    /// The draft.
    pub draft: Arc<Draft>,
    /// When the switch said so.
    pub at: Instant,
    /// From the moment the change was learnt; absent where the switch enforced it already.
    pub took: Option<Duration>,
}

/// Feeds the switch on `socket` in the name of `agent` until `orders` ends.
pub async fn feed(
    socket: PathBuf,
    agent: String,
    mut orders: watch::Receiver<Option<Order>>,
    progress: watch::Sender<Progress>,
) {
    let mut feeder = Feeder { progress, encoder: Encoder::default(), last: None };
    let mut pause = PAUSES.0;
    loop {
        let link = tokio::select! {
            link = Link::open(&socket, &agent) => link,
            () = ended(&mut orders) => return,
        };
        let outcome = match link {
            Ok(mut link) => {
                pause = PAUSES.0;
                feeder.serve(&mut link, &mut orders).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => return,
            Err(error) => feeder.lost(&error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Waits until no further order can come.
async fn ended(orders: &mut watch::Receiver<Option<Order>>) {
    while orders.changed().await.is_ok() {}
}

struct Feeder {
    progress: watch::Sender<Progress>,
    encoder: Encoder,
    last: Option<(Generation, Arc<Draft>)>,
}

impl Feeder {
    /// Sends what is ordered while the lease lasts. `Ok` when there are no more orders.
    async fn serve(
        &mut self,
        link: &mut Link,
        orders: &mut watch::Receiver<Option<Order>>,
    ) -> Result<(), PushError> {
        let mut enforced = self.arrive(link).await?;
        orders.mark_changed();
        loop {
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return Ok(()) },
                () = link.ended() => return Err(PushError::LeaseEnded),
            }
            let Some(order) = orders.borrow_and_update().clone() else { continue };
            if enforced.as_ref().is_some_and(|(_, draft)| **draft == *order.draft) {
                self.already(enforced.as_ref().map(|(generation, _)| *generation), &order);
                continue;
            }
            let floor = enforced.as_ref().map(|(generation, _)| *generation).max(self.number());
            let generation = Generation(floor.map_or(1, |last| last.0 + 1));
            self.progress.send_modify(|progress| progress.desired = Some(generation));
            if self.send(link, generation, &order).await? {
                self.last = Some((generation, Arc::clone(&order.draft)));
                enforced = self.last.clone();
            }
        }
    }

    /// What the switch enforces when the lease is taken.
    async fn arrive(&mut self, link: &mut Link) -> Result<Option<(Generation, Arc<Draft>)>, PushError> {
        let enforced = match (link.generation(), &self.last) {
            (None, _) => None,
            (Some(generation), Some((ours, draft))) if generation == *ours => {
                Some((generation, Arc::clone(draft)))
            }
            (Some(_), _) => link
                .snapshot()
                .await?
                .map(|snapshot| (snapshot.generation, Arc::new(Draft::from_snapshot(snapshot)))),
        };
        tracing::info!(
            generation = enforced.as_ref().map(|(generation, _)| generation.0),
            "the switch's lease is held"
        );
        self.progress.send_modify(|progress| {
            progress.connected = true;
            progress.problem = None;
            progress.found.get_or_insert_with(|| enforced.as_ref().map(|(_, draft)| Arc::clone(draft)));
        });
        Ok(enforced)
    }

    fn number(&self) -> Option<Generation> {
        self.last.as_ref().map(|(generation, _)| *generation)
    }

    /// The switch enforces exactly this already.
    fn already(&mut self, generation: Option<Generation>, order: &Order) {
        if let Some(generation) = generation {
            self.last = Some((generation, Arc::clone(&order.draft)));
        }
        self.progress.send_modify(|progress| {
            (progress.desired, progress.enforced) = (generation, generation);
            progress.problem = None;
            progress.last =
                Some(Enforced { draft: Arc::clone(&order.draft), at: Instant::now(), took: None });
        });
    }

    /// Whether the switch enforces it; `false` where it refuses it.
    async fn send(
        &mut self,
        link: &mut Link,
        generation: Generation,
        order: &Order,
    ) -> Result<bool, PushError> {
        let Some(parts) = self.encoder.encode(&order.draft, generation) else { return Ok(false) };
        match link.put(parts).await {
            Ok(applied) => {
                let took = order.learnt.elapsed();
                tracing::info!(
                    generation = generation.0,
                    ms = took.as_millis(),
                    pods = order.draft.pods.len(),
                    "enforced"
                );
                self.progress.send_modify(|progress| {
                    progress.enforced = Some(generation);
                    progress.warnings = applied.warnings;
                    progress.problem = None;
                    progress.last = Some(Enforced {
                        draft: Arc::clone(&order.draft),
                        at: Instant::now(),
                        took: Some(took),
                    });
                });
                Ok(true)
            }
            Err(PushError::Refused(error)) => {
                tracing::error!(generation = generation.0, %error, "the switch refuses the snapshot");
                let message = format!("{error}; what was enforced before stays in force");
                let problem = Problem::new(ProblemReason::SnapshotRefused, "switch", message);
                self.progress.send_modify(|progress| progress.problem = Some(problem));
                // A higher number may be all it takes; anything else needs another draft.
                if error.field == "generation" { Err(PushError::Refused(error)) } else { Ok(false) }
            }
            Err(error) => Err(error),
        }
    }

    fn lost(&mut self, error: &PushError) {
        let problem = error.problem();
        let news = self.progress.borrow().problem.as_ref() != Some(&problem);
        if news {
            tracing::warn!(reason = problem.reason.label(), "{}", problem.message);
        }
        self.progress.send_modify(|progress| {
            progress.connected = false;
            progress.problem = Some(problem);
        });
    }
}
