//! The management side: turns snapshots into tables, ports and steering, in the order that keeps every step safe.
//!
//! A policy is live on every worker before a port of its pod carries traffic, and a pod's addresses leave the steering
//! before its port does. A snapshot is refused whole before anything changes; what fails afterwards concerns one pod,
//! whose port then stays down with its reason. Lives behind the control socket; blocking, never on a worker.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use espalier_api::control::Applied;
use espalier_api::{InputError, PodName, Snapshot};
use espalier_rules::{Compiler, Judge};
use espalier_xsk::{
    Attachment, FramePool, InterfaceRef, PortConfig, Steering, SteeringConfig, Umem, UmemConfig,
};

use crate::config::Config;
use crate::flow::{FlowConfig, PodSlot};
use crate::journal::{Journal, Shards};
use crate::tables::Tables;
use crate::tuning::Tuner;
use crate::watchdog::Vitals;
use crate::worker::{Crew, Handle};

mod flows;
mod muster;
mod names;
mod ports;
mod rebalance;
pub(crate) mod recorder;
mod recording;
mod rule_names;
mod rule_totals;
mod slots;
mod stages;
mod status;
mod steer;
mod trace;
mod watching;

use recorder::Recorder;
use rule_names::RuleNames;
use rule_totals::RuleTotals;
use slots::{Identity, Slots};
pub use watching::Watching;

/// The switch could not be started or could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The input is at fault; nothing was changed.
    #[error(transparent)]
    Refused(#[from] InputError),
    /// The machine or the switch is at fault.
    #[error("{0}")]
    Failed(String),
}

impl ManagerError {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Owns everything but the packets.
pub struct Manager {
    config: Config,
    umem: Umem,
    steering: Steering,
    /// All frames, until the workers have them.
    pool: Option<FramePool>,
    /// The workers, once a snapshot named the trunk.
    crew: Option<Crew>,
    vitals: Vitals,
    seed: [u64; 2],
    started: Instant,
    trunk: Option<Trunk>,
    pods: BTreeMap<PodName, PodPort>,
    slots: Slots,
    tuner: Tuner,
    compiler: Option<Compiler>,
    rule_names: RuleNames,
    rule_totals: RuleTotals,
    journal: Option<Journal>,
    recorder: Option<Recorder>,
    enforced: Option<Enforced>,
}

/// The generation in force.
struct Enforced {
    snapshot: Arc<Snapshot>,
    judge: Judge,
}

/// The trunk's port.
struct Trunk {
    interface: InterfaceRef,
    attachment: Attachment,
    /// Its queues that have a socket.
    queues: usize,
    /// Why it carries no traffic, if so.
    down: Option<String>,
}

/// A pod's port.
struct PodPort {
    identity: Identity,
    slot: PodSlot,
    /// The worker it lives with.
    home: usize,
    state: State,
}

enum State {
    Up { interface: InterfaceRef, attachment: Attachment },
    Down(String),
}

impl Manager {
    /// Sets up memory and steering; the workers start with the first snapshot. The pinned steering of an earlier switch is
    /// taken over.
    pub fn start(config: Config) -> Result<Self, ManagerError> {
        muster::check_cores(&config)?;
        let umem_config = UmemConfig {
            frames: config.frames,
            hugepages: config.hugepages.into(),
            fill_ring: config.ring,
            completion_ring: config.ring,
        };
        let (umem, pool) = Umem::new(&umem_config).map_err(ManagerError::failed)?;
        let steering = Steering::open(&SteeringConfig {
            pin_dir: config.pin_dir.clone(),
            mode: config.xdp_mode,
            max_pods: config.max_pods.into(),
        })
        .map_err(ManagerError::failed)?;
        let seed = random_seed();
        check_memory(FlowConfig::sized(config.max_flows, config.max_pods, seed).memory_bytes())?;
        let manager = Self {
            slots: Slots::new(config.max_pods),
            tuner: Tuner::start(config.pod_tuning.clone(), config.tuning_record()),
            config,
            umem,
            steering,
            pool: Some(pool),
            crew: None,
            vitals: Vitals::default(),
            seed,
            started: Instant::now(),
            trunk: None,
            pods: BTreeMap::new(),
            compiler: None,
            rule_names: RuleNames::default(),
            rule_totals: RuleTotals::default(),
            journal: None,
            recorder: None,
            enforced: None,
        };
        manager.worker_config(1).check(manager.config.frames).map_err(ManagerError::failed)?;
        Ok(manager)
    }

