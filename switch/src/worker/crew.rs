//! All workers together: made, asked and ended as one. The manager's and the journal's view of them.
//!
//! What is asked of all is asked at once, so that it takes as long as the slowest worker and not as all of them.

use std::sync::Arc;
use std::thread::JoinHandle;

use espalier_api::control::WorkerState;
use espalier_xsk::{FramePool, Umem};

use super::command::{Command, Handle, Report, WorkerFailed, ask_all};
use super::doorbell::Doorbell;
use super::shares::{Population, SharesError};
use super::start::Belongings;
use super::{Worker, WorkerConfig, handover};
use crate::clock;
use crate::flow::{FlowConfig, FlowConfigError, PodSlot};
use crate::tables::Tables;

/// What the workers are made of.
pub struct CrewConfig {
    /// The core of each worker; none leaves it to the scheduler.
    pub cores: Vec<Option<usize>>,
    /// What each is told.
    pub worker: WorkerConfig,
    /// The size of each one's flow table.
    pub flows: FlowConfig,
}

/// The workers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// A flow table could not be made.
    #[error(transparent)]
    Flows(#[from] FlowConfigError),
    /// There are too few frames.
    #[error(transparent)]
    Frames(#[from] SharesError),
    /// The system refused a thread or what it needs.
    #[error("a worker cannot be started: {0}")]
    Start(#[from] std::io::Error),
}

/// The running workers.
pub struct Crew {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts them all. The frames of `pool` become theirs.
    pub fn start(config: &CrewConfig, umem: &Umem, pool: FramePool) -> Result<Self, CrewError> {
        let workers = config.cores.len();
        let now = clock::now();
        let bells: Vec<Arc<Doorbell>> = (0..workers).map(|_| Doorbell::new(now)).collect::<Result<_, _>>()?;
        let pools = if workers == 1 { vec![pool] } else { pool.share(workers) };
        let population = Population::new(workers);
        let rings = handover::rings(&bells);
        let mut crew = Self { handles: Vec::with_capacity(workers), threads: Vec::with_capacity(workers) };
        let mut ready = Vec::with_capacity(workers);
        let parts = pools.into_iter().zip(rings).zip(bells).zip(&config.cores);
        for (index, (((pool, rings), bell), core)) in parts.enumerate() {
            let own = Belongings {
                index,
                core: *core,
                pool,
                flows: config.flows.clone(),
                rings,
                bell,
                population: Arc::clone(&population),
            };
            let started = Worker::start(&config.worker, umem.clone(), own)?;
            crew.handles.push(started.handle);
            crew.threads.push(started.thread);
            ready.push(started.ready);
        }
        for made in ready {
            made.recv().map_err(|_| std::io::Error::other("its thread has ended"))??;
        }
        Ok(crew)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The handles, by number.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// One worker's handle.
    pub fn worker(&self, index: usize) -> &Handle {
        &self.handles[index]
    }

    /// Has every worker use new tables; returns the old ones once all do, so that the caller frees them.
    pub fn publish(&self, tables: &Arc<Tables>) -> Result<Vec<Option<Arc<Tables>>>, WorkerFailed> {
        ask_all(&self.handles, |reply| Command::Publish(Arc::clone(tables), reply))
    }

    /// Has every worker deal with what others have handed over to it so far.
    pub fn drain(&self) -> Result<(), WorkerFailed> {
        ask_all(&self.handles, Command::Drain).map(drop)
    }

    /// Has every worker forget a pod.
    pub fn free(&self, slot: PodSlot) -> Result<(), WorkerFailed> {
        self.handles.iter().try_for_each(|handle| handle.free(slot))
    }

    /// The state of each, where it tells.
    pub fn reports(&self) -> Vec<Result<Box<Report>, WorkerFailed>> {
        let pending: Vec<_> = self.handles.iter().map(Handle::begin_report).collect();
        pending.into_iter().map(|answer| answer.and_then(super::command::Pending::report)).collect()
    }

    /// Whether each works.
    pub fn states(&self) -> Vec<WorkerState> {
        let now = clock::now();
        self.handles.iter().map(|handle| handle.bell().state(now)).collect()
    }

    /// Ends them. Says whether all had lived until now.
    pub fn stop(self) -> bool {
        // What is under way between two of them is dealt with while both still run.
        let mut lived = self.drain().is_ok();
        for handle in &self.handles {
            lived &= handle.stop().is_ok();
        }
        for thread in self.threads {
            lived &= thread.join().is_ok();
        }
        lived
    }
}
