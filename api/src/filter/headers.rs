//! What the first bytes of a frame say, to the extent that filters ask: leniently, for malformed frames too.
//!
//! It reads what tcpdump's compiled filters read and no more: of IPv6's extension headers only a fragment header right
//! behind the fixed header, for the protocol but not for the ports. What is cut off is absent, and matches nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ARP, IPV4, IPV6, RARP, SCTP};
use crate::explain::QueryProtocol;
use crate::protocol::{TCP, UDP};

/// Headers of a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers {
    /// Type in the Ethernet header; 0 if it is cut off.
    pub ethertype: u16,
    /// Source and destination in the IP header, or the sender's and the target's in an ARP message.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Protocol in the IP header, and in IPv6 the one in a fragment header right behind.
    pub protocols: [Option<u8>; 2],
    /// Source and destination port (TCP, UDP, SCTP), but of later fragments.
    pub ports: Option<(u16, u16)>,
}

impl fmt::Display for Headers {
    /// Who to whom, or what kind of frame it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((source, destination)) = self.addresses else {
            return write!(f, "Ethernet type {:#06x}", self.ethertype);
        };
        match self.ports {
            Some((from, to)) => {
                write!(f, "{} > {} ", SocketAddr::new(source, from), SocketAddr::new(destination, to))?;
            }
            None => write!(f, "{source} > {destination} ")?,
        }
        match self.protocols[0] {
            Some(protocol) => write!(f, "{}", QueryProtocol(protocol)),
            None => f.write_str(if self.ethertype == RARP { "rarp" } else { "arp" }),
        }
    }
}

/// Lengths of headers.
const ETHERNET: usize = 14;
const IPV6_FIXED: usize = 40;
/// IPv6 next header: fragment (RFC 8200).
const FRAGMENT: u8 = 44;

impl Headers {
    /// Of a frame that begins with its Ethernet header, without VLAN tags.
    pub fn of(frame: &[u8]) -> Self {
        Self::behind(frame, 0)
    }

    /// Of a frame with so many bytes of VLAN tags behind its addresses, which are passed over.
    pub fn behind(frame: &[u8], tags: usize) -> Self {
        let ethertype = number(frame, tags + ETHERNET - 2).unwrap_or_default();
        let mut headers = Self { ethertype, ..Self::default() };
        let packet = frame.get(tags + ETHERNET..).unwrap_or_default();
        match headers.ethertype {
            IPV4 => headers.read_ipv4(packet),
            IPV6 => headers.read_ipv6(packet),
            ARP | RARP => headers.addresses = ipv4(packet, 14).zip(ipv4(packet, 24)),
            _ => {}
        }
        headers
    }

    /// As the first packet of a flow has them.
    pub fn of_flow(addresses: (IpAddr, IpAddr), protocol: u8, ports: Option<(u16, u16)>) -> Self {
        let ethertype = if addresses.0.is_ipv4() { IPV4 } else { IPV6 };
        Self { ethertype, addresses: Some(addresses), protocols: [Some(protocol), None], ports }
    }

    fn read_ipv4(&mut self, packet: &[u8]) {
        self.protocols[0] = packet.get(9).copied();
        self.addresses = ipv4(packet, 12).zip(ipv4(packet, 16));
        let first = number(packet, 6).is_some_and(|fragment| fragment & 0x1fff == 0);
        let header = packet.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
        if first && self.protocols[0].is_some_and(has_ports) {
            self.ports = number(packet, header).zip(number(packet, header + 2));
        }
    }

    fn read_ipv6(&mut self, packet: &[u8]) {
        let next = packet.get(6).copied();
        let behind = packet.get(IPV6_FIXED).copied().filter(|_| next == Some(FRAGMENT));
        self.protocols = [next, behind];
        self.addresses = ipv6(packet, 8).zip(ipv6(packet, 24));
        if next.is_some_and(has_ports) {
            self.ports = number(packet, IPV6_FIXED).zip(number(packet, IPV6_FIXED + 2));
        }
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..)?.first_chunk().copied()
}

fn number(packet: &[u8], at: usize) -> Option<u16> {
    bytes(packet, at).map(u16::from_be_bytes)
}

fn ipv4(packet: &[u8], at: usize) -> Option<IpAddr> {
    bytes::<4>(packet, at).map(|octets| Ipv4Addr::from(octets).into())
}

fn ipv6(packet: &[u8], at: usize) -> Option<IpAddr> {
    bytes::<16>(packet, at).map(|octets| Ipv6Addr::from(octets).into())
}
