//! Keeps the steering's maps in step with the snapshot in force.

use std::collections::BTreeSet;
use std::net::IpAddr;

use espalier_api::PodName;
use espalier_xsk::SteeredPod;

use super::{Manager, ManagerError, State};

impl Manager {
    /// Branches and local addresses as the snapshot has them; pods of an earlier switch that it lacks are detached.
    pub(super) fn steer(&mut self) -> Result<(), ManagerError> {
        let Some(enforced) = &self.enforced else { return Ok(()) };
        let pods = &enforced.snapshot.pods;
        let branches: BTreeSet<u16> = pods.iter().map(|pod| pod.vlan.get()).collect();
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let stale_addresses: Vec<IpAddr> =
            self.steering.local_addresses().difference(&addresses).copied().collect();
        for address in stale_addresses {
            self.steering.set_local_address(address, false).map_err(ManagerError::failed)?;
        }
        let stale_branches: Vec<u16> = self.steering.branches().difference(&branches).copied().collect();
        for vlan in stale_branches {
            self.steering.set_branch(vlan, false).map_err(ManagerError::failed)?;
        }
        self.detach_strangers()?;
        let new_branches: Vec<u16> = branches.difference(self.steering.branches()).copied().collect();
        for vlan in new_branches {
            self.steering.set_branch(vlan, true).map_err(ManagerError::failed)?;
        }
        let new_addresses: Vec<IpAddr> =
            addresses.difference(self.steering.local_addresses()).copied().collect();
        for address in new_addresses {
            self.steering.set_local_address(address, true).map_err(ManagerError::failed)?;
        }
        Ok(())
    }

    /// Pods that an earlier switch steered and the snapshot does not have, or has in another slot's place.
    fn detach_strangers(&mut self) -> Result<(), ManagerError> {
        let ours: BTreeSet<u16> = self.pods.values().map(|port| port.slot.0).collect();
        let attached: BTreeSet<u32> = self
            .pods
            .values()
            .filter_map(|port| match &port.state {
                State::Up { interface, .. } => Some(interface.index),
                State::Down(_) => None,
            })
            .collect();
        let unattached: Vec<SteeredPod> =
            self.steering.pods().filter(|pod| !attached.contains(&pod.interface)).collect();
        if unattached.is_empty() {
            return Ok(());
        }
        let wanted: BTreeSet<u32> = self.wanted_interfaces();
        let strangers: Vec<u32> = unattached
            .into_iter()
            .filter(|pod| !wanted.contains(&pod.interface) || !ours.contains(&pod.slot))
            .map(|pod| pod.interface)
            .collect();
        for interface in strangers {
            self.steering.detach_pod(interface).map_err(ManagerError::failed)?;
            tracing::info!(interface, "detached a pod of an earlier switch");
        }
        Ok(())
    }

    fn wanted_interfaces(&self) -> BTreeSet<u32> {
        let Some(enforced) = &self.enforced else { return BTreeSet::new() };
        let found = enforced.snapshot.pods.iter().filter_map(|pod| super::ports::find_veth(pod).ok());
        found.map(|interface| interface.index).collect()
    }

    /// Takes a pod's addresses and branch out of the steering, before its port goes.
    pub(super) fn unsteer(&mut self, name: &PodName) {
        let Some(enforced) = &self.enforced else { return };
        let Some(pod) = enforced.snapshot.pods.iter().find(|pod| pod.name == *name) else { return };
        let mut results = vec![self.steering.set_branch(pod.vlan.get(), false)];
        results.extend(pod.addresses.iter().map(|address| self.steering.set_local_address(*address, false)));
        for error in results.into_iter().filter_map(Result::err) {
            tracing::error!(pod = %name, %error, "the steering still names the pod");
        }
    }
}
