//! The management side: turns snapshots into tables, ports and steering, in the order that keeps every step safe.
//!
//! A policy is live on every worker before a port of its pod carries traffic, and a pod's addresses leave the steering
//! before its port does. A snapshot is refused whole before anything changes; what fails afterwards concerns one pod,
//! whose port then stays down with its reason. Lives behind the control socket; blocking, never on a worker.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use espalier_api::control::Applied;
use espalier_api::{InputError, PodName, Snapshot};
use espalier_rules::{Compiler, Judge};
use espalier_xsk::{Attachment, InterfaceRef, PortConfig, Steering, SteeringConfig, Umem, UmemConfig};

use crate::config::{Config, Switch, TxChecksum};
use crate::flow::state_file::Layout;
use crate::flow::{FlowConfig, FlowTable, PodSlot};
use crate::journal::Journal;
use crate::tables::Tables;
use crate::worker::{FillConfig, Handle, Worker, WorkerConfig};

mod flows;
mod ports;
mod rule_names;
mod slots;
mod status;
mod steer;

use rule_names::RuleNames;
use slots::{Identity, Slots};

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
    worker: Handle,
    thread: Option<JoinHandle<()>>,
    started: Instant,
    trunk: Option<Trunk>,
    pods: BTreeMap<PodName, PodPort>,
    slots: Slots,
    compiler: Option<Compiler>,
    rule_names: RuleNames,
    flow_layout: Layout,
    journal: Option<Journal>,
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
    /// Why it carries no traffic, if so.
    down: Option<String>,
}

/// A pod's port.
struct PodPort {
    identity: Identity,
    slot: PodSlot,
    state: State,
}

enum State {
    Up { interface: InterfaceRef, attachment: Attachment },
    Down(String),
}

impl Manager {
    /// Sets up memory, steering and the worker. The pinned steering of an earlier switch is taken over.
    pub fn start(config: Config) -> Result<Self, ManagerError> {
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
        let flow_config = FlowConfig::sized(config.max_flows, config.max_pods, random_seed());
        check_memory(flow_config.memory_bytes())?;
        let flows = FlowTable::new(&flow_config).map_err(ManagerError::failed)?;
        tracing::info!(bytes = flows.memory_bytes(), flows = config.max_flows, "flow table allocated");
        let worker_config = WorkerConfig {
            index: 0,
            core: config.core.0,
            spin: config.spin(),
            slots: config.max_pods,
            related_errors: config.related_icmp_errors == Switch::On,
            fill: FillConfig {
                trunk: config.trunk_fill,
                pod: config.pod_fill,
                pods: (config.frames / 2).saturating_sub(config.trunk_fill),
            },
        };
        let (worker, thread) =
            Worker::start(&worker_config, umem.clone(), pool, flows).map_err(ManagerError::failed)?;
        Ok(Self {
            slots: Slots::new(config.max_pods),
            config,
            umem,
            steering,
            worker,
            thread: Some(thread),
            started: Instant::now(),
            trunk: None,
            pods: BTreeMap::new(),
            compiler: None,
            rule_names: RuleNames::default(),
            flow_layout: Layout {
                pods: flow_config.pods,
                ipv4: flow_config.ipv4.flows,
                ipv6: flow_config.ipv6.flows,
            },
            journal: None,
            enforced: None,
        })
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
        let slots = usize::from(self.config.max_pods);
        let tables =
            Arc::new(Tables::new(&snapshot, judge.clone(), &placed, slots, self.config.timeouts.into()));
        // The worker gives the old tables back when it no longer uses them: they are freed here, not there.
        drop(self.worker.publish(tables).map_err(ManagerError::failed)?);
        self.rule_names.note(judge.model(), snapshot.generation.0 as u32);
        let generation = snapshot.generation;
        self.keep_flows();
        // Not before the earlier switch's flows are back: their packets would be judged like those of new ones.
        self.serve_trunk(trunk)?;
        self.enforced = Some(Enforced { snapshot, judge });
        self.steer()?;
        let new = self.attach_missing();
        let enforced_in_ms = started.elapsed().as_secs_f64() * 1000.0;
        self.await_gateways(&new)?;
        tracing::info!(
            generation = generation.0,
            ms = enforced_in_ms.round(),
            pods = self.pods.len(),
            "snapshot enforced"
        );
        Ok(Applied { generation, enforced_in_ms, changed: true, warnings: self.problems() })
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

    /// Ends the worker. The steering stays pinned: branch traffic is dropped until a switch runs again.
    pub fn stop(mut self) {
        if let Some(journal) = self.journal.take() {
            journal.stop();
        }
        for slot in std::iter::once(None).chain(self.pods.values().map(|pod| Some(pod.slot))) {
            let closed = self.worker.detach(slot).and_then(|port| match port {
                Some(port) => self.worker.absorb(port.close()),
                None => Ok(()),
            });
            if let Err(error) = closed {
                tracing::error!(%error, "a port could not be closed");
            }
        }
        if let Some(thread) = self.thread.take()
            && (self.worker.stop().is_err() || thread.join().is_err())
        {
            tracing::error!("the worker had stopped before it was asked to");
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
        let pods: Vec<(PodSlot, String)> =
            self.pods.values().map(|port| (port.slot, port.identity.name().to_owned())).collect();
        match Journal::start(path, self.flow_layout, self.worker.clone(), &pods) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => tracing::warn!(%error, "flows are not kept over a restart"),
        }
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
                    self.pods.insert(pod.name.clone(), PodPort { identity, slot, state });
                    slot
                }
            };
            placed.push(slot);
        }
        placed
    }

    /// Rings as set; the worker says how far each fill ring is filled.
    fn port_config(&self) -> PortConfig {
        let ring = self.config.ring;
        PortConfig { rx_ring: ring, tx_ring: ring, keep_filled: ring, ..PortConfig::default() }
    }

    fn turns_checksums_off(&self) -> bool {
        self.config.pod_tx_checksum == TxChecksum::Off
    }
}

/// Unpredictable, so that nobody can aim packets at one bucket of the flow table.
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
