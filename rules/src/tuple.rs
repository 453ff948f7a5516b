//! The parts of a packet that security groups look at, as the switch hands them to an [`Engine`](crate::Engine).
//!
//! Built once per packet: plain stores, no allocation, 24 bytes.

use std::net::IpAddr;

use espalier_api::Direction;

/// One packet, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub(crate) remote: IpAddr,
    /// What rules select on: the destination port (TCP, UDP), or type and code as one big-endian number (ICMP).
    pub(crate) selector: u16,
    pub(crate) remote_port: u16,
    pub(crate) protocol: u8,
    pub(crate) direction: Direction,
}

impl Tuple {
    /// A TCP or UDP packet with the ports of its header.
    pub fn with_ports(
        direction: Direction,
        remote: IpAddr,
        protocol: u8,
        source: u16,
        destination: u16,
    ) -> Self {
        let remote_port = match direction {
            Direction::Ingress => source,
            Direction::Egress => destination,
        };
        Self { remote, selector: destination, remote_port, protocol, direction }
    }

    /// An ICMP or ICMPv6 message.
    pub fn icmp(direction: Direction, remote: IpAddr, protocol: u8, icmp_type: u8, code: u8) -> Self {
        Self { remote, selector: icmp_selector(icmp_type, code), remote_port: 0, protocol, direction }
    }

    /// A packet of any other protocol.
    pub fn bare(direction: Direction, remote: IpAddr, protocol: u8) -> Self {
        Self { remote, selector: 0, remote_port: 0, protocol, direction }
    }

    /// The other end.
    pub fn remote(&self) -> IpAddr {
        self.remote
    }

    /// Towards the pod or from it.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }
}

/// Type and code as one number, so that a type with all codes is a range.
pub(crate) fn icmp_selector(icmp_type: u8, code: u8) -> u16 {
    u16::from_be_bytes([icmp_type, code])
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_api::protocol;

    #[test]
    fn the_remote_port_is_the_other_ends() {
        let remote = "10.0.0.1".parse().unwrap();
        let to_pod = Tuple::with_ports(Direction::Ingress, remote, protocol::UDP, 53, 40000);
        assert_eq!((to_pod.selector, to_pod.remote_port), (40000, 53));
        let from_pod = Tuple::with_ports(Direction::Egress, remote, protocol::UDP, 40000, 53);
        assert_eq!((from_pod.selector, from_pod.remote_port), (53, 53));
    }

    #[test]
    fn it_stays_small() {
        assert!(size_of::<Tuple>() <= 24);
    }
}
