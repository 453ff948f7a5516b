//! The services that security groups do not filter: DNS, DHCP, metadata, time, credentials, activation, the router.
//!
//! Source: VPC user guide, "Control traffic to your AWS resources using security groups" and "Subnet CIDR reservations";
//! addresses from the EC2 and EKS user guides. `vpc.unfiltered` of a snapshot replaces the list, router included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::{Pod, Snapshot, Unfiltered, protocol};
use ipnet::IpNet;

use crate::engine::ServiceRef;
use crate::tuple::Tuple;

/// The list in force. Matches both ways: to the service's port, and from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Services {
    list: Vec<Unfiltered>,
}

impl Services {
    /// The list a snapshot asks for: its own, or the built-in one with the routers of its pods' subnets.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut list = match &snapshot.vpc.unfiltered {
            Some(list) => list.clone(),
            None => built_in(snapshot),
        };
        list.truncate(usize::from(u16::MAX));
        Self { list }
    }

    /// The service.
    pub fn get(&self, service: ServiceRef) -> Option<&Unfiltered> {
        self.list.get(service.index())
    }

    /// The first service the packet belongs to.
    pub fn find(&self, packet: &Tuple) -> Option<ServiceRef> {
        let position = self.list.iter().position(|service| matches(service, packet))?;
        u16::try_from(position).ok().map(ServiceRef)
    }

    /// All of them.
    pub fn list(&self) -> &[Unfiltered] {
        &self.list
    }
}

/// Whether `packet` goes to `service` or comes from it.
pub(crate) fn matches(service: &Unfiltered, packet: &Tuple) -> bool {
    service.address == packet.remote
        && service.protocol.is_none_or(|protocol| protocol == packet.protocol)
        && service.port.is_none_or(|port| port == packet.remote_port)
}

fn built_in(snapshot: &Snapshot) -> Vec<Unfiltered> {
    let mut list = Vec::new();
    let resolver = snapshot.vpc.cidrs.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(Ipv4Addr::from(u32::from(net.network()).wrapping_add(2))),
        IpNet::V6(_) => None,
    });
    for address in resolver.map(IpAddr::V4).into_iter().chain([link_local(253), ec2_local(0x253)]) {
        list.push(service("amazon-dns", address, protocol::UDP, 53));
        list.push(service("amazon-dns", address, protocol::TCP, 53));
    }
    for address in [link_local(254), ec2_local(0x254)] {
        list.push(service("instance-metadata", address, protocol::TCP, 80));
    }
    for address in [link_local(123), ec2_local(0x123)] {
        list.push(service("time-sync", address, protocol::UDP, 123));
    }
    list.push(service("ecs-task-metadata", Ipv4Addr::new(169, 254, 170, 2).into(), protocol::TCP, 80));
    for address in [Ipv4Addr::new(169, 254, 170, 23).into(), ec2_local(0x23)] {
        list.push(service("pod-identity", address, protocol::TCP, 80));
    }
    for last in [250, 251] {
        list.push(service("windows-activation", link_local(last), protocol::TCP, 1688));
    }
    // The server behind these is the router, whose answers come from one of its own addresses below.
    list.push(service("dhcp", Ipv4Addr::BROADCAST.into(), protocol::UDP, 67));
    list.push(service("dhcp", Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2).into(), protocol::UDP, 547));
    let mut routers: Vec<IpAddr> = snapshot.pods.iter().flat_map(routers).collect();
    routers.sort_unstable();
    routers.dedup();
    list.extend(routers.into_iter().map(|address| Unfiltered {
        name: "vpc-router".into(),
        address,
        protocol: None,
        port: None,
    }));
    list
}

/// The reserved addresses of the router of a pod's subnets: base plus one in each, and the link-local ones.
fn routers(pod: &Pod) -> Vec<IpAddr> {
    let mut routers = vec![IpAddr::V6(pod.gateway_v6())];
    routers.extend(pod.gateway_v4().map(IpAddr::V4));
    routers.extend(pod.subnets.iter().map(|subnet| match subnet {
        IpNet::V4(net) => IpAddr::V4(u32::from(net.network()).wrapping_add(1).into()),
        IpNet::V6(net) => IpAddr::V6(u128::from(net.network()).wrapping_add(1).into()),
    }));
    routers.extend(pod.gateway.mac.map(|mac| IpAddr::V6(mac.link_local())));
    routers
}

fn link_local(last: u8) -> IpAddr {
    Ipv4Addr::new(169, 254, 169, last).into()
}

fn ec2_local(last: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last).into()
}

fn service(name: &str, address: IpAddr, protocol: u8, port: u16) -> Unfiltered {
    Unfiltered { name: name.into(), address, protocol: Some(protocol), port: Some(port) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;
    use espalier_api::Direction::{self, Egress, Ingress};

    fn name(services: &Services, packet: Tuple) -> Option<&str> {
        services.find(&packet).map(|service| services.get(service).unwrap().name.as_str())
    }

    fn ports(direction: Direction, remote: &str, protocol: u8, source: u16, destination: u16) -> Tuple {
        Tuple::with_ports(direction, remote.parse().unwrap(), protocol, source, destination)
    }

    #[test]
    fn both_directions_match_on_the_services_port() {
        let services = Services::new(&snapshot(""));
        for resolver in ["10.0.0.2", "169.254.169.253", "fd00:ec2::253"] {
            for protocol in [protocol::TCP, protocol::UDP] {
                let to = ports(Egress, resolver, protocol, 40000, 53);
                assert_eq!(name(&services, to), Some("amazon-dns"), "{resolver}");
                let from = ports(Ingress, resolver, protocol, 53, 40000);
                assert_eq!(name(&services, from), Some("amazon-dns"), "{resolver}");
                assert_eq!(name(&services, ports(Ingress, resolver, protocol, 40000, 53)), None);
                assert_eq!(name(&services, ports(Egress, resolver, protocol, 53, 54)), None);
            }
        }
    }

    #[test]
    fn each_service_is_known_and_near_misses_are_not() {
        let services = Services::new(&snapshot(""));
        for (remote, protocol, port, wanted) in [
            ("169.254.169.254", 6, 80, Some("instance-metadata")),
            ("fd00:ec2::254", 6, 80, Some("instance-metadata")),
            ("169.254.169.254", 17, 80, None),
            ("169.254.169.123", 17, 123, Some("time-sync")),
            ("169.254.170.2", 6, 80, Some("ecs-task-metadata")),
            ("169.254.170.23", 6, 80, Some("pod-identity")),
            ("fd00:ec2::23", 6, 80, Some("pod-identity")),
            ("169.254.169.251", 6, 1688, Some("windows-activation")),
            ("255.255.255.255", 17, 67, Some("dhcp")),
            ("10.0.1.1", 6, 4444, Some("vpc-router")),
            ("fe80:ec2::1", 17, 4444, Some("vpc-router")),
            ("10.0.0.3", 17, 53, None),
            ("10.0.1.2", 6, 4444, None),
        ] {
            assert_eq!(name(&services, ports(Egress, remote, protocol, 40000, port)), wanted, "{remote}");
        }
    }

    #[test]
    fn a_snapshots_list_replaces_the_built_in_one() {
        let mut snapshot = snapshot("");
        snapshot.vpc.unfiltered = Some(vec![]);
        assert_eq!(name(&Services::new(&snapshot), ports(Egress, "169.254.169.253", 17, 1, 53)), None);
    }
}