    /// Enforces a valid snapshot. Returns once every worker does.
    pub fn apply(&mut self, snapshot: Snapshot) -> Result<Applied, ManagerError> {
        let started = Instant::now();
        if self.is_enforced(&snapshot)? {
            let warnings = self.problems();
            return Ok(Applied {
                generation: snapshot.generation,
                enforced_in_ms: 0.0,
                changed: false,
                warnings,
            });
        }
        self.check_room(&snapshot)?;
        let trunk = self.open_trunk(&snapshot.trunk.interface)?;
        self.remove_gone(&snapshot)?;
        let snapshot = Arc::new(snapshot);
        let judge = self.compile(&snapshot);
        let placed = self.place(&snapshot);
        let tables = self.tables(&snapshot, &judge, &placed);
        self.tell_recorder(&snapshot, &placed, &judge);
        // The workers give the old tables back when they no longer use them: they are freed here, not there.
        drop(self.crew()?.publish(&tables).map_err(ManagerError::failed)?);
        self.rule_names.note(judge.model(), snapshot.generation.0 as u32);
        let generation = snapshot.generation;
        self.keep_flows();
        self.record(&snapshot, &placed, &judge);
        // Not before the earlier switch's flows are back: their packets would be judged like those of new ones.
        self.serve_trunk(trunk)?;
        self.enforced = Some(Enforced { snapshot, judge });
        self.steer()?;
        let new = self.attach_missing();
        let enforced_in_ms = started.elapsed().as_secs_f64() * 1000.0;
        self.await_gateways(&new)?;
        self.note_rules();
        tracing::info!(
            generation = generation.0,
            ms = enforced_in_ms.round(),
            pods = self.pods.len(),
            "snapshot enforced"
        );
        Ok(Applied { generation, enforced_in_ms, changed: true, warnings: self.problems() })
    }

    /// The tables of a snapshot.
    fn tables(&self, snapshot: &Snapshot, judge: &Judge, placed: &[PodSlot]) -> Arc<Tables> {
        let slots = usize::from(self.config.max_pods);
        let homes = self.pods.values().map(|port| (port.slot, port.home));
        let tables = Tables::new(snapshot, judge.clone(), placed, slots, self.config.timeouts.into());
        Arc::new(tables.with_homes(homes))
    }

    /// Where the watchdog finds the workers.
    pub fn vitals(&self) -> Vitals {
        Vitals::clone(&self.vitals)
    }

    /// What is in force.
    fn enforced(&self) -> Result<&Enforced, InputError> {
        let none = || InputError::new("", "no snapshot is enforced yet: `espalier apply FILE`");
        self.enforced.as_ref().ok_or_else(none)
    }

    /// The workers; they run from the first snapshot on.
    fn crew(&self) -> Result<&Crew, ManagerError> {
        self.crew
            .as_ref()
            .ok_or_else(|| ManagerError::failed("no worker runs: no snapshot has named the trunk yet"))
    }

    /// The worker that a pod lives with.
    fn home_of(&self, port: &PodPort) -> Result<&Handle, ManagerError> {
        Ok(self.crew()?.worker(port.home))
    }

    /// Brings ports and interfaces together again after interfaces came or went.
    pub fn reconcile(&mut self) {
        self.release_vanished();
        if let Some(enforced) = &self.enforced {
            let trunk = enforced.snapshot.trunk.interface.clone();
            if let Err(error) = self.open_trunk(&trunk).and_then(|opened| self.serve_trunk(opened)) {
                tracing::debug!(%error, "the trunk is still down");
            }
            self.attach_missing();
        }
    }

    /// Ends the workers and undoes the pods' tuning. The steering stays pinned: branch traffic is dropped until a switch runs again.
    pub fn stop(mut self) {
        if let Some(journal) = self.journal.take() {
            journal.stop();
        }
        self.tuner.undo_all();
        let Some(crew) = self.crew.take() else { return };
        for port in self.pods.values() {
            let home = crew.worker(port.home);
            let closed = home.detach(port.slot).and_then(|port| match port {
                Some(port) => home.absorb(port.close()),
                None => Ok(()),
            });
            if let Err(error) = closed {
                tracing::error!(%error, "a port could not be closed");
            }
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.stop();
        }
        for home in crew.handles() {
            let closed = home
                .detach_trunk()
                .and_then(|ports| ports.into_iter().try_for_each(|port| home.absorb(port.close())));
            if let Err(error) = closed {
                tracing::error!(%error, "a port of the trunk could not be closed");
            }
        }
        if !crew.stop() {
            tracing::error!("a worker had stopped before it was asked to");
        }
    }

