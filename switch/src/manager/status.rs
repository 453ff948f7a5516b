//! What the control socket tells: status, pods, groups, rules, explanations.

use std::collections::BTreeMap;

use espalier_api::control::{
    Capabilities, Frames, GroupStatus, KernelCounters, PodStatus, PortState, RuleStatus, Status, TrunkStatus,
    WorkerState, WorkerStatus, XdpStatus,
};
use espalier_api::{Answer, InputError, Mac, PodName, Query, Snapshot};
use espalier_xsk::{Attachment, FrameOwners, PortStatistics, SteeringCounters};

use super::recorder::Recorder;
use super::{Manager, ManagerError, PodPort, State, Trunk};
use crate::counters::{PodTotals, Totals};
use crate::worker::{Crew, LinkReport, Report, WorkerFailed};

impl Manager {
    /// The whole switch.
    pub fn status(&self) -> Result<Status, ManagerError> {
        let reports = self.reports();
        let model = self.enforced.as_ref().map(|enforced| enforced.judge.model());
        let mut totals = Totals::default();
        let told: Vec<&Report> = reports.iter().filter_map(|(report, _)| report.as_deref()).collect();
        told.iter().for_each(|report| totals.add(&report.counters.totals));
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: espalier_api::VERSION,
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: told.iter().map(|report| report.generation).min().flatten(),
            agent: None,
            trunk: self.trunk.as_ref().map(|trunk| TrunkStatus {
                interface: trunk.interface.name.clone(),
                mtu: trunk.interface.mtu,
                driver: trunk.interface.driver.clone().unwrap_or_default(),
                queues: trunk.queues,
                xdp: xdp(&trunk.attachment),
                kernel: kernel(told.iter().flat_map(|report| &report.trunk).map(|(_, counted)| counted)),
            }),
            pods: self.pods.len(),
            groups: self.snapshot().map_or(0, |snapshot| snapshot.security_groups.len()),
            rules: model.map_or(0, espalier_rules::Model::rule_count),
            workers: self.worker_statuses(&reports),
            frames: frames(self.umem.owners()),
            counters: totals.to_api(),
            steering: steering(&self.steering.counters().map_err(ManagerError::failed)?),
            capabilities: self.capabilities(),
            flow_log: self.recorder.as_ref().and_then(Recorder::status),
            shadow: self.recorder.as_ref().and_then(Recorder::shadow),
            problems: self.problems(),
        })
    }

    /// What each worker tells of itself, and whether it works.
    fn reports(&self) -> Vec<(Option<Box<Report>>, WorkerState)> {
        let Some(crew) = &self.crew else { return Vec::new() };
        let told = crew.reports().into_iter().zip(crew.states());
        told.map(|(report, state)| match report {
            Ok(report) => (Some(report), state),
            Err(WorkerFailed::Gone(_)) => (None, WorkerState::Dead),
            Err(WorkerFailed::Silent(..)) => (None, WorkerState::Stalled),
        })
        .collect()
    }

    fn worker_statuses(&self, reports: &[(Option<Box<Report>>, WorkerState)]) -> Vec<WorkerStatus> {
        let handles = self.crew.iter().flat_map(Crew::handles);
        handles
            .zip(reports)
            .map(|(handle, (report, state))| {
                let worker = handle.index();
                let told = report.as_deref();
                WorkerStatus {
                    worker,
                    state: *state,
                    trunk_queues: told
                        .map_or_else(Vec::new, |told| told.trunk.iter().map(|(queue, _)| *queue).collect()),
                    core: handle.core(),
                    generation: told.and_then(|told| told.generation),
                    pods: self.pods.values().filter(|port| port.home == worker).count(),
                    batches: told.map_or(0, |told| told.batches),
                    sleeps: told.map_or(0, |told| told.sleeps),
                    pace: told.map_or_else(Default::default, |told| told.pace.to_api()),
                    rings: told.map_or_else(Default::default, |told| told.rings.to_api()),
                    flows: told.map_or(0, |told| told.flows),
                    counters: told.map_or_else(Default::default, |told| told.counters.totals.to_api()),
                }
            })
            .collect()
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
            problems.extend(unserved(trunk));
        }
        for (worker, state) in self.crew.iter().flat_map(Crew::states).enumerate() {
            problems.extend(crate::watchdog::problem(worker, state));
        }
        for (name, port) in &self.pods {
            match &port.state {
                State::Down(reason) => problems.push(format!("pod {name}: {reason}")),
                State::Up { interface, .. } => {
                    problems.extend(self.too_small_for(&interface.name, interface.mtu));
                    let untuned = self.tuner.problem_of(interface.index);
                    problems.extend(untuned.map(|reason| format!("pod {name}: {reason}")));
                }
            }
        }
        problems.extend(self.tuner.problem());
        problems.extend(self.audited());
        problems.extend(self.recorder.as_ref().and_then(Recorder::problem));
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
    pub fn snapshot(&self) -> Result<&Snapshot, InputError> {
        self.enforced().map(|enforced| &*enforced.snapshot)
    }

    /// The pods, in the snapshot's order.
    pub fn pods(&self) -> Result<Vec<PodStatus>, ManagerError> {
        let reports: Vec<_> = self.reports().into_iter().map(|(report, _)| report).collect();
        let pods = self.snapshot().map_or(&[][..], |snapshot| &snapshot.pods);
        Ok(pods
            .iter()
            .filter_map(|pod| {
                let port = self.pods.get(&pod.name)?;
                Some(self.pod_status(pod, port, &reports))
            })
            .collect())
    }

    /// The pod's packets as all workers counted them: those of the trunk may have met others than its home.
    fn pod_status(
        &self,
        pod: &espalier_api::Pod,
        port: &PodPort,
        reports: &[Option<Box<Report>>],
    ) -> PodStatus {
        let home = reports.get(port.home).and_then(Option::as_deref);
        let link = home.map_or_else(LinkReport::default, |home| home.links[port.slot.index()]);
        let mut counters = PodTotals::default();
        reports.iter().flatten().for_each(|report| counters.add(report.counters.pod(port.slot)));
        let (veth, state, xdp, tuning) = match &port.state {
            State::Up { interface, attachment } => {
                let tuning = self.tuner.of(interface.index);
                (Some(interface.name.clone()), PortState::Up, Some(xdp(attachment)), tuning)
            }
            State::Down(reason) => {
                (pod.veth.clone(), PortState::Down(reason.clone()), None, Default::default())
            }
        };
        let audit = self.enforced.as_ref().is_some_and(|enforced| enforced.snapshot.audits(pod));
        PodStatus {
            name: pod.name.clone(),
            eni_id: pod.eni_id.clone(),
            vlan: pod.vlan,
            mac: pod.mac,
            addresses: pod.addresses.clone(),
            security_groups: pod.security_groups.clone(),
            veth,
            state,
            audit,
            xdp,
            tuning,
            gateway_mac: link.gateway_mac.and_then(Mac::new),
            pod_mac: link.pod_mac.and_then(Mac::new),
            worker: port.home,
            counters: counters.to_api(),
            kernel: kernel(home.iter().filter_map(|home| home.pods[port.slot.index()].as_ref())),
        }
    }

    /// The groups.
    pub fn groups(&mut self) -> Vec<GroupStatus> {
        self.rule_sums();
        self.groups_counted()
    }

    /// The rules in force for a pod.
    pub fn rules(&mut self, pod: &PodName) -> Result<Vec<RuleStatus>, InputError> {
        let model = self.enforced()?.judge.model();
        let policy = model.pod_index(pod).and_then(|index| model.policy_of(index));
        let rules =
            model.rules_of(policy.ok_or_else(|| InputError::new("pod", super::names::unknown_pod(pod)))?);
        let (sums, _) = self.rule_sums();
        let counted =
            |rule: RuleStatus| RuleStatus { hits: Some(sums.rule(&rule.group, &rule.rule)), ..rule };
        Ok(rules.into_iter().map(counted).collect())
    }

    /// Answers queries, in order, or refuses them all.
    pub fn explain(&self, queries: &[Query]) -> Result<Vec<Answer>, InputError> {
        let judge = &self.enforced()?.judge;
        let answer = |(index, query): (usize, &Query)| {
            judge.explain(query).map_err(|error| InputError::new(format!("[{index}]"), error.to_string()))
        };
        queries.iter().enumerate().map(answer).collect()
    }
}

fn xdp(attachment: &Attachment) -> XdpStatus {
    XdpStatus { mode: attachment.mode.to_string(), fallback: attachment.fallback.clone() }
}

/// What the kernel counted for some sockets, added up.
fn kernel<'a>(sockets: impl Iterator<Item = &'a PortStatistics>) -> KernelCounters {
    let mut sum = KernelCounters::default();
    for counted in sockets {
        sum.rx_dropped += counted.rx_dropped;
        sum.rx_ring_full += counted.rx_ring_full;
        sum.rx_fill_ring_empty += counted.rx_fill_ring_empty;
        sum.invalid_descriptors += counted.rx_invalid_descs
            + counted.tx_invalid_descs
            + counted.bad_descriptors
            + counted.tx_refused;
        sum.rx_oversized += counted.rx_oversized;
    }
    sum
}

/// Branch frames on a queue without a socket are dropped by the steering.
fn unserved(trunk: &Trunk) -> Option<String> {
    let queues = Manager::trunk_queues(&trunk.interface);
    (trunk.down.is_none() && queues > trunk.queues).then(|| {
        format!(
            "trunk {}: has {queues} queues by now, but only the first {} are served: restart espalier-switch",
            trunk.interface.name, trunk.queues
        )
    })
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
