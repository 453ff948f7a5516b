//! From a scenario to the snapshot the switch enforces: ENI ids, VLANs and MAC addresses are given out here.
//!
//! Topology and snapshot take the names of interfaces from the same functions, so that they fit.

use espalier_api::snapshot::{ConnectionTracking, Gateway, Trunk, Vpc};
use espalier_api::{EniId, Generation, InputError, Mac, Pod, Snapshot, Vlan};

use super::{Scenario, ScenarioPod};

/// The trunk ENI in the node's namespace.
pub const TRUNK_INTERFACE: &str = "trunk0";

/// Longest name of an interface (linux/if.h, `IFNAMSIZ` less the terminator).
const INTERFACE_NAME_MAX: usize = 15;

impl Scenario {
    /// The desired state of the node, generation 1.
    pub fn snapshot(&self) -> Result<Snapshot, InputError> {
        let mut group_members = self.group_members.clone();
        for host in &self.hosts {
            for group in &host.security_groups {
                let members = group_members.entry(group.clone()).or_default();
                members.extend(host.addresses.iter().map(|address| espalier_api::Address::from(*address)));
            }
        }
        let pods = (0..self.pods.len()).map(|index| self.snapshot_pod(index)).collect::<Result<_, _>>()?;
        let snapshot = Snapshot {
            generation: Generation(1),
            vpc: Vpc { id: Some("vpc-0lab".into()), cidrs: self.vpc.cidrs.clone(), unfiltered: None },
            trunk: Trunk { interface: TRUNK_INTERFACE.into(), eni_id: Some(eni_id("eni-0trunk")?) },
            pods,
            security_groups: self.security_groups.clone(),
            prefix_lists: self.prefix_lists.clone(),
            group_members,
            ec2: Vec::new(),
        };
        snapshot.validate()?;
        Ok(snapshot)
    }

    /// VLAN of a pod's branch.
    pub fn vlan(&self, pod: usize) -> Option<Vlan> {
        self.pods[pod].vlan.or_else(|| Vlan::new(u16::try_from(pod + 1).ok()?))
    }

    /// Host end of a pod's veth: `eni<index>` and as much of the pod's name as fits.
    pub fn host_veth(&self, pod: usize) -> String {
        let name = format!("eni{pod}-{}", self.pods[pod].name.name());
        name.chars().take(INTERFACE_NAME_MAX).collect()
    }

    fn snapshot_pod(&self, index: usize) -> Result<Pod, InputError> {
        let pod: &ScenarioPod = &self.pods[index];
        let vlan = self
            .vlan(index)
            .ok_or_else(|| InputError::new(format!("pods[{index}]"), "more pods than VLANs: at most 4094"))?;
        let [high, low] = vlan.get().to_be_bytes();
        // The low bits of the first octet say unicast and locally administered.
        let mac = Mac::new([0x0a, 0xe5, 0x9a, 0x11, high, low])
            .ok_or_else(|| InputError::new(format!("pods[{index}]"), "no MAC address for the branch"))?;
        Ok(Pod {
            name: pod.name.clone(),
            uid: None,
            eni_id: eni_id(&format!("eni-0branch{:04x}", vlan.get()))?,
            vlan,
            mac,
            addresses: pod.addresses.clone(),
            subnets: self.subnet(&pod.subnet).map(|subnet| subnet.cidrs.clone()).unwrap_or_default(),
            gateway: Gateway::default(),
            veth: Some(self.host_veth(index)),
            netns: None,
            security_groups: pod.security_groups.clone(),
            connection_tracking: ConnectionTracking::default(),
            on_rule_change: pod.on_rule_change,
            audit: false,
        })
    }
}

fn eni_id(text: &str) -> Result<EniId, InputError> {
    text.parse().map_err(|message: String| InputError::new("eniId", message))
}
