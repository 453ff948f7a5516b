//! Attaching and detaching the trunk and the pods, one at a time.

use std::time::{Duration, Instant};

use espalier_api::{InputError, Pod, PodName, Snapshot};
use espalier_xsk::{Attachment, InterfaceRef, Port, interface};

use super::{Manager, ManagerError, PodPort, State, Trunk};
use crate::flow::PodSlot;
use crate::neighbour::HostEnd;
use crate::netns;

/// How long a reply to `apply` waits for the VPC's routers to answer for new branches.
const GATEWAY_PATIENCE: Duration = Duration::from_millis(250);

impl Manager {
    /// Steers the trunk and opens a socket for each of its queues, unless it is in use. Its packets wait until they are
    /// given to [`Self::serve_trunk`]. The workers start with the first trunk.
    pub(super) fn open_trunk(&mut self, name: &str) -> Result<Option<(Vec<Port>, Trunk)>, ManagerError> {
        if self.trunk.as_ref().is_some_and(|trunk| trunk.down.is_none()) {
            return Ok(None);
        }
        let found = interface(name).map_err(|error| InputError::new("trunk.interface", error.to_string()))?;
        self.muster(&found)?;
        let config = self.port_config();
        let mut ports = Vec::new();
        for queue in 0..Self::trunk_queues(&found) as u32 {
            let mut port = Port::open(&self.umem, &found, queue, &config).map_err(ManagerError::failed)?;
            port.set_throttle(self.steering.throttle(queue).map_err(ManagerError::failed)?);
            self.steering.set_trunk_socket(queue, &port).map_err(ManagerError::failed)?;
            ports.push(port);
        }
        let attachment = self.steering.attach_trunk(&found).map_err(ManagerError::failed)?;
        report(&found, &attachment);
        let queues = ports.len();
        Ok(Some((ports, Trunk { interface: found, attachment, queues, down: None })))
    }

    /// Has the workers serve a trunk that was opened: queue q is that of worker q, modulo their number.
    pub(super) fn serve_trunk(&mut self, opened: Option<(Vec<Port>, Trunk)>) -> Result<(), ManagerError> {
        let Some((ports, trunk)) = opened else { return Ok(()) };
        let crew = self.crew()?;
        let all = ports.len();
        for (queue, port) in ports.into_iter().enumerate() {
            let worker = crew.worker(queue % crew.count());
            worker.attach_trunk(port, all).map_err(ManagerError::failed)?.map_err(ManagerError::failed)?;
        }
        self.trunk = Some(trunk);
        Ok(())
    }

