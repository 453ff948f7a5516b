//! Building frames: one flow's headers, a stamp's place and zeros, with every checksum right.
//!
//! Called once for each template of a plan. The stamp is left zero: since stamps sum to zero, the checksums made here
//! hold for every stamp that is written later.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use espalier_xsk::LiveTemplate;
use etherparse::{PacketBuilder, PacketBuilderStep, VlanHeader, VlanId};

use crate::stamp::STAMP_LEN;

/// Hops a frame may take: what Linux sends.
const TTL: u8 = 64;

/// The window of TCP frames.
const WINDOW: u16 = 0xffff;

/// The longest frame: a 9001-byte VPC packet with its Ethernet header and a tag.
pub const MAX_LEN: u16 = 9019;

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP segments, with the flags of [`Headers::tcp_syn`].
    Tcp,
    /// Echo requests, of ICMP or ICMPv6 as the addresses have it.
    Icmp,
}

/// One flow's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Headers {
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// The 802.1Q VLAN id, if tagged.
    pub vlan: Option<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// Source port; the identifier of echo requests.
    pub source_port: u16,
    /// Destination port; not in echo requests.
    pub destination_port: u16,
    /// TCP segments are SYNs instead of ACKs.
    pub tcp_syn: bool,
}

/// A frame could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is too short for its headers and the stamp.
    #[error("{length} bytes are too few for {what} frames with their stamp: use at least {least}")]
    TooShort {
        /// The length asked for.
        length: u16,
        /// The frame.
        what: String,
        /// The least length.
        least: u16,
    },
    /// The frame is longer than any supported MTU.
    #[error("{0} bytes are more than a frame can have: use at most {MAX_LEN}")]
    TooLong(u16),
    /// The headers do not go together.
    #[error("cannot build a frame from {from} to {to}: {reason}")]
    Headers {
        /// Source address.
        from: IpAddr,
        /// Destination address.
        to: IpAddr,
        /// Why.
        reason: String,
    },
}

impl Headers {
    /// Bytes of the headers: where the stamp begins.
    #[must_use]
    pub fn bytes(&self) -> u16 {
        let ip = if self.source.is_ipv4() { 20 } else { 40 };
        let transport = if self.protocol == Protocol::Tcp { 20 } else { 8 };
        14 + if self.vlan.is_some() { 4 } else { 0 } + ip + transport
    }

    /// Bytes of the shortest frame: headers and stamp.
    #[must_use]
    pub fn least(&self) -> u16 {
        self.bytes() + STAMP_LEN as u16
    }

    /// The whole frame of `length` bytes, counted from the Ethernet header, the FCS not included.
    pub fn build(&self, length: u16) -> Result<Vec<u8>, FrameError> {
        if length < self.least() {
            let family = if self.source.is_ipv4() { "IPv4" } else { "IPv6" };
            let tag = if self.vlan.is_some() { "tagged " } else { "" };
            let what = format!("{tag}{family} {}", self.protocol);
            return Err(FrameError::TooShort { length, what, least: self.least() });
        }
        if length > MAX_LEN {
            return Err(FrameError::TooLong(length));
        }
        let payload = vec![0; usize::from(length - self.bytes())];
        let mut frame = Vec::with_capacity(usize::from(length));
        self.write(&mut frame, &payload).map_err(|reason| self.refused(reason))?;
        Ok(frame)
    }

    /// The frame as a template for the engines.
    pub fn template(&self, length: u16, flow: u32) -> Result<LiveTemplate, FrameError> {
        let frame = self.build(length)?;
        let mut head = [0; LiveTemplate::HEAD];
        let held = frame.len().min(head.len());
        head[..held].copy_from_slice(&frame[..held]);
        Ok(LiveTemplate { head, length, stamp: self.bytes(), flow })
    }

    fn write(&self, frame: &mut Vec<u8>, payload: &[u8]) -> Result<(), String> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let (source, destination) = (self.source, self.destination);
        let ip = match (source, destination, self.vlan) {
            (IpAddr::V4(from), IpAddr::V4(to), None) => ethernet.ipv4(from.octets(), to.octets(), TTL),
            (IpAddr::V6(from), IpAddr::V6(to), None) => ethernet.ipv6(from.octets(), to.octets(), TTL),
            (IpAddr::V4(from), IpAddr::V4(to), Some(vlan)) => {
                tagged(ethernet, vlan)?.ipv4(from.octets(), to.octets(), TTL)
            }
            (IpAddr::V6(from), IpAddr::V6(to), Some(vlan)) => {
                tagged(ethernet, vlan)?.ipv6(from.octets(), to.octets(), TTL)
            }
            _ => return Err("one is IPv4, the other IPv6: give both ends the same family".to_owned()),
        };
        let (from, to) = (self.source_port, self.destination_port);
        let written = match self.protocol {
            Protocol::Udp => ip.udp(from, to).write(frame, payload),
            Protocol::Tcp if self.tcp_syn => ip.tcp(from, to, 1, WINDOW).syn().write(frame, payload),
            Protocol::Tcp => ip.tcp(from, to, 1, WINDOW).ack(1).write(frame, payload),
            Protocol::Icmp if source.is_ipv4() => ip.icmpv4_echo_request(from, 0).write(frame, payload),
            Protocol::Icmp => ip.icmpv6_echo_request(from, 0).write(frame, payload),
        };
        written.map_err(|error| error.to_string())
    }

    fn refused(&self, reason: String) -> FrameError {
        FrameError::Headers { from: self.source, to: self.destination, reason }
    }
}

