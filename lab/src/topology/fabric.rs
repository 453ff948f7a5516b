//! The VPC side of the trunk: the kernel of the VPC namespace routes, two tc programs take tags off and put them on.
//!
//! Each branch has a veth pair inside the VPC namespace: `gw<vlan>` is the router's interface with the gateway's
//! addresses and MAC, `br<vlan>` the mouth of the branch. `bpf/fabric.bpf.c` redirects between `br<vlan>` and the
//! trunk's far end. Frames towards the node leave with complete checksums and the tag in the frame, as from an ENA.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::IpNet;

use crate::LabError;
use crate::netns::NetNs;
use crate::scenario::{Endpoint, Scenario, Subnet, TRUNK_INTERFACE};

/// The program, as clang built it.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fabric.bpf.o"));

/// The trunk's far end in the VPC namespace.
pub(super) const FAR_END: &str = "vpctrunk";

/// Index of the trunk's far end; `TRUNK_INDEX` of `fabric.bpf.c`. That of a branch is this plus the VLAN.
const TRUNK_INDEX: u32 = 10_000;

/// Makes the trunk with so many queues each way, the router and the addresses of the VPC's services.
pub(super) fn trunk(
    vpc: &NetNs,
    node: &NetNs,
    scenario: &Scenario,
    (mtu, queues): (u32, u16),
    folder: &Path,
) -> Result<(), LabError> {
    let object = folder.join("fabric.bpf.o");
    fs::write(&object, PROGRAM)
        .map_err(|source| LabError::io(format!("cannot write {}", object.display()), source))?;
    vpc.sysctl("net/ipv4/ip_forward", "1")?;
    vpc.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    for interface in ["all", "default"] {
        vpc.sysctl(&format!("net/ipv4/conf/{interface}/send_redirects"), "0")?;
    }
    for namespace in [vpc, node] {
        // The router has one link-local address, and host ends of veths have none, as the CNI makes them.
        namespace.sysctl("net/ipv6/conf/default/addr_gen_mode", "1")?;
    }
    vpc.ip(&format!(
        "link add name {FAR_END} index {TRUNK_INDEX} mtu {mtu} numtxqueues {queues} numrxqueues {queues} type veth \
         peer name {TRUNK_INTERFACE} mtu {mtu} numtxqueues {queues} numrxqueues {queues} netns {}",
        node.name()
    ))?;
    // XDP sees a tag only in the frame, and an ENA delivers complete checksums (ena_set_dev_offloads).
    vpc.offload(FAR_END, "tx off txvlan off rxvlan off")?;
    node.offload(TRUNK_INTERFACE, "txvlan off rxvlan off")?;
    attach_program(vpc, FAR_END, "from_trunk", folder)?;
    let subnet = subnet_of(scenario, &scenario.node.subnet)?;
    node.ip(&super::attach::inside(TRUNK_INTERFACE, subnet, &scenario.node.addresses))?;
    vpc.ip(&router_side(FAR_END, subnet, &scenario.node.addresses))?;
    vpc.sysctl(&format!("net/ipv4/conf/{FAR_END}/proxy_arp"), "1")?;
    services(vpc, scenario)
}

/// Makes the VPC's end of a pod's branch.
pub(super) fn branch(
    vpc: &NetNs,
    scenario: &Scenario,
    pod: usize,
    mtu: u32,
    folder: &Path,
) -> Result<(), LabError> {
    let Some(vlan) = scenario.vlan(pod) else { return Ok(()) };
    let subnet = subnet_of(scenario, &scenario.pods[pod].subnet)?;
    let (mouth, router) = (format!("br{vlan}"), format!("gw{vlan}"));
    let index = TRUNK_INDEX + u32::from(vlan.get());
    vpc.ip(&format!(
        "link add name {mouth} index {index} mtu {mtu} type veth \
         peer name {router} mtu {mtu} address {}",
        gateway_mac(scenario, subnet)
    ))?;
    // Whatever the mouth's own stack said would land on the router.
    vpc.sysctl(&format!("net/ipv6/conf/{mouth}/disable_ipv6"), "1")?;
    attach_program(vpc, &mouth, "to_trunk", folder)?;
    vpc.ip(&format!("link set {mouth} up\n{}", router_side(&router, subnet, &scenario.pods[pod].addresses)))?;
    Ok(())
}

/// What the router needs to serve addresses behind one of its interfaces: the gateway's own addresses, and a route
/// to each address, for one subnet may lie behind many interfaces.
pub(super) fn router_side(interface: &str, subnet: &Subnet, addresses: &[IpAddr]) -> String {
    let mut lines = format!("link set {interface} up\n");
    for cidr in &subnet.cidrs {
        let _ = match gateway(cidr) {
            Some(gateway) => writeln!(lines, "addr add {gateway}/32 dev {interface}"),
            None => writeln!(lines, "addr add {GATEWAY_V6}/64 dev {interface} nodad"),
        };
    }
    for address in addresses {
        let _ = writeln!(lines, "route add {} dev {interface}", IpNet::from(*address));
    }
    lines
}

/// The router's link-local address in every subnet.
pub(super) const GATEWAY_V6: &str = "fe80:ec2::1";

/// The IPv4 gateway of a subnet: its base plus one.
pub(super) fn gateway(cidr: &IpNet) -> Option<Ipv4Addr> {
    match cidr {
        IpNet::V4(net) => Some(Ipv4Addr::from(u32::from(net.network()).wrapping_add(1))),
        IpNet::V6(_) => None,
    }
}

pub(super) fn subnet_of<'a>(scenario: &'a Scenario, name: &str) -> Result<&'a Subnet, LabError> {
    let missing = || espalier_api::InputError::new("subnets", format!("{name:?} is missing"));
    Ok(scenario.subnet(name).ok_or_else(missing)?)
}

/// A VPC's router has one MAC address per subnet.
fn gateway_mac(scenario: &Scenario, subnet: &Subnet) -> String {
    let index = scenario.subnets.iter().position(|other| other.name == subnet.name).unwrap_or_default();
    format!("0a:e5:9a:00:00:{:02x}", (index + 1) & 0xff)
}

fn attach_program(vpc: &NetNs, interface: &str, section: &str, folder: &Path) -> Result<(), LabError> {
    vpc.tc(&format!("qdisc add dev {interface} clsact"))?;
    let object = folder.join("fabric.bpf.o");
    vpc.tc(&format!("filter add dev {interface} ingress bpf da obj {} sec tc/{section}", object.display()))?;
    Ok(())
}

/// The addresses of the resolver and the metadata service, and no way out: a VPC drops what it cannot route.
fn services(vpc: &NetNs, scenario: &Scenario) -> Result<(), LabError> {
    let mut lines = String::from("route add blackhole default metric 4096\n");
    let mut addresses = scenario.addresses(Endpoint::Resolver);
    addresses.extend(scenario.addresses(Endpoint::Imds));
    addresses.push(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253)));
    for address in addresses {
        let _ = writeln!(lines, "addr add {} dev lo", IpNet::from(address));
    }
    vpc.ip(&lines)?;
    Ok(())
}
