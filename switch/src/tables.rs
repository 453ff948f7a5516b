//! What the workers read: one generation of the node's branches and policies, immutable.
//!
//! Built by the manager from a valid snapshot, handed to every worker as an `Arc`, and dropped on the management thread
//! once no worker uses it any more.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use espalier_api::snapshot::{ConnectionTracking, OnRuleChange, Pod};
use espalier_api::{Generation, Snapshot};
use espalier_rules::{Judge, PolicyId};

use crate::flow::{PodSlot, Timeouts};
use crate::ip::Ip;

/// One generation.
pub struct Tables {
    /// Which one.
    pub generation: Generation,
    /// The low half of the generation, as flow entries are stamped with it.
    pub stamp: u32,
    /// The policies.
    pub judge: Judge,
    vlans: Box<[Option<PodSlot>; VLANS]>,
    local: HashMap<Ip, PodSlot, foldhash::fast::RandomState>,
    pods: Box<[Option<PodTable>]>,
    homes: Box<[u8]>,
}

const VLANS: usize = 4096;

/// One branch.
#[derive(Debug, Clone)]
pub struct PodTable {
    /// VLAN of the branch.
    pub vlan: u16,
    /// MAC of the branch ENI.
    pub mac: [u8; 6],
    /// The branch's link-local address.
    pub link_local: Ipv6Addr,
    /// The pod's addresses.
    pub addresses: Box<[Ip]>,
    /// IPv4 next hop.
    pub gateway_v4: Option<Ipv4Addr>,
    /// IPv6 next hop.
    pub gateway_v6: Ipv6Addr,
    /// MAC of the next hop, where the snapshot gives it.
    pub gateway_mac: Option<[u8; 6]>,
    /// Its security groups, compiled.
    pub policy: Option<PolicyId>,
    /// Whether tracked flows are judged again after a rule change.
    pub revoke: bool,
    /// Whether what its policy denies passes all the same.
    pub audit: bool,
    /// Idle timeouts of its flows.
    pub timeouts: Timeouts,
}

impl PodTable {
    /// Whether the pod owns the address.
    #[inline]
    pub fn owns(&self, address: Ip) -> bool {
        self.addresses.contains(&address)
    }
}

impl Tables {
    /// The tables of a snapshot whose pods sit in the given slots (one a pod, same order), of `slots` there are.
    /// `defaults` are the timeouts of ENIs that have none of their own.
    pub fn new(
        snapshot: &Snapshot,
        judge: Judge,
        placed: &[PodSlot],
        slots: usize,
        defaults: Timeouts,
    ) -> Self {
        let mut vlans = Box::new([None; VLANS]);
        let mut local = HashMap::default();
        let mut pods: Box<[Option<PodTable>]> = vec![None; slots].into();
        for (index, (pod, slot)) in snapshot.pods.iter().zip(placed).enumerate() {
            vlans[usize::from(pod.vlan.get())] = Some(*slot);
            local.extend(pod.addresses.iter().map(|address| (Ip::from(*address), *slot)));
            let audit = snapshot.audits(pod);
            pods[usize::from(slot.0)] = Some(pod_table(pod, judge.policy_of(index), audit, defaults));
        }
        Self {
            generation: snapshot.generation,
            stamp: snapshot.generation.0 as u32,
            judge,
            vlans,
            local,
            pods,
            homes: vec![0; slots].into(),
        }
    }

    /// The same with a home for each slot: the worker that has the port, flows and counters of the pod there. Without
    /// this all are at home with worker 0.
    #[must_use]
    pub fn with_homes(self, homes: impl IntoIterator<Item = (PodSlot, usize)>) -> Self {
        let mut own = self.homes;
        for (slot, worker) in homes {
            // The number of workers is limited to what fits.
            own[slot.index()] = worker as u8;
        }
        Self { homes: own, ..self }
    }

    /// The worker that a slot's pod is at home with.
    pub fn home(&self, slot: PodSlot) -> usize {
        self.homes.get(slot.index()).copied().unwrap_or_default().into()
    }

    /// The pod on a VLAN.
    pub fn slot_of_vlan(&self, vlan: u16) -> Option<PodSlot> {
        self.vlans.get(usize::from(vlan)).copied().flatten()
    }

    /// The pod with an address.
    pub fn slot_of_address(&self, address: Ip) -> Option<PodSlot> {
        self.local.get(&address).copied()
    }

    /// The branch in a slot.
    pub fn pod(&self, slot: PodSlot) -> Option<&PodTable> {
        self.pods.get(usize::from(slot.0))?.as_ref()
    }

    /// The branches in use.
    pub fn pods(&self) -> impl Iterator<Item = (PodSlot, &PodTable)> {
        self.pods
            .iter()
            .enumerate()
            .filter_map(|(index, pod)| pod.as_ref().map(|pod| (PodSlot(index as u16), pod)))
    }
}

fn pod_table(pod: &Pod, policy: Option<PolicyId>, audit: bool, defaults: Timeouts) -> PodTable {
    PodTable {
        vlan: pod.vlan.get(),
        mac: pod.mac.octets(),
        link_local: pod.mac.link_local(),
        addresses: pod.addresses.iter().copied().map(Ip::from).collect(),
        gateway_v4: pod.gateway_v4(),
        gateway_v6: pod.gateway_v6(),
        gateway_mac: pod.gateway.mac.map(|mac| mac.octets()),
        policy,
        revoke: pod.on_rule_change == OnRuleChange::Revoke,
        audit,
        timeouts: timeouts(&pod.connection_tracking, defaults),
    }
}

/// The ranges were checked when the snapshot was validated, so a refusal here leaves the default.
fn timeouts(wanted: &ConnectionTracking, defaults: Timeouts) -> Timeouts {
    let mut timeouts = defaults;
    if let Some(seconds) = wanted.tcp_established_timeout {
        timeouts = timeouts.with_tcp_established(seconds).unwrap_or(timeouts);
    }
    if let Some(seconds) = wanted.udp_stream_timeout {
        timeouts = timeouts.with_udp_stream(seconds).unwrap_or(timeouts);
    }
    if let Some(seconds) = wanted.udp_timeout {
        timeouts = timeouts.with_udp(seconds).unwrap_or(timeouts);
    }
    timeouts
}
