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
    /// Steers the trunk and opens its socket, unless it is in use. Its packets wait until it is given to
    /// [`Self::serve_trunk`].
    pub(super) fn open_trunk(&mut self, name: &str) -> Result<Option<(Port, Trunk)>, ManagerError> {
        if self.trunk.as_ref().is_some_and(|trunk| trunk.down.is_none()) {
            return Ok(None);
        }
        let found = interface(name).map_err(|error| InputError::new("trunk.interface", error.to_string()))?;
        let config = self.port_config();
        let port = Port::open(&self.umem, &found, 0, &config).map_err(ManagerError::failed)?;
        self.steering.set_trunk_socket(0, &port).map_err(ManagerError::failed)?;
        let attachment = self.steering.attach_trunk(&found).map_err(ManagerError::failed)?;
        report(&found, &attachment);
        Ok(Some((port, Trunk { interface: found, attachment, down: None })))
    }

    /// Has the worker serve a trunk that was opened.
    pub(super) fn serve_trunk(&mut self, opened: Option<(Port, Trunk)>) -> Result<(), ManagerError> {
        if let Some((port, trunk)) = opened {
            self.worker.attach_trunk(port).map_err(ManagerError::failed)?.map_err(ManagerError::failed)?;
            self.trunk = Some(trunk);
        }
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
            if let State::Up { interface, .. } = &pod.state
                && let Err(error) = self.steering.detach_pod(interface.index)
            {
                // The veth usually goes with the pod, and its program with it.
                tracing::debug!(pod = %name, %error, "nothing to detach");
            }
            self.close_port(Some(pod.slot))?;
            self.worker.free(pod.slot).map_err(ManagerError::failed)?;
            if let Some(journal) = &self.journal {
                journal.set_pod(pod.slot, None);
            }
            self.slots.release(pod.slot);
            tracing::info!(pod = %name, "detached");
        }
        Ok(())
    }

    /// Takes a socket from the worker, closes it, and gives its frames back.
    pub(super) fn close_port(&mut self, slot: Option<PodSlot>) -> Result<(), ManagerError> {
        match slot {
            Some(slot) => self.steering.clear_pod_socket(slot.0),
            None => self.steering.clear_trunk_socket(0),
        }
        .map_err(ManagerError::failed)?;
        if let Some(port) = self.worker.detach(slot).map_err(ManagerError::failed)? {
            self.worker.absorb(port.close()).map_err(ManagerError::failed)?;
        }
        Ok(())
    }

    /// Attaches the pods whose port is down. Returns those whose port came up.
    pub(super) fn attach_missing(&mut self) -> Vec<PodSlot> {
        let Some(enforced) = &self.enforced else { return Vec::new() };
        let snapshot = std::sync::Arc::clone(&enforced.snapshot);
        let mut attached = Vec::new();
        for pod in &snapshot.pods {
            let Some(PodPort { slot, state: State::Down(_), .. }) = self.pods.get(&pod.name) else {
                continue;
            };
            let slot = *slot;
            let state = match self.attach_pod(pod, slot) {
                Ok((interface, attachment)) => {
                    report(&interface, &attachment);
                    tracing::info!(pod = %pod.name, veth = interface.name, slot = slot.0, "attached");
                    attached.push(slot);
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
        attached
    }

    fn attach_pod(&mut self, pod: &Pod, slot: PodSlot) -> Result<(InterfaceRef, Attachment), String> {
        let found = find_veth(pod)?;
        if self.turns_checksums_off() {
            let netns =
                pod.netns.as_ref().ok_or("--pod-tx-checksum off needs the pod's `netns` in the snapshot")?;
            netns::turn_tx_checksum_off(netns).map_err(|error| error.to_string())?;
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        // Steered first: from here on the pod's frames are dropped rather than passed, until its socket is there.
        let attachment =
            self.steering.attach_pod(&found, slot.0, pod.vlan.get()).map_err(|error| text(&error))?;
        let config = self.port_config();
        let port = Port::open(&self.umem, &found, 0, &config).map_err(|error| text(&error))?;
        self.steering.set_pod_socket(slot.0, &port).map_err(|error| text(&error))?;
        let host = HostEnd { mac: found.mac, mtu: found.mtu };
        let done = self.worker.attach(slot, host, port).map_err(|error| text(&error))?;
        done.map_err(|error| text(&error))?;
        Ok((found, attachment))
    }

    /// Closes the ports of interfaces that are gone or were made anew.
    pub(super) fn release_vanished(&mut self) {
        let is_there =
            |known: &InterfaceRef| interface(&known.name).is_ok_and(|now| now.index == known.index);
        let vanished: Vec<(PodName, PodSlot, u32)> = self
            .pods
            .iter()
            .filter_map(|(name, port)| match &port.state {
                State::Up { interface, .. } if !is_there(interface) => {
                    Some((name.clone(), port.slot, interface.index))
                }
                _ => None,
            })
            .collect();
        for (name, slot, index) in vanished {
            tracing::warn!(pod = %name, "the pod's veth is gone");
            let detached = self.steering.detach_pod(index).map_err(ManagerError::failed);
            if let Err(error) = self.close_port(Some(slot)).and(detached) {
                tracing::debug!(pod = %name, %error, "nothing left to detach");
            }
            if let Some(port) = self.pods.get_mut(&name) {
                port.state = State::Down("its veth is gone".to_owned());
            }
        }
        if self.trunk.as_ref().is_some_and(|trunk| trunk.down.is_none() && !is_there(&trunk.interface)) {
            tracing::error!("the trunk interface is gone");
            if let Err(error) = self.close_port(None) {
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
            let report = self.worker.report().map_err(ManagerError::failed)?;
            if slots.iter().all(|slot| report.links[slot.index()].gateway_resolved) {
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
