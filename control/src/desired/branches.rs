//! Which pod has a branch, where several claim the same: an ENI, a VLAN, a MAC or an address has one owner.

use std::collections::HashMap;
use std::net::IpAddr;

use espalier_api::{EniId, Mac, PodName, Vlan};

use crate::cluster::{Branch, Cluster, PodFacts};

/// Pods in the order in which they claim branches: those that have one, living before terminating ones, then by age, then
/// by UID. It depends on the pods alone, not on when they were heard of.
pub(super) fn in_order(cluster: &Cluster) -> Vec<&PodFacts> {
    let mut pods: Vec<&PodFacts> = super::candidates(cluster).collect();
    pods.sort_by_key(|pod| (pod.branch.is_none(), pod.terminating, pod.created, &pod.uid, &pod.name));
    pods
}

/// What is claimed already.
#[derive(Default)]
pub(super) struct Claims<'a> {
    enis: HashMap<&'a EniId, &'a PodName>,
    vlans: HashMap<Vlan, &'a PodName>,
    macs: HashMap<Mac, &'a PodName>,
    addresses: HashMap<IpAddr, &'a PodName>,
}

impl<'a> Claims<'a> {
    /// Claims a branch whole, or says who has what of it.
    pub(super) fn claim(&mut self, pod: &'a PodName, branch: &'a Branch) -> Result<(), String> {
        let taken = |what: String, owner: Option<&&PodName>| match owner {
            Some(owner) => {
                Err(format!("{what} belongs to pod {owner}, which is older; this pod is not enforced"))
            }
            None => Ok(()),
        };
        taken(format!("branch {}", branch.eni_id), self.enis.get(&branch.eni_id))?;
        taken(format!("VLAN {}", branch.vlan), self.vlans.get(&branch.vlan))?;
        taken(format!("MAC address {}", branch.mac), self.macs.get(&branch.mac))?;
        for address in &branch.addresses {
            taken(format!("address {address}"), self.addresses.get(address))?;
        }
        self.enis.insert(&branch.eni_id, pod);
        self.vlans.insert(branch.vlan, pod);
        self.macs.insert(branch.mac, pod);
        self.addresses.extend(branch.addresses.iter().map(|address| (*address, pod)));
        Ok(())
    }

    /// Whether a pod of the node has the VLAN.
    pub(super) fn has_vlan(&self, vlan: Vlan) -> bool {
        self.vlans.contains_key(&vlan)
    }
}
