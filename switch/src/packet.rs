//! What the step knows of a frame: addresses, ports, offsets. Made by `parse`, read by every stage.

use espalier_api::{Family, protocol};

use crate::ip::Ip;

mod parse;

pub use parse::{Bytes, Frame, parse};

const ETHERNET_HEADER: usize = 14;
pub(crate) const VLAN_TAG: usize = 4;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
/// Where a tag lies: behind the MAC addresses.
const TAG_AT: usize = 12;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// ARP; the responder's.
    Arp,
    /// An IPv4 or IPv6 packet.
    Ip(Packet),
}

/// The parts of an IP packet that decide its fate. Plain words: they are written once, each as it will be read, because a
/// load that spans several recent stores has to wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    source: [u64; 2],
    destination: [u64; 2],
    /// Offset of the first byte behind the IP packet (Ethernet padding is not part of it).
    pub end: u32,
    /// Offset of the IP header in the frame.
    pub l3: u16,
    /// Offset of the upper-layer header in the frame.
    pub l4: u16,
    /// Source and destination port; ICMP: type, code and identifier.
    selector: u32,
    fragment_id: u32,
    /// As IPv6 has it: the offset in bytes, whose lowest bits are zero, and in the lowest whether more follow.
    fragment_part: u16,
    /// Upper-layer protocol, after any extension headers.
    pub protocol: u8,
    tcp_flags: u8,
    family: Family,
}

/// The upper-layer fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The flag byte (FIN 1, SYN 2, RST 4, ACK 16).
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier, for messages that have one.
        id: u16,
    },
    /// Anything else, or a later fragment: the header is not looked at.
    Opaque,
}

/// Fragmentation state of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    None,
    /// One part of several.
    Part {
        /// Identification.
        id: u32,
        /// Offset of this part in bytes.
        offset: u16,
        /// Whether more parts follow.
        more: bool,
    },
}

impl Packet {
    const BLANK: Self = Self {
        source: [0; 2],
        destination: [0; 2],
        end: 0,
        l3: 0,
        l4: 0,
        selector: 0,
        fragment_id: 0,
        fragment_part: 0,
        protocol: 0,
        tcp_flags: 0,
        family: Family::V4,
    };

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ip {
        Ip { family: self.family, words: self.source }
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ip {
        Ip { family: self.family, words: self.destination }
    }

    /// The flag byte of TCP, 0 for anything else.
    #[inline]
    pub fn tcp_flags(&self) -> u8 {
        self.tcp_flags
    }

    /// What the upper-layer header says.
    #[inline]
    pub fn upper(&self) -> Upper {
        let (first, second) = ((self.selector >> 16) as u16, self.selector as u16);
        match self.protocol {
            _ if is_later(self.fragment_part) => Upper::Opaque,
            protocol::TCP => Upper::Tcp { source: first, destination: second, flags: self.tcp_flags },
            protocol::UDP => Upper::Udp { source: first, destination: second },
            protocol::ICMP | protocol::ICMPV6 => {
                let [kind, code] = first.to_be_bytes();
                Upper::Icmp { kind, code, id: second }
            }
            _ => Upper::Opaque,
        }
    }

    /// Whether, and which part of, a fragmented packet this is.
    #[inline]
    pub fn fragment(&self) -> Fragment {
        match self.fragment_part {
            0 => Fragment::None,
            part => Fragment::Part { id: self.fragment_id, offset: part & !7, more: part & 1 != 0 },
        }
    }

    /// Whether the frame carries the tag that the steering program wrote.
    pub fn is_tagged(&self) -> bool {
        usize::from(self.l3) == ETHERNET_HEADER + VLAN_TAG
    }

    /// Bytes from the upper-layer header to the end of the packet.
    pub fn l4_len(&self) -> usize {
        self.end as usize - usize::from(self.l4)
    }

    /// Neighbour and router discovery (RFC 4861): link-local business between the pod and the switch.
    pub fn is_neighbour_discovery(&self) -> bool {
        self.protocol == protocol::ICMPV6 && matches!(self.upper(), Upper::Icmp { kind: 133..=137, .. })
    }
}

/// Whether a tag follows the MAC addresses. The first tag of a frame that a pod sent is the steering program's.
#[inline]
pub fn has_tag(frame: &[u8]) -> bool {
    array(frame, TAG_AT) == Some(ETHERTYPE_VLAN.to_be_bytes())
}

/// Writes a tag into a frame, as the steering program does; a frame without a whole Ethernet header stays as it is.
pub(crate) fn put_tag(frame: &mut Vec<u8>, vlan: u16) {
    if frame.len() >= ETHERNET_HEADER {
        let tag = [ETHERTYPE_VLAN.to_be_bytes(), vlan.to_be_bytes()].concat();
        frame.splice(TAG_AT..TAG_AT, tag);
    }
}

/// A frame without the first bytes behind its MAC addresses.
pub(crate) fn without_tag(frame: &[u8], tag: usize) -> Vec<u8> {
    match frame.split_at_checked(TAG_AT) {
        Some((macs, rest)) => [macs, rest.get(tag..).unwrap_or_default()].concat(),
        None => frame.to_vec(),
    }
}

#[inline]
fn is_later(fragment_part: u16) -> bool {
    fragment_part >= 8
}

/// `N` bytes of `bytes` from `at`, if they are there.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
