//! Wires pods to the node as the AWS CNI does, and hosts to the VPC's router.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::PodWiring;
use super::fabric::{GATEWAY_V6, gateway, router_side, subnet_of};
use crate::LabError;
use crate::netns::NetNs;
use crate::scenario::{Scenario, Subnet};

/// Frames a pod may have waiting while its veth ring is full, instead of losing them (veth_xmit, NETDEV_TX_BUSY).
const POD_QUEUE: u32 = 1000;

/// Makes the pod's veth: `eth0` inside with host routes only, the other end in the node's namespace.
pub(super) fn pod(
    node: &NetNs,
    pod: &NetNs,
    scenario: &Scenario,
    index: usize,
    mtu: u32,
    wiring: PodWiring,
) -> Result<(), LabError> {
    let veth = scenario.host_veth(index);
    node.ip(&format!(
        "link add name {veth} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\nlink set {veth} up",
        pod.name()
    ))?;
    let mut lines = String::from("link set eth0 up\n");
    let addresses = &scenario.pods[index].addresses;
    for address in addresses {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        let _ = writeln!(lines, "addr add {} dev eth0{nodad}", IpNet::from(*address));
    }
    for (is_v6, gateway, any) in [(false, "169.254.1.1", "default"), (true, "fe80::1", "::/0")] {
        if !addresses.iter().any(|address| address.is_ipv6() == is_v6) {
            continue;
        }
        if !is_v6 {
            let _ = writeln!(lines, "route add {gateway} dev eth0 scope link");
        }
        let _ = writeln!(lines, "route add {any} via {gateway} dev eth0");
        if wiring.static_neighbours {
            let mac = mac_of(node, &veth)?;
            let _ = writeln!(lines, "neigh add {gateway} lladdr {mac} dev eth0 nud permanent");
        }
    }
    pod.ip(&lines)?;
    pod.tc(&format!("qdisc add dev eth0 root pfifo limit {POD_QUEUE}"))?;
    Ok(())
}

/// Makes a host's link to the router.
pub(super) fn host(
    vpc: &NetNs,
    host: &NetNs,
    scenario: &Scenario,
    index: usize,
    mtu: u32,
) -> Result<(), LabError> {
    let spec = &scenario.hosts[index];
    let subnet = subnet_of(scenario, &spec.subnet)?;
    let mtu = spec.mtu.unwrap_or(mtu);
    let link = format!("host{index}");
    vpc.ip(&format!(
        "link add name {link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n{}",
        host.name(),
        router_side(&link, subnet, &spec.addresses)
    ))?;
    // The VPC answers ARP for every address of a subnet, wherever it is.
    vpc.sysctl(&format!("net/ipv4/conf/{link}/proxy_arp"), "1")?;
    host.ip(&inside("eth0", subnet, &spec.addresses))?;
    Ok(())
}

/// An instance's own end: its subnet on link over IPv4, everything through the router over IPv6.
pub(super) fn inside(interface: &str, subnet: &Subnet, addresses: &[IpAddr]) -> String {
    let mut lines = format!("link set {interface} up\n");
    for cidr in &subnet.cidrs {
        let mut own = addresses.iter().filter(|address| cidr.contains(*address)).peekable();
        if own.peek().is_none() {
            continue;
        }
        let prefix = if gateway(cidr).is_some() { cidr.prefix_len() } else { 128 };
        let nodad = if gateway(cidr).is_some() { "" } else { " nodad" };
        for address in own {
            let _ = writeln!(lines, "addr add {address}/{prefix} dev {interface}{nodad}");
        }
        let _ = match gateway(cidr) {
            Some(gateway) => writeln!(lines, "route add default via {gateway} dev {interface}"),
            None => writeln!(lines, "route add ::/0 via {GATEWAY_V6} dev {interface}"),
        };
    }
    lines
}

fn mac_of(namespace: &NetNs, interface: &str) -> Result<String, LabError> {
    let shown = namespace.ip_show(&format!("-o link show dev {interface}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    let missing = || LabError::Unexpected(format!("{interface} has no link/ether address: {shown}"));
    words.nth(1).map(str::to_owned).ok_or_else(missing)
}
