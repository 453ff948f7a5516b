//! The one topology of all subjects: an outside that has the trunk's other end, the node under test, and two pods.
//!
//! Made anew for each subject of each round, so that nothing of one subject is left for the next. Addresses, MACs and
//! VLANs are constants: the frames of all subjects are the same. The namespaces are gone when the site is dropped.

use std::net::Ipv4Addr;

use anyhow::Result;
use espalier_lab::netns::{NetNs, unique_name};
use espalier_pktgen::frame::Protocol;
use espalier_pktgen::traffic::{Sizes, Traffic};

use super::cases::SMALL;
use super::load::{Flows, Size, Way};
use super::napi;

/// Core of the load generator and of the sinks.
pub(super) const LOAD_CORE: usize = 0;
/// Core of the device under test.
pub(super) const SUBJECT_CORE: usize = 1;
/// The trunk's interface on the node.
pub(super) const TRUNK: &str = "trunk0";
/// MAC of the next hop in the VPC.
pub(super) const GATEWAY_MAC: [u8; 6] = [2, 0xee, 0, 0, 0, 1];
/// Address of the VPC's router in the trunk's untagged network, for the kernel's forwarding.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// Bytes of an 802.1Q tag.
const TAG: u16 = 4;
/// What the rule that allows the traffic names.
pub(super) const ALLOWED: &str = "10.0.0.0/8";
/// And its port.
pub(super) const SERVICE: u16 = 9;

/// Flows of a flood: many times what a pod may have half-open, so that each SYN enters another.
const FLOOD: u32 = 250_000;
/// A stamp makes them as long.
const SYN: Size = Size::Bytes(72);

/// A pod of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PodSpec<'a> {
    /// `a` or `b`.
    pub(super) name: &'a str,
    /// Its veth on the node.
    pub(super) veth: &'a str,
    /// Its branch.
    pub(super) vlan: u16,
    /// MAC of its branch ENI.
    pub(super) branch_mac: [u8; 6],
    /// Its address.
    pub(super) address: Ipv4Addr,
}

/// The pod that sends, or receives from the trunk.
pub(super) const A: PodSpec<'static> = PodSpec {
    name: "a",
    veth: "veth0",
    vlan: 101,
    branch_mac: [6, 0, 0, 0, 0, 1],
    address: Ipv4Addr::new(10, 1, 0, 10),
};
/// The pod that receives from the other pod.
pub(super) const B: PodSpec<'static> = PodSpec {
    name: "b",
    veth: "veth1",
    vlan: 102,
    branch_mac: [6, 0, 0, 0, 0, 2],
    address: Ipv4Addr::new(10, 1, 0, 11),
};

/// A pod's interface and the outside's.
pub(super) const EDGE: &str = "eth0";

/// The namespaces.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) outside: NetNs,
    pub(super) node: NetNs,
    pub(super) pods: [NetNs; 2],
    /// MACs of the trunk and of the pods' veths on the node.
    pub(super) node_macs: [[u8; 6]; 3],
    /// MACs of the pods' own interfaces.
    pub(super) pod_macs: [[u8; 6]; 2],
}

impl Site {
    /// Makes namespaces and interfaces, everything up.
    pub(super) fn new() -> Result<Self> {
        let create = |tag: &str| NetNs::create(unique_name(&format!("dp-{tag}")));
        let (outside, node) = (create("out")?, create("node")?);
        let pods = [create("a")?, create("b")?];
        node.veth(TRUNK, &outside, EDGE)?;
        for (spec, pod) in [A, B].iter().zip(&pods) {
            node.veth(spec.veth, pod, EDGE)?;
        }
        for namespace in [&outside, &node, &pods[0], &pods[1]] {
            // Router solicitations and MLD would be load that nobody asked for.
            for interface in ["all", "default"] {
                namespace.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1")?;
            }
        }
        node.ip(&format!("link set {TRUNK} up\nlink set {} up\nlink set {} up", A.veth, B.veth))?;
        outside.ip(&format!("link set {EDGE} address {} up", mac_text(GATEWAY_MAC)))?;
        // A tag in the socket buffer instead of the frame is invisible to the programs at the other end.
        outside.offload(EDGE, "txvlan off")?;
        node.offload(TRUNK, "txvlan off")?;
        for (spec, pod) in [A, B].iter().zip(&pods) {
            pod.ip(&format!(
                "addr add {}/32 dev {EDGE}\nlink set {EDGE} up\nroute add 169.254.1.1 dev {EDGE} scope link\n\
                 route add default via 169.254.1.1 dev {EDGE}",
                spec.address
            ))?;
        }
        let node_macs = [mac(&node, TRUNK)?, mac(&node, A.veth)?, mac(&node, B.veth)?];
        let pod_macs = [mac(&pods[0], EDGE)?, mac(&pods[1], EDGE)?];
        Ok(Self { outside, node, pods, node_macs, pod_macs })
    }

    /// The namespace whose [`EDGE`] the traffic of this way leaves from.
    pub(super) fn source(&self, way: Way) -> &NetNs {
        match way {
            Way::FromTrunk => &self.outside,
            Way::ToTrunk | Way::PodToPod | Way::Hairpin => &self.pods[0],
        }
    }

