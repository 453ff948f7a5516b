//! The network of a lab: namespaces for the node, the pods, the hosts and the VPC, wired as on EKS.
//!
//! `Lab` builds it from a scenario; `fabric.rs` makes the VPC side of the trunk, `attach.rs` the rest. Every name
//! starts with the lab's name. Namespaces are deleted on drop unless the topology is kept.

use std::path::Path;

use crate::LabError;
use crate::name::LabName;
use crate::netns::NetNs;
use crate::scenario::{Endpoint, Scenario, TRUNK_INTERFACE};

mod attach;
mod fabric;

/// How the pods are wired, where it is not as the AWS CNI does it today.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodWiring {
    /// Give the pods a permanent neighbour entry for their gateway, as the AWS CNI does. Off by default, so that the
    /// switch's ARP and ND responder has to answer.
    pub static_neighbours: bool,
}

/// How a lab is wired.
#[derive(Debug, Clone, Copy)]
pub struct Wiring {
    /// Its pods.
    pub pods: PodWiring,
    /// Queues of the trunk each way; the VPC spreads flows over them.
    pub trunk_queues: u16,
}

impl Default for Wiring {
    fn default() -> Self {
        Self { pods: PodWiring::default(), trunk_queues: 1 }
    }
}

/// The namespaces of a lab.
#[derive(Debug)]
pub struct Topology {
    node: NetNs,
    vpc: NetNs,
    pods: Vec<NetNs>,
    hosts: Vec<NetNs>,
}

impl Topology {
    /// Makes the namespaces and wires them. On an error what was made is deleted. `folder` is a place for files that
    /// `tc` reads.
    pub fn build(
        name: &LabName,
        scenario: &Scenario,
        mtu: u32,
        wiring: Wiring,
        folder: &Path,
    ) -> Result<Self, LabError> {
        let topology = Self::handles(name, scenario, NetNs::create)?;
        fabric::trunk(&topology.vpc, &topology.node, scenario, (mtu, wiring.trunk_queues), folder)?;
        for (index, namespace) in topology.pods.iter().enumerate() {
            fabric::branch(&topology.vpc, scenario, index, mtu, folder)?;
            attach::pod(&topology.node, namespace, scenario, index, mtu, wiring.pods)?;
        }
        for (index, namespace) in topology.hosts.iter().enumerate() {
            attach::host(&topology.vpc, namespace, scenario, index, mtu)?;
        }
        Ok(topology)
    }

    /// Handles on the namespaces of a lab that is up; dropping them deletes nothing.
    pub fn existing(name: &LabName, scenario: &Scenario) -> Self {
        let handles =
            Self::handles(name, scenario, |name| Ok::<_, std::convert::Infallible>(NetNs::existing(name)));
        match handles {
            Ok(topology) => topology,
            Err(never) => match never {},
        }
    }

    /// Leaves the namespaces to somebody else.
    #[must_use]
    pub fn keep(self) -> Self {
        Self {
            node: self.node.keep(),
            vpc: self.vpc.keep(),
            pods: self.pods.into_iter().map(NetNs::keep).collect(),
            hosts: self.hosts.into_iter().map(NetNs::keep).collect(),
        }
    }

    /// The node, where the switch runs.
    pub fn node(&self) -> &NetNs {
        &self.node
    }

    /// The VPC: the router, the trunk's far end and the VPC's own services.
    pub fn vpc(&self) -> &NetNs {
        &self.vpc
    }

    /// The namespace an endpoint lives in.
    pub fn namespace(&self, endpoint: Endpoint) -> &NetNs {
        match endpoint {
            Endpoint::Pod(index) => &self.pods[index],
            Endpoint::Host(index) => &self.hosts[index],
            Endpoint::Node => &self.node,
            Endpoint::Resolver | Endpoint::Imds => &self.vpc,
        }
    }

    /// All namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &NetNs> {
        [&self.node, &self.vpc].into_iter().chain(&self.pods).chain(&self.hosts)
    }

    /// Interface of the trunk in the node's namespace.
    pub fn trunk_interface(&self) -> &'static str {
        TRUNK_INTERFACE
    }

    fn handles<E>(
        name: &LabName,
        scenario: &Scenario,
        mut handle: impl FnMut(String) -> Result<NetNs, E>,
    ) -> Result<Self, E> {
        let pod = |pod: &crate::scenario::ScenarioPod| {
            format!("{name}-pod-{}-{}", pod.name.namespace(), pod.name.name())
        };
        Ok(Self {
            node: handle(format!("{name}-node"))?,
            vpc: handle(format!("{name}-vpc"))?,
            pods: scenario.pods.iter().map(|each| handle(pod(each))).collect::<Result<_, _>>()?,
            hosts: scenario
                .hosts
                .iter()
                .map(|host| handle(format!("{name}-host-{}", host.name)))
                .collect::<Result<_, _>>()?,
        })
    }
}