    /// Whether exactly this snapshot is in force already; an older or contradicting one is refused.
    fn is_enforced(&self, snapshot: &Snapshot) -> Result<bool, InputError> {
        let Some(enforced) = &self.enforced else { return Ok(false) };
        let current = enforced.snapshot.generation;
        if snapshot.generation < current {
            let message = format!(
                "{} is older than {current}, which is enforced: use a higher number",
                snapshot.generation
            );
            return Err(InputError::new("generation", message));
        }
        if snapshot.generation == current {
            if *snapshot == *enforced.snapshot {
                return Ok(true);
            }
            let message = format!("{current} is enforced with other contents: use a higher number");
            return Err(InputError::new("generation", message));
        }
        if snapshot.trunk.interface != enforced.snapshot.trunk.interface {
            let message = format!(
                "is {:?}, but {:?} is in use: restart espalier-switch to change the trunk",
                snapshot.trunk.interface, enforced.snapshot.trunk.interface
            );
            return Err(InputError::new("trunk.interface", message));
        }
        Ok(false)
    }

    fn check_room(&self, snapshot: &Snapshot) -> Result<(), InputError> {
        let (pods, room) = (snapshot.pods.len(), self.config.max_pods);
        if pods <= usize::from(room) {
            return Ok(());
        }
        let message = format!("{pods} pods, but the switch has place for {room}: raise its --max-pods");
        Err(InputError::new("pods", message))
    }

    /// The policies, at a cost that follows what changed since the last snapshot.
    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> Judge {
        match &mut self.compiler {
            Some(compiler) => {
                let changes = compiler.update(Arc::clone(snapshot));
                tracing::debug!(changes = changes.len(), "policies updated");
                compiler.judge()
            }
            None => self.compiler.insert(Compiler::new(Arc::clone(snapshot))).judge(),
        }
    }

    /// Restores the flows of an earlier switch with the first snapshot, and writes them down from then on.
    fn keep_flows(&mut self) {
        let Some(path) = self.config.flow_state().filter(|_| self.journal.is_none()) else { return };
        let Ok(crew) = self.crew() else { return };
        let pods: Vec<_> =
            self.pods.values().map(|port| (port.slot, port.identity.name().to_owned(), port.home)).collect();
        let shards = Shards::new(crew.handles().to_vec(), &self.shard_flows(crew.count()));
        match Journal::start(path, shards, &pods) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => tracing::warn!(%error, "flows are not kept over a restart"),
        }
    }

    /// The flow table of each of so many workers.
    fn shard_flows(&self, workers: usize) -> FlowConfig {
        let flows = self.config.max_flows.div_ceil(u32::try_from(workers.max(1)).unwrap_or(u32::MAX));
        FlowConfig::sized(flows, self.config.max_pods, self.seed)
    }

    /// Slots for the snapshot's pods, in their order. A pod that an earlier switch steered keeps its slot.
    fn place(&mut self, snapshot: &Snapshot) -> Vec<PodSlot> {
        let mut placed = Vec::with_capacity(snapshot.pods.len());
        for pod in &snapshot.pods {
            let slot = match self.pods.get(&pod.name) {
                Some(port) => port.slot,
                None => {
                    let steered = self.steered_slot(pod);
                    let slot = self.slots.take(steered);
                    let identity = Identity::of(pod);
                    if let Some(journal) = &self.journal {
                        journal.set_pod(slot, Some(identity.name().to_owned()));
                    }
                    let state = State::Down("not attached yet".to_owned());
                    let home = self.least_loaded();
                    self.pods.insert(pod.name.clone(), PodPort { identity, slot, home, state });
                    slot
                }
            };
            placed.push(slot);
        }
        placed
    }

    /// The worker with the fewest pods.
    fn least_loaded(&self) -> usize {
        let workers = self.crew.as_ref().map_or(1, Crew::count);
        let pods = |worker: &usize| self.pods.values().filter(|port| port.home == *worker).count();
        (0..workers).min_by_key(pods).unwrap_or_default()
    }

    /// Rings as set; the worker says how far each fill ring is filled.
    fn port_config(&self) -> PortConfig {
        let ring = self.config.ring;
        PortConfig { rx_ring: ring, tx_ring: ring, keep_filled: ring, ..PortConfig::default() }
    }
}

/// Unpredictable, so that nobody can aim packets at one group of the flow table.
fn random_seed() -> [u64; 2] {
    [0, 1].map(|part: u64| RandomState::new().hash_one(part))
}

/// The kernel hands out more memory than it has: better refuse than be killed later.
fn check_memory(wanted: u64) -> Result<(), InputError> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    match kib.map(|kib| kib * 1024) {
        Some(free) if wanted > free => {
            let (wanted, free) = (wanted >> 20, free >> 20);
            let message = format!("needs {wanted} MiB, but {free} MiB of memory are available: lower it");
            Err(InputError::new("max-flows", message))
        }
        _ => Ok(()),
    }
}