    /// The namespace whose [`EDGE`] it arrives at.
    pub(super) fn destination(&self, way: Way) -> &NetNs {
        match way {
            Way::FromTrunk => &self.pods[0],
            Way::ToTrunk => &self.outside,
            Way::PodToPod | Way::Hairpin => &self.pods[1],
        }
    }

    /// Has the pods receive on threads on the load's core instead of on the core of whoever sends to them.
    pub(super) fn receive_off_the_device(&self) -> Result<()> {
        for (pod, spec) in self.pods.iter().zip([A, B]) {
            // A veth gives its other end's NAPI only what came without TSO.
            self.node.offload(spec.veth, "tso off")?;
            napi::receive_on(pod, EDGE, LOAD_CORE)?;
        }
        Ok(())
    }

    /// What is sent, tagged from the trunk if the subject takes tagged frames.
    pub(super) fn traffic(&self, way: Way, size: Size, flows: Flows, tagged: bool) -> Result<Traffic> {
        let trunk_mac = if tagged { A.branch_mac } else { self.node_macs[0] };
        let (remotes, ports) = flows.grid(way);
        let pod = A.address.to_string();
        let (source_mac, destination_mac, source, destination) = match way {
            Way::FromTrunk => (GATEWAY_MAC, trunk_mac, remotes, pod),
            Way::ToTrunk | Way::Hairpin => (self.pod_macs[0], self.node_macs[1], pod, remotes),
            Way::PodToPod => (self.pod_macs[0], self.node_macs[1], pod, B.address.to_string()),
        };
        let vlan = way == Way::FromTrunk && tagged;
        describe(Ends {
            macs: (source_mac, destination_mac),
            addresses: (&source, &destination),
            ports: (&ports, &SERVICE.to_string()),
            vlan: vlan.then_some(A.vlan),
            sizes: size.sizes(if vlan { TAG } else { 0 })?,
            flows,
        })
    }

    /// Connections to pod B that nobody makes.
    pub(super) fn flood(&self) -> Result<Traffic> {
        let flows = Flows(FLOOD);
        let (remotes, ports) = flows.grid(Way::FromTrunk);
        let ends = Ends {
            macs: (GATEWAY_MAC, B.branch_mac),
            addresses: (&remotes, &B.address.to_string()),
            ports: (&ports, &SERVICE.to_string()),
            vlan: Some(B.vlan),
            sizes: SYN.sizes(TAG)?,
            flows,
        };
        Ok(Traffic { protocols: vec![(Protocol::Tcp, 1)], tcp_syn: true, ..describe(ends)? })
    }

    /// The answers to it: a flow is established when both ends have been heard of. None where nobody would answer.
    pub(super) fn answers(&self, way: Way, flows: Flows, tagged: bool) -> Result<Option<Traffic>> {
        let trunk_mac = if tagged { A.branch_mac } else { self.node_macs[0] };
        let (remotes, ports) = flows.grid(way);
        let pod = A.address.to_string();
        let (source_mac, destination_mac, source, destination) = match way {
            Way::FromTrunk => (self.pod_macs[0], self.node_macs[1], pod, remotes),
            Way::ToTrunk => (GATEWAY_MAC, trunk_mac, remotes, pod),
            Way::PodToPod => (self.pod_macs[1], self.node_macs[2], B.address.to_string(), pod),
            Way::Hairpin => return Ok(None),
        };
        let vlan = way == Way::ToTrunk && tagged;
        describe(Ends {
            macs: (source_mac, destination_mac),
            addresses: (&source, &destination),
            ports: (&SERVICE.to_string(), &ports),
            vlan: vlan.then_some(A.vlan),
            sizes: SMALL.sizes(if vlan { TAG } else { 0 })?,
            flows,
        })
        .map(Some)
    }
}

/// What a description of traffic is made of.
struct Ends<'a> {
    macs: ([u8; 6], [u8; 6]),
    addresses: (&'a str, &'a str),
    ports: (&'a str, &'a str),
    vlan: Option<u16>,
    sizes: Sizes,
    flows: Flows,
}

fn describe(ends: Ends<'_>) -> Result<Traffic> {
    let wrong = anyhow::Error::msg;
    Ok(Traffic {
        source_mac: ends.macs.0,
        destination_mac: ends.macs.1,
        vlans: ends.vlan.into_iter().collect(),
        sources: vec![ends.addresses.0.parse().map_err(wrong)?],
        destinations: vec![ends.addresses.1.parse().map_err(wrong)?],
        source_ports: ends.ports.0.parse().map_err(wrong)?,
        destination_ports: ends.ports.1.parse().map_err(wrong)?,
        protocols: vec![(Protocol::Udp, 1)],
        tcp_syn: false,
        v6_percent: 0,
        sizes: ends.sizes,
        flows: ends.flows.0,
        seed: 1,
    })
}

/// As people and tools write it.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn mac(namespace: &NetNs, interface: &str) -> Result<[u8; 6]> {
    Ok(namespace.run(|| espalier_xsk::interface(interface))??.mac)
}
