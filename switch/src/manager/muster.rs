//! How many workers there are and where they run: decided when the first snapshot names the trunk, because none can do
//! without a queue of it.

use std::sync::Arc;

use espalier_api::InputError;
use espalier_xsk::{InterfaceRef, ethtool};

use super::{Manager, ManagerError};
use crate::config::{Config, Cores};
use crate::worker::{Crew, CrewConfig, FillConfig, WorkerConfig};

impl Manager {
    /// Queues of the trunk, each of which gets a socket; one where the driver does not tell.
    pub(super) fn trunk_queues(trunk: &InterfaceRef) -> usize {
        // A socket sends by the queue it receives from.
        ethtool::channels(&trunk.name).map_or(1, |channels| channels.rx.max(1) as usize)
    }

    /// Starts the workers, if none run yet; otherwise makes sure that each still finds a queue.
    pub(super) fn muster(&mut self, trunk: &InterfaceRef) -> Result<(), ManagerError> {
        let channels = ethtool::channels(&trunk.name).ok();
        let queues = channels.map_or(1, |channels| channels.rx.min(channels.tx).max(1) as usize);
        if let Some(crew) = &self.crew {
            return Ok(check_queues(trunk, queues, crew.count())?);
        }
        let cores = self.cores_for(trunk, queues)?;
        let Some(pool) = self.pool.take() else {
            return Err(ManagerError::failed(
                "the workers could not be started before: restart espalier-switch",
            ));
        };
        let config = CrewConfig {
            worker: self.worker_config(Self::trunk_queues(trunk)),
            flows: self.shard_flows(cores.len()),
            cores,
        };
        let crew = Crew::start(&config, &self.umem, pool).map_err(ManagerError::failed)?;
        let cores: Vec<_> = crew.handles().iter().map(|handle| handle.core()).collect();
        tracing::info!(workers = crew.count(), ?cores, trunk_queues = queues, "workers started");
        // They start once.
        let _known = self.vitals.set(crew.handles().iter().map(|handle| Arc::clone(handle.bell())).collect());
        self.crew = Some(crew);
        Ok(())
    }

    /// One entry a worker. What the operator asked for is refused where the trunk has too few queues; what nobody asked
    /// for fits by itself.
    fn cores_for(&self, trunk: &InterfaceRef, queues: usize) -> Result<Vec<Option<usize>>, InputError> {
        let wanted = self.config.workers.map(usize::from);
        let cores: Vec<Option<usize>> = match &self.config.cores {
            Some(Cores::Unpinned) => vec![None; wanted.unwrap_or(1)],
            Some(Cores::Pinned(cores)) => {
                cores.iter().copied().map(Some).take(wanted.unwrap_or(usize::MAX)).collect()
            }
            None => {
                let (own, all) = own_cores();
                let count = wanted.unwrap_or_else(|| own.len().clamp(1, queues));
                // Cores that were set apart for the switch are pinned to; those it shares with everybody are not.
                let pin = own.len() < all && count <= own.len();
                (0..count).map(|nth| own.get(nth).copied().filter(|_| pin)).collect()
            }
        };
        check_queues(trunk, queues, cores.len())?;
        Ok(cores)
    }

    pub(super) fn worker_config(&self, trunk_queues: usize) -> WorkerConfig {
        let config = &self.config;
        let queues = u32::try_from(trunk_queues.max(1)).unwrap_or(u32::MAX);
        let of_trunk = config.trunk_fill.min(config.frames / 4 / queues).saturating_mul(queues);
        WorkerConfig {
            spin: config.spin(),
            slots: config.max_pods,
            related_errors: config.related_icmp_errors == crate::config::Switch::On,
            fill: FillConfig {
                trunk: config.trunk_fill,
                pod: config.pod_fill,
                pods: (config.frames / 2).saturating_sub(of_trunk),
            },
        }
    }
}

/// Refuses cores that the workers cannot be pinned to, one each.
pub(super) fn check_cores(config: &Config) -> Result<(), InputError> {
    let Some(Cores::Pinned(cores)) = &config.cores else { return Ok(()) };
    let refuse = |message| Err(InputError::new("cores", message));
    if let Some(workers) = config.workers.map(usize::from).filter(|workers| *workers > cores.len()) {
        return refuse(format!("{} for {workers} workers: give each its own core", cores.len()));
    }
    let (own, _) = own_cores();
    match cores.iter().find(|core| !own.contains(core)) {
        Some(core) => refuse(format!(
            "core {core} is not one that this process may use: choose of {}, or `none`",
            own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        )),
        None => Ok(()),
    }
}

fn check_queues(trunk: &InterfaceRef, queues: usize, workers: usize) -> Result<(), InputError> {
    if workers <= queues {
        return Ok(());
    }
    let message = format!(
        "{} has {queues} queues for {workers} workers: give it as many (`ethtool -L {} combined {workers}`, for a veth \
         `rx {workers} tx {workers}`) or restart espalier-switch with --workers {queues}",
        trunk.name, trunk.name
    );
    Err(InputError::new("trunk.interface", message))
}

/// The cores this process may use, and how many the machine has.
fn own_cores() -> (Vec<usize>, usize) {
    let own: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let all = crate::config::core_list(online.trim()).map_or(own.len(), |cores| cores.len());
    (own, all)
}