fn tagged(
    ethernet: PacketBuilderStep<etherparse::Ethernet2Header>,
    vlan: u16,
) -> Result<PacketBuilderStep<VlanHeader>, String> {
    let id = VlanId::try_new(vlan).map_err(|_| format!("VLAN {vlan} does not exist: use 1 to 4094"))?;
    Ok(ethernet.single_vlan(id))
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Icmp => "ICMP",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "udp" => Ok(Self::Udp),
            "tcp" => Ok(Self::Tcp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(format!("{text:?} is no protocol: use udp, tcp or icmp")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::stamp::{Run, Stamp};
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    pub(crate) fn headers(protocol: Protocol, v6: bool, vlan: Option<u16>) -> Headers {
        let address = |last: u16| match v6 {
            true => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]),
            false => IpAddr::from([10, 0, 0, last as u8]),
        };
        Headers {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            vlan,
            source: address(1),
            destination: address(2),
            protocol,
            source_port: 4000,
            destination_port: 5000,
            tcp_syn: false,
        }
    }

    pub(crate) fn every_kind() -> impl Iterator<Item = Headers> {
        [Protocol::Udp, Protocol::Tcp, Protocol::Icmp].into_iter().flat_map(|protocol| {
            [false, true]
                .into_iter()
                .flat_map(move |v6| [None, Some(101)].map(|vlan| headers(protocol, v6, vlan)))
        })
    }

    #[test]
    fn every_kind_has_right_checksums_before_and_after_the_stamp() {
        for headers in every_kind() {
            for length in [headers.least(), headers.least() + 1, 256, 1514, MAX_LEN] {
                let mut frame = headers.build(length).unwrap();
                assert_eq!(frame.len(), usize::from(length));
                check(&frame);
                let stamp = Stamp { run: Run(9), flow: 77, sequence: 0x12_3456_789a, time: 0xff_0000_1234 };
                let at = usize::from(headers.bytes());
                frame[at..at + STAMP_LEN].copy_from_slice(&stamp.to_bytes());
                check(&frame);
            }
        }
    }

    pub(crate) fn check(frame: &[u8]) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let net = packet.net.unwrap();
        let (v4, v6) = match &net {
            NetSlice::Ipv4(ip) => (Some(ip.header().to_header()), None),
            NetSlice::Ipv6(ip) => (None, Some(ip.header().to_header())),
            other => panic!("{other:?}"),
        };
        if let Some(header) = &v4 {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        match packet.transport.unwrap() {
            TransportSlice::Udp(udp) => {
                let (header, payload) = (udp.to_header(), udp.payload());
                let right = match (&v4, &v6) {
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, payload),
                    (_, Some(ip)) => header.calc_checksum_ipv6(ip, payload),
                    _ => unreachable!(),
                };
                assert_eq!(header.checksum, right.unwrap());
            }
            TransportSlice::Tcp(tcp) => {
                let (header, payload) = (tcp.to_header(), tcp.payload());
                let right = match (&v4, &v6) {
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, payload),
                    (_, Some(ip)) => header.calc_checksum_ipv6(ip, payload),
                    _ => unreachable!(),
                };
                assert_eq!(header.checksum, right.unwrap());
                assert!(header.ack && !header.syn);
            }
            TransportSlice::Icmpv4(icmp) => {
                let header = icmp.header();
                assert_eq!(header.checksum, header.icmp_type.calc_checksum(icmp.payload()));
            }
            TransportSlice::Icmpv6(icmp) => {
                let ip = v6.unwrap();
                assert!(icmp.is_checksum_valid(ip.source, ip.destination));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_frames_are_as_documented() {
        let least = |protocol, v6, vlan| headers(protocol, v6, vlan).least();
        assert_eq!(least(Protocol::Udp, false, None), 60);
        assert_eq!(least(Protocol::Udp, false, Some(1)), 64);
        assert_eq!(least(Protocol::Tcp, true, Some(1)), 96);
        let short = headers(Protocol::Tcp, false, None).build(64).unwrap_err();
        assert_eq!(
            short.to_string(),
            "64 bytes are too few for IPv4 TCP frames with their stamp: use at least 72"
        );
    }

    #[test]
    fn families_do_not_mix_and_vlans_have_a_range() {
        let mut mixed = headers(Protocol::Udp, false, None);
        mixed.destination = "fd00::1".parse().unwrap();
        assert!(matches!(mixed.build(100), Err(FrameError::Headers { .. })));
        let error = headers(Protocol::Udp, false, Some(5000)).build(100).unwrap_err().to_string();
        assert!(error.contains("VLAN 5000"), "{error}");
    }
}