    /// Detaches the pods that the snapshot no longer has, or has as another pod of the same name.
    pub(super) fn remove_gone(&mut self, snapshot: &Snapshot) -> Result<(), ManagerError> {
        let stays = |name: &PodName, port: &PodPort| {
            let pod = snapshot.pods.iter().find(|pod| pod.name == *name);
            pod.is_some_and(|pod| super::Identity::of(pod) == port.identity)
        };
        let gone: Vec<PodName> = self
            .pods
            .iter()
            .filter(|(name, port)| !stays(name, port))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let Some(pod) = self.pods.remove(&name) else { continue };
            self.unsteer(&name);
            if let State::Up { interface, .. } = &pod.state {
                self.tuner.undo(interface.index);
                if let Err(error) = self.steering.detach_pod(interface.index) {
                    // The veth usually goes with the pod, and its program with it.
                    tracing::debug!(pod = %name, %error, "nothing to detach");
                }
            }
            self.close_port(&pod)?;
            self.crew()?.free(pod.slot).map_err(ManagerError::failed)?;
            if let Some(journal) = &self.journal {
                journal.set_pod(pod.slot, None);
            }
            self.slots.release(pod.slot);
            tracing::info!(pod = %name, "detached");
        }
        Ok(())
    }

    /// Takes a pod's socket from its worker, closes it, and gives its frames back.
    fn close_port(&mut self, pod: &PodPort) -> Result<(), ManagerError> {
        self.steering.clear_pod_socket(pod.slot.0).map_err(ManagerError::failed)?;
        let home = self.home_of(pod)?;
        if let Some(port) = home.detach(pod.slot).map_err(ManagerError::failed)? {
            home.absorb(port.close()).map_err(ManagerError::failed)?;
        }
        Ok(())
    }

    /// Takes the trunk's sockets from the workers, closes them, and gives their frames back.
    fn close_trunk(&mut self) -> Result<(), ManagerError> {
        let queues = self.trunk.as_ref().map_or(0, |trunk| trunk.queues);
        for queue in 0..queues as u32 {
            self.steering.clear_trunk_socket(queue).map_err(ManagerError::failed)?;
        }
        for worker in self.crew()?.handles() {
            for port in worker.detach_trunk().map_err(ManagerError::failed)? {
                worker.absorb(port.close()).map_err(ManagerError::failed)?;
            }
        }
        Ok(())
    }

    /// Attaches the pods whose port is down. Returns those whose port came up.
    pub(super) fn attach_missing(&mut self) -> Vec<PodSlot> {
        let Some(enforced) = &self.enforced else { return Vec::new() };
        let snapshot = std::sync::Arc::clone(&enforced.snapshot);
        let mut attached = Vec::new();
        for pod in &snapshot.pods {
            let Some(PodPort { slot, home, state: State::Down(_), .. }) = self.pods.get(&pod.name) else {
                continue;
            };
            let (slot, home) = (*slot, *home);
            let state = match self.attach_pod(pod, slot, home) {
                Ok((interface, attachment)) => {
                    report(&interface, &attachment);
                    tracing::info!(pod = %pod.name, veth = interface.name, slot = slot.0, "attached");
                    attached.push(slot);
                    self.tuner.tune(pod, &interface);
                    State::Up { interface, attachment }
                }
                Err(reason) => State::Down(reason),
            };
            if let Some(port) = self.pods.get_mut(&pod.name) {
                if let (State::Down(old), State::Down(new)) = (&port.state, &state)
                    && old != new
                {
                    tracing::warn!(pod = %pod.name, reason = new, "the pod's port is down");
                }
                port.state = state;
            }
        }
        if let Some(crew) = &self.crew {
            let cores: Vec<_> = crew.handles().iter().map(|handle| handle.core()).collect();
            self.tuner.pin_threads(&cores);
        }
        attached
    }

    fn attach_pod(
        &mut self,
        pod: &Pod,
        slot: PodSlot,
        home: usize,
    ) -> Result<(InterfaceRef, Attachment), String> {
        let found = find_veth(pod)?;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        // Steered first: from here on the pod's frames are dropped rather than passed, until its socket is there.
        let attachment =
            self.steering.attach_pod(&found, slot.0, pod.vlan.get()).map_err(|error| text(&error))?;
        let config = self.port_config();
        let port = Port::open(&self.umem, &found, 0, &config).map_err(|error| text(&error))?;
        self.steering.set_pod_socket(slot.0, &port).map_err(|error| text(&error))?;
        let host = HostEnd { mac: found.mac, mtu: found.mtu };
        let worker = self.crew().map_err(|error| text(&error))?.worker(home);
        let done = worker.attach(slot, host, port).map_err(|error| text(&error))?;
        done.map_err(|error| text(&error))?;
        Ok((found, attachment))
    }

    /// Closes the ports of interfaces that are gone or were made anew.
    pub(super) fn release_vanished(&mut self) {
        let is_there =
            |known: &InterfaceRef| interface(&known.name).is_ok_and(|now| now.index == known.index);
        let vanished: Vec<(PodName, u32)> = self
            .pods
            .iter()
            .filter_map(|(name, port)| match &port.state {
                State::Up { interface, .. } if !is_there(interface) => Some((name.clone(), interface.index)),
                _ => None,
            })
            .collect();
        for (name, index) in vanished {
            tracing::warn!(pod = %name, "the pod's veth is gone");
            self.tuner.undo(index);
            let detached = self.steering.detach_pod(index).map_err(ManagerError::failed);
            let Some(mut port) = self.pods.remove(&name) else { continue };
            if let Err(error) = self.close_port(&port).and(detached) {
                tracing::debug!(pod = %name, %error, "nothing left to detach");
            }
            port.state = State::Down("its veth is gone".to_owned());
            self.pods.insert(name, port);
        }
        if self.trunk.as_ref().is_some_and(|trunk| trunk.down.is_none() && !is_there(&trunk.interface)) {
            tracing::error!("the trunk interface is gone");
            if let Err(error) = self.close_trunk() {
                tracing::error!(%error, "the trunk's socket cannot be closed");
            }
            if let Some(trunk) = &mut self.trunk {
                trunk.down = Some("the interface is gone".to_owned());
            }
        }
    }

    /// Waits, within reason, until the branches in these slots know their next hop, so that no first packet is lost.
    pub(super) fn await_gateways(&self, slots: &[PodSlot]) -> Result<(), ManagerError> {
        if slots.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + GATEWAY_PATIENCE;
        while Instant::now() < deadline {
            let reports = self.crew()?.reports();
            // Only its home knows a pod's neighbours.
            let resolved = |slot: &PodSlot| {
                let links = reports.iter().flatten().map(|report| report.links[slot.index()]);
                links.into_iter().any(|link| link.gateway_resolved)
            };
            if slots.iter().all(resolved) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

pub(super) fn find_veth(pod: &Pod) -> Result<InterfaceRef, String> {
    let name = match (&pod.veth, &pod.netns) {
        (Some(veth), _) => veth.clone(),
        (None, Some(netns)) => netns::host_end(netns).map_err(|error| error.to_string())?,
        (None, None) => return Err("the snapshot names neither `veth` nor `netns`".to_owned()),
    };
    interface(&name).map_err(|error| error.to_string())
}

impl Manager {
    /// The slot in which an earlier switch left this pod steered.
    pub(super) fn steered_slot(&self, pod: &Pod) -> Option<PodSlot> {
        let found = find_veth(pod).ok()?;
        self.steering
            .pods()
            .find(|steered| steered.interface == found.index)
            .map(|steered| PodSlot(steered.slot))
    }
}

fn report(interface: &InterfaceRef, attachment: &Attachment) {
    if let Some(reason) = &attachment.fallback {
        tracing::warn!(
            interface = interface.name,
            reason,
            "steering attached in generic mode: native was refused"
        );
    }
}
