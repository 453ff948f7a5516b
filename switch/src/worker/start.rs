//! How a worker begins: what it is told, what it has of its own, and its thread.
//!
//! The crew starts every worker here, and waits until each has what it needs.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use espalier_xsk::{FramePool, Packet, Umem};
use rustix::event::epoll;

use super::command::{Command, Handle};
use super::crew::CrewError;
use super::doorbell::{Alive, Doorbell};
use super::handover::Rings;
use super::pace::Pace;
use super::port::{Place, Ports};
use super::shares::{self, FrameShares, Population, SharesError};
use super::{BATCH, FillConfig, Worker};
use crate::flow::fragment::{FragmentConfig, Fragments};
use crate::flow::{FlowConfig, FlowTable};
use crate::step::{Presence, Shard, ShardParts};

/// What each worker is told.
#[derive(Debug, Clone, Copy)]
pub struct WorkerConfig {
    /// How long it polls without work before it sleeps.
    pub spin: Duration,
    /// Pods it has place for.
    pub slots: u16,
    /// Whether ICMP errors about a live flow pass without a rule.
    pub related_errors: bool,
    /// Frames kept ready to receive into.
    pub fill: FillConfig,
}

impl WorkerConfig {
    /// Whether so many frames do for the pods there is place for.
    pub fn check(&self, frames: u32) -> Result<(), SharesError> {
        shares::least(frames as usize, self.slots).map(drop)
    }
}

/// What each worker has of its own.
pub(super) struct Belongings {
    pub(super) index: usize,
    pub(super) core: Option<usize>,
    pub(super) pool: FramePool,
    pub(super) flows: FlowConfig,
    pub(super) rings: Rings<Packet>,
    pub(super) bell: Arc<Doorbell>,
    pub(super) population: Arc<Population>,
}

/// A worker whose thread runs.
pub(super) struct Started {
    pub(super) handle: Handle,
    pub(super) thread: JoinHandle<()>,
    /// Tells when it has what it needs, or why not.
    pub(super) ready: Receiver<Result<(), CrewError>>,
}

impl Worker {
    /// Starts the thread, which makes what the worker owns: so no two workers' memory shares a cache line, and it lies
    /// near the worker's core.
    pub(super) fn start(config: &WorkerConfig, umem: Umem, own: Belongings) -> std::io::Result<Started> {
        let (handle, commands) = Handle::new(own.index, own.core, Arc::clone(&own.bell));
        let (made, ready) = crossbeam_channel::bounded(1);
        let config = *config;
        let thread = std::thread::Builder::new().name(format!("worker-{}", own.index)).spawn(move || {
            let _alive = Alive::new(&own.bell);
            if let Some(id) = own.core.map(|id| core_affinity::CoreId { id })
                && !core_affinity::set_for_current(id)
            {
                tracing::warn!(core = id.id, "cannot pin the worker to its core; it runs unpinned");
            }
            let worker = Self::make(&config, umem, own, commands);
            let worker = match worker {
                Ok(worker) => worker,
                Err(error) => {
                    // Whoever started it waits for this.
                    let _told = made.send(Err(error));
                    return;
                }
            };
            if made.send(Ok(())).is_ok() {
                worker.run();
            }
        })?;
        Ok(Started { handle, thread, ready })
    }

    fn make(
        config: &WorkerConfig,
        umem: Umem,
        own: Belongings,
        commands: Receiver<Command>,
    ) -> Result<Self, CrewError> {
        let Belongings { index, pool, flows, rings, bell, population, .. } = own;
        let flows = FlowTable::new(&flows)?;
        let fragments = Fragments::new(FragmentConfig::for_pods(config.slots))
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        let slots = usize::from(config.slots);
        let shares = FrameShares::new(&config.fill, umem.owners().total, config.slots, population)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        epoll::add(&epoll, bell.wake(), Place::WAKE.as_event(), epoll::EventFlags::IN)
            .map_err(std::io::Error::from)?;
        let mut shard =
            Shard::new(ShardParts { flows, fragments, related_errors: config.related_errors, slots });
        shard.presence.fill(Presence::Away);
        Ok(Self {
            index,
            umem,
            pool,
            shard,
            decided: Vec::with_capacity(BATCH),
            tables: None,
            ports: Ports::new(slots),
            rings,
            held: HashMap::new(),
            handed: Vec::new(),
            late: Vec::new(),
            hot: Vec::with_capacity(slots + 1),
            sending: Vec::with_capacity(slots + 1),
            commands,
            bell,
            epoll,
            spin: config.spin,
            shares,
            received: Vec::with_capacity(BATCH),
            own: Vec::with_capacity(BATCH),
            busy: 0,
            batches: 0,
            sleeps: 0,
            pace: Pace::default(),
        })
    }
}
