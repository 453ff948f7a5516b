//! What the control socket tells: status, pods, groups, rules, explanations.

use std::collections::BTreeMap;

use espalier_api::control::{
    Capabilities, Frames, GroupStatus, KernelCounters, PodStatus, PortState, RuleStatus, Status, TrunkStatus,
    WorkerStatus, XdpStatus,
};
use espalier_api::{Answer, InputError, Mac, PodName, Query, Snapshot};
use espalier_xsk::{Attachment, FrameOwners, PortStatistics, SteeringCounters};

use super::{Manager, ManagerError, PodPort, State};
use crate::worker::Report;

impl Manager {
    /// The whole switch.
    pub fn status(&self) -> Result<Status, ManagerError> {
        let report = self.worker.report().map_err(ManagerError::failed)?;
        let model = self.enforced.as_ref().map(|enforced| enforced.judge.model());
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: espalier_api::VERSION,
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: report.generation,
            agent: None,
            trunk: self.trunk.as_ref().map(|trunk| TrunkStatus {
                interface: trunk.interface.name.clone(),
                mtu: trunk.interface.mtu,
                driver: trunk.interface.driver.clone().unwrap_or_default(),
                xdp: xdp(&trunk.attachment),
                kernel: kernel(report.trunk),
            }),
            pods: self.pods.len(),
            groups: self.snapshot().map_or(0, |snapshot| snapshot.security_groups.len()),
            rules: model.map_or(0, espalier_rules::Model::rule_count),
            workers: vec![self.worker_status(&report)],
            frames: frames(self.umem.owners()),
            counters: report.counters.totals.to_api(),
            steering: steering(&self.steering.counters().map_err(ManagerError::failed)?),
            capabilities: self.capabilities(),
            problems: self.problems(),
        })
    }

    fn worker_status(&self, report: &Report) -> WorkerStatus {
        WorkerStatus {
            worker: self.worker.index(),
            core: self.worker.core(),
            generation: report.generation,
            pods: self.pods.len(),
            batches: report.batches,
            sleeps: report.sleeps,
            flows: report.flows,
            counters: report.counters.totals.to_api(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            multi_buffer: self.umem.scatter_gather(),
            max_packet: self.umem.max_packet_len(),
            hugepages: self.umem.hugepages(),
        }
    }

    /// What is not as it should be, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let warnings = self.enforced.iter().flat_map(|enforced| enforced.judge.warnings());
        let mut problems: Vec<String> = warnings.map(ToString::to_string).collect();
        if let Some(trunk) = &self.trunk {
            let name = &trunk.interface.name;
            problems.extend(trunk.down.as_ref().map(|reason| format!("trunk {name}: {reason}")));
            problems.extend(self.too_small_for(name, trunk.interface.mtu));
        }
        for (name, port) in &self.pods {
            match &port.state {
                State::Down(reason) => problems.push(format!("pod {name}: {reason}")),
                State::Up { interface, .. } => {
                    problems.extend(self.too_small_for(&interface.name, interface.mtu))
                }
            }
        }
        problems
    }

    /// Without multi-buffer AF_XDP (Linux 6.6) a packet must fit one frame.
    fn too_small_for(&self, interface: &str, mtu: u32) -> Option<String> {
        const ETHERNET_AND_TAG: usize = 18;
        let room = self.umem.max_packet_len().saturating_sub(ETHERNET_AND_TAG);
        (mtu as usize > room).then(|| {
            format!(
                "{interface}: MTU {mtu} is more than this kernel lets AF_XDP carry: set it to {room} or less"
            )
        })
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.enforced.as_ref().map(|enforced| &*enforced.snapshot)
    }

    /// The pods, in the snapshot's order.
    pub fn pods(&self) -> Result<Vec<PodStatus>, ManagerError> {
        let report = self.worker.report().map_err(ManagerError::failed)?;
        let pods = self.snapshot().map_or(&[][..], |snapshot| &snapshot.pods);
        Ok(pods
            .iter()
            .filter_map(|pod| {
                let port = self.pods.get(&pod.name)?;
                Some(self.pod_status(pod, port, &report))
            })
            .collect())
    }

    fn pod_status(&self, pod: &espalier_api::Pod, port: &PodPort, report: &Report) -> PodStatus {
        let link = report.links[port.slot.index()];
        let (veth, state, xdp) = match &port.state {
            State::Up { interface, attachment } => {
                (Some(interface.name.clone()), PortState::Up, Some(xdp(attachment)))
            }
            State::Down(reason) => (pod.veth.clone(), PortState::Down(reason.clone()), None),
        };
        PodStatus {
            name: pod.name.clone(),
            eni_id: pod.eni_id.clone(),
            vlan: pod.vlan,
            mac: pod.mac,
            addresses: pod.addresses.clone(),
            security_groups: pod.security_groups.clone(),
            veth,
            state,
            xdp,
            gateway_mac: link.gateway_mac.and_then(Mac::new),
            pod_mac: link.pod_mac.and_then(Mac::new),
            worker: self.worker.index(),
            counters: report.counters.pod(port.slot).to_api(),
            kernel: kernel(report.pods[port.slot.index()]),
        }
    }

    /// The groups.
    pub fn groups(&self) -> Vec<GroupStatus> {
        self.enforced.as_ref().map_or_else(Vec::new, |enforced| enforced.judge.model().groups())
    }

    /// The rules in force for a pod; nothing if there is no such pod.
    pub fn rules(&self, pod: &PodName) -> Option<Vec<RuleStatus>> {
        let model = self.enforced.as_ref()?.judge.model();
        let policy = model.policy_of(model.pod_index(pod)?)?;
        Some(model.rules_of(policy))
    }

    /// Answers queries, in order, or refuses them all.
    pub fn explain(&self, queries: &[Query]) -> Result<Vec<Answer>, InputError> {
        let judge = self.enforced.as_ref().map(|enforced| &enforced.judge);
        let judge =
            judge.ok_or_else(|| InputError::new("", "no snapshot is enforced yet: `espalier apply FILE`"))?;
        let answer = |(index, query): (usize, &Query)| {
            judge.explain(query).map_err(|error| InputError::new(format!("[{index}]"), error.to_string()))
        };
        queries.iter().enumerate().map(answer).collect()
    }
}

fn xdp(attachment: &Attachment) -> XdpStatus {
    XdpStatus { mode: attachment.mode.to_string(), fallback: attachment.fallback.clone() }
}

fn kernel(statistics: Option<PortStatistics>) -> KernelCounters {
    let counted = statistics.unwrap_or_default();
    KernelCounters {
        rx_dropped: counted.rx_dropped,
        rx_ring_full: counted.rx_ring_full,
        rx_fill_ring_empty: counted.rx_fill_ring_empty,
        invalid_descriptors: counted.rx_invalid_descs
            + counted.tx_invalid_descs
            + counted.bad_descriptors
            + counted.tx_refused,
        rx_oversized: counted.rx_oversized,
    }
}

fn frames(owners: FrameOwners) -> Frames {
    let FrameOwners { free, fill, rx, worker, tx, total } = owners;
    let [free, fill, rx, worker, tx, total] = [free, fill, rx, worker, tx, total].map(|count| count as u64);
    Frames { free, fill, rx, worker, tx, total }
}

fn steering(counters: &SteeringCounters) -> BTreeMap<String, u64> {
    let labels = SteeringCounters::NAMES.iter().map(|name| name.replace('_', "-"));
    labels.zip(counters.values()).collect()
}
