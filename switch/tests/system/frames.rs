//! Frames built byte by byte, right ones and wrong ones, and put on a wire past the kernel's own stack.

use std::net::{Ipv4Addr, Ipv6Addr};

use espalier_lab::netns::NetNs;
use smoltcp::phy::{Device as _, Medium, RawSocket, TxToken as _};
use smoltcp::time::Instant;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// Sends frames out of an interface of the namespace.
pub(crate) fn inject<'a>(
    namespace: &NetNs,
    interface: &str,
    frames: impl IntoIterator<Item = &'a Vec<u8>> + Send,
) {
    let send = || {
        let mut socket = RawSocket::new(interface, Medium::Ethernet).unwrap();
        for frame in frames {
            let token = socket.transmit(Instant::ZERO).unwrap();
            token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
        }
    };
    namespace.run(send).unwrap();
}

/// An Ethernet frame.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// The frame with a tag behind its MAC addresses.
pub(crate) fn tagged(mut frame: Vec<u8>, ethertype: u16, vlan: u16) -> Vec<u8> {
    let tag = [ethertype.to_be_bytes(), vlan.to_be_bytes()].concat();
    frame.splice(12..12, tag);
    frame
}

/// An IPv4 packet, right unless a field is changed before [`V4::bytes`].
#[derive(Debug, Clone)]
pub(crate) struct V4 {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) options: Vec<u8>,
    /// Identification, offset in units of 8 bytes, whether more fragments follow.
    pub(crate) fragment: (u16, u16, bool),
    pub(crate) version: u8,
    /// Added to the header length, in words, and to the total length, in bytes.
    pub(crate) length_error: (i8, i16),
    pub(crate) checksum_error: u16,
    pub(crate) payload: Vec<u8>,
}

impl V4 {
    pub(crate) fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        let options = Vec::new();
        let fragment = (0, 0, false);
        Self {
            from,
            to,
            protocol,
            options,
            fragment,
            version: 4,
            length_error: (0, 0),
            checksum_error: 0,
            payload,
        }
    }

    pub(crate) fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Self {
        Self::new(from, to, UDP, udp(port, payload))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let words = (header_len / 4) as i8 + self.length_error.0;
        let total = ((header_len + self.payload.len()) as i16 + self.length_error.1) as u16;
        let (id, offset, more) = self.fragment;
        let mut header = vec![self.version << 4 | words as u8, 0];
        header.extend(total.to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend((u16::from(more) << 13 | offset).to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(self.from.octets());
        header.extend(self.to.octets());
        header.extend(&self.options);
        let checksum = checksum(&header) ^ self.checksum_error;
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header.extend(&self.payload);
        header
    }
}

/// An IPv6 packet whose payload, extension headers included, begins with protocol `next`.
pub(crate) fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum.
pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [4000u16, port, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    datagram
}

/// An ARP packet for IPv4 over Ethernet.
pub(crate) fn arp(operation: u16, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        packet.extend(mac);
        packet.extend(address.octets());
    }
    packet
}

/// An ICMPv6 message with its checksum.
pub(crate) fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(rest);
    let mut pseudo = [&from.octets()[..], &to.octets()].concat();
    pseudo.extend((message.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    let checksum = checksum(&pseudo);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
