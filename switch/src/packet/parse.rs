//! Parses one frame into what the rest of the step needs. Copies nothing.
//!
//! Called once per packet with the head segment (the first 3840 bytes or all of it), so every header must lie there.
//! Hostile input ends in a [`DropReason`], never in a panic or a guess: lengths are checked against the frame before
//! they are believed.

use espalier_api::{Family, protocol};

use super::{ETHERNET_HEADER, ETHERTYPE_VLAN, Packet, Parsed, VLAN_TAG, array, is_later};
use crate::ip;
use crate::reason::DropReason;

/// The first byte of an IPv4 header without options.
const VERSION_4_PLAIN: u8 = 0x45;
const IPV6_HEADER: usize = 40;
/// More extension headers than any sane packet has; a longer chain is refused.
const MAX_EXTENSIONS: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// A frame's first bytes, among which all headers lie, and the length of all of it.
pub type Bytes<'a> = (&'a [u8], usize);

/// A frame to be parsed.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its first bytes.
    pub head: &'a [u8],
    total: usize,
    /// Whether it carries the tag that the steering program wrote; any other tag is the sender's own and is refused.
    pub tagged: bool,
    ethertype: Option<u16>,
}

impl<'a> Frame<'a> {
    /// A frame of these bytes.
    #[inline(always)]
    pub fn new((head, total): Bytes<'a>, tagged: bool) -> Self {
        let ethertype = array(head, network_header(tagged) - 2).map(u16::from_be_bytes);
        Self { head, total, tagged, ethertype }
    }

    /// The frame, if it is one of IPv4. What is inlined behind this knows the family.
    #[inline(always)]
    pub fn ipv4(self) -> Option<Self> {
        let ipv4 = Some(ETHERTYPE_IPV4);
        (self.ethertype == ipv4).then_some(Self { ethertype: ipv4, ..self })
    }

    /// Parses it.
    #[inline(always)]
    pub fn parse(self) -> Result<Parsed, DropReason> {
        let l3 = network_header(self.tagged);
        match self.ethertype.ok_or(DropReason::FrameTooShort)? {
            ETHERTYPE_IPV4 => ipv4(self.head, l3, self.total).map(Parsed::Ip),
            ETHERTYPE_IPV6 => ipv6(self.head, l3, self.total).map(Parsed::Ip),
            ETHERTYPE_ARP => Ok(Parsed::Arp),
            ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(DropReason::VlanTagFromSender),
            _ => Err(DropReason::EthertypeUnknown),
        }
    }
}

/// Where the network header lies.
fn network_header(tagged: bool) -> usize {
    if tagged { ETHERNET_HEADER + VLAN_TAG } else { ETHERNET_HEADER }
}

/// Parses a frame, see [`Frame`].
pub fn parse(head: &[u8], total: usize, tagged: bool) -> Result<Parsed, DropReason> {
    Frame::new((head, total), tagged).parse()
}

#[inline(always)]
fn ipv4(head: &[u8], l3: usize, total: usize) -> Result<Packet, DropReason> {
    let header: [u8; 20] = array(head, l3).ok_or(DropReason::Ipv4HeaderInvalid)?;
    let header_len = match header[0] {
        VERSION_4_PLAIN => 20,
        other => with_options(other)?,
    };
    let packet_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if packet_len < header_len || l3 + packet_len > total {
        return Err(DropReason::Ipv4HeaderInvalid);
    }
    if header_len == 20 {
        if !crate::checksum::verifies(&header) {
            return Err(DropReason::Ipv4ChecksumInvalid);
        }
    } else {
        let whole = head.get(l3..l3 + header_len).ok_or(DropReason::Ipv4HeaderInvalid)?;
        verify_with_options(whole)?;
    }
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let address = |at: usize| {
        [0, u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]).into()]
    };
    finish(
        head,
        Packet {
            source: address(12),
            destination: address(16),
            end: (l3 + packet_len) as u32,
            l3: l3 as u16,
            l4: (l3 + header_len) as u16,
            fragment_id: u16::from_be_bytes([header[4], header[5]]).into(),
            fragment_part: flags << 3 | (flags >> 13 & 1),
            protocol: header[9],
            family: Family::V4,
            ..Packet::BLANK
        },
    )
}

/// The length of a header with options, from its first byte.
#[cold]
fn with_options(version_and_length: u8) -> Result<usize, DropReason> {
    let header_len = usize::from(version_and_length & 0x0f) * 4;
    let valid = version_and_length >> 4 == 4 && header_len >= 20;
    if valid { Ok(header_len) } else { Err(DropReason::Ipv4HeaderInvalid) }
}

#[cold]
fn verify_with_options(header: &[u8]) -> Result<(), DropReason> {
    if !crate::checksum::verifies(header) {
        return Err(DropReason::Ipv4ChecksumInvalid);
    }
    refuse_source_route(&header[20..])
}

/// Loose and strict source routes (RFC 791) choose hops past the switch's decision; other options are harmless.
fn refuse_source_route(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END => return Ok(()),
            NOP => options = rest,
            LOOSE | STRICT => return Err(DropReason::SourceRoute),
            _ => {
                let len = usize::from(*rest.first().ok_or(DropReason::Ipv4OptionsInvalid)?);
                if len < 2 {
                    return Err(DropReason::Ipv4OptionsInvalid);
                }
                options = options.get(len..).ok_or(DropReason::Ipv4OptionsInvalid)?;
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn ipv6(head: &[u8], l3: usize, total: usize) -> Result<Packet, DropReason> {
    let header: [u8; IPV6_HEADER] = array(head, l3).ok_or(DropReason::Ipv6HeaderInvalid)?;
    let end = l3 + IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || end > total {
        return Err(DropReason::Ipv6HeaderInvalid);
    }
    let address = |at: usize| ip::words(u128::from_be_bytes(array(&header, at).unwrap_or_default()));
    let chain = match header[6] {
        // Nearly always there is none.
        protocol @ (protocol::TCP | protocol::UDP) => {
            Chain { protocol, l4: l3 + IPV6_HEADER, fragment_id: 0, fragment_part: 0 }
        }
        next => extensions(head, l3 + IPV6_HEADER, end, next)?,
    };
    finish(
        head,
        Packet {
            source: address(8),
            destination: address(24),
            end: end as u32,
            l3: l3 as u16,
            l4: chain.l4 as u16,
            fragment_id: chain.fragment_id,
            fragment_part: chain.fragment_part,
            protocol: chain.protocol,
            family: Family::V6,
            ..Packet::BLANK
        },
    )
}

struct Chain {
    protocol: u8,
    l4: usize,
    fragment_id: u32,
    fragment_part: u16,
}

/// Walks the extension headers (RFC 8200 section 4) to the upper layer.
fn extensions(head: &[u8], mut at: usize, end: usize, mut next: u8) -> Result<Chain, DropReason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    let (mut fragment_id, mut fragment_part) = (0, 0);
    for index in 0..=MAX_EXTENSIONS {
        let known = matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY);
        if !known || is_later(fragment_part) {
            return Ok(Chain { protocol: next, l4: at, fragment_id, fragment_part });
        }
        let header: [u8; 8] = array(head, at).ok_or(DropReason::Ipv6ExtensionsInvalid)?;
        let len = match next {
            HOP_BY_HOP if index > 0 => return Err(DropReason::Ipv6ExtensionsInvalid),
            ROUTING if header[2] == 0 => return Err(DropReason::SourceRoute),
            FRAGMENT if fragment_part != 0 => return Err(DropReason::Ipv6ExtensionsInvalid),
            FRAGMENT => {
                fragment_id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                // An atomic fragment (RFC 6946), with neither offset nor more to follow, is a whole packet.
                fragment_part = u16::from_be_bytes([header[2], header[3]]) & 0xfff9;
                8
            }
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        next = header[0];
        at += len;
        if at > end {
            return Err(DropReason::Ipv6ExtensionsInvalid);
        }
    }
    Err(DropReason::Ipv6ExtensionsInvalid)
}

/// Reads the upper-layer header, which must be whole unless this is a later fragment.
#[inline(always)]
fn finish(head: &[u8], mut packet: Packet) -> Result<Packet, DropReason> {
    if is_later(packet.fragment_part) {
        return Ok(packet);
    }
    let l4 = usize::from(packet.l4);
    let whole = &head[..head.len().min(packet.end as usize)];
    match packet.protocol {
        protocol::TCP => {
            let header: [u8; 20] = array(whole, l4).ok_or(DropReason::TcpHeaderInvalid)?;
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < 20 || l4 + header_len > whole.len() {
                return Err(DropReason::TcpHeaderInvalid);
            }
            packet.tcp_flags = header[13];
            packet.selector = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        }
        protocol::UDP => {
            let header: [u8; 8] = array(whole, l4).ok_or(DropReason::UdpHeaderInvalid)?;
            packet.selector = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header: [u8; 8] = array(whole, l4).ok_or(DropReason::IcmpHeaderInvalid)?;
            packet.selector = u32::from_be_bytes([header[0], header[1], header[4], header[5]]);
        }
        _ => {}
    }
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Fragment, Upper};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn tcp_frame() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 443, 1, 100)
            .syn()
            .write(&mut frame, b"hello")
            .unwrap();
        frame
    }

    fn ip(frame: &[u8]) -> Result<Packet, DropReason> {
        match parse(frame, frame.len(), false)? {
            Parsed::Ip(packet) => Ok(packet),
            Parsed::Arp => panic!("not ARP"),
        }
    }

    /// Rewrites the IPv4 header checksum after a test changed the header.
    fn resum(frame: &mut [u8]) {
        let len = usize::from(frame[14] & 0x0f) * 4;
        frame[24..26].fill(0);
        let sum = crate::checksum::of(&frame[14..14 + len]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    #[test]
    fn tcp_over_ipv4() {
        let packet = ip(&tcp_frame()).unwrap();
        assert_eq!(packet.upper(), Upper::Tcp { source: 1000, destination: 443, flags: 2 });
        assert_eq!((packet.l3, packet.l4, packet.l4_len()), (14, 34, 25));
    }

    #[test]
    fn padding_is_not_part_of_the_packet() {
        let mut frame = tcp_frame();
        let end = frame.len();
        frame.resize(100, 0);
        assert_eq!(ip(&frame).unwrap().end as usize, end);
    }

    #[test]
    fn every_cut_is_refused() {
        let frame = tcp_frame();
        for len in 0..frame.len() {
            assert!(parse(&frame[..len], len, false).is_err(), "{len}");
        }
    }

    #[test]
    fn lengths_and_versions_are_checked() {
        for (at, value, reason) in [
            (14, 0x65, DropReason::Ipv4HeaderInvalid),
            (14, 0x44, DropReason::Ipv4HeaderInvalid),
            (14, 0x4f, DropReason::Ipv4HeaderInvalid),
            (16, 0xff, DropReason::Ipv4HeaderInvalid),
            (22, 9, DropReason::Ipv4ChecksumInvalid),
            (46, 0x40, DropReason::TcpHeaderInvalid),
            (46, 0xf0, DropReason::TcpHeaderInvalid),
            (12, 0x81, DropReason::VlanTagFromSender),
            (12, 0x99, DropReason::EthertypeUnknown),
        ] {
            let mut frame = tcp_frame();
            frame[at] = value;
            assert_eq!(ip(&frame), Err(reason), "byte {at} = {value}");
        }
    }

    #[test]
    fn source_routes_are_refused_and_other_options_pass() {
        let with_options = |options: [u8; 4]| {
            let mut frame = tcp_frame();
            frame[14] = 0x46;
            frame.splice(34..34, options);
            let len = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            resum(&mut frame);
            ip(&frame)
        };
        assert_eq!(with_options([148, 4, 0, 0]).unwrap().l4, 38);
        assert_eq!(with_options([131, 3, 4, 0]), Err(DropReason::SourceRoute));
        assert_eq!(with_options([1, 1, 137, 2]), Err(DropReason::SourceRoute));
        assert_eq!(with_options([7, 0, 0, 0]), Err(DropReason::Ipv4OptionsInvalid));
        assert_eq!(with_options([7, 40, 0, 0]), Err(DropReason::Ipv4OptionsInvalid));
    }

    fn ipv6_frame(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([next, 64]);
        frame.extend([0x20; 32]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn ipv6_extensions_lead_to_the_upper_layer() {
        let udp = [0, 53, 4, 0, 0, 8, 0, 0];
        let chain = [&[60, 0, 0, 0, 0, 0, 0, 0][..], &[17, 0, 0, 0, 0, 0, 0, 0], &udp].concat();
        let packet = ip(&ipv6_frame(0, &chain)).unwrap();
        assert_eq!(packet.upper(), Upper::Udp { source: 53, destination: 1024 });
        assert_eq!(packet.l4, 14 + 40 + 16);
    }

    #[test]
    fn bad_extension_chains_are_refused() {
        let long: Vec<u8> = [[60, 0, 0, 0, 0, 0, 0, 0]; 12].concat();
        for (next, payload, reason) in [
            (60, long.as_slice(), DropReason::Ipv6ExtensionsInvalid),
            (60, &[17, 200, 0, 0, 0, 0, 0, 0][..], DropReason::Ipv6ExtensionsInvalid),
            (60, &[17][..], DropReason::Ipv6ExtensionsInvalid),
            (43, &[17, 0, 0, 1, 0, 0, 0, 0][..], DropReason::SourceRoute),
            (60, &[0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0][..], DropReason::Ipv6ExtensionsInvalid),
            (17, &[0, 53][..], DropReason::UdpHeaderInvalid),
            (58, &[135, 0][..], DropReason::IcmpHeaderInvalid),
        ] {
            assert_eq!(ip(&ipv6_frame(next, payload)), Err(reason), "{next} {payload:?}");
        }
    }

    #[test]
    fn fragments_are_told_apart() {
        let mut frame = tcp_frame();
        frame[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
        resum(&mut frame);
        let first = ip(&frame).unwrap();
        assert!(matches!(first.fragment(), Fragment::Part { offset: 0, more: true, .. }));
        assert!(matches!(first.upper(), Upper::Tcp { .. }));
        frame[20..22].copy_from_slice(&0x0003u16.to_be_bytes());
        resum(&mut frame);
        let last = ip(&frame).unwrap();
        assert!(matches!(last.fragment(), Fragment::Part { offset: 24, more: false, .. }));
        assert_eq!(last.upper(), Upper::Opaque);

        let atomic = ip(&ipv6_frame(44, &[17, 0, 0, 0, 0, 0, 0, 1, 0, 53, 4, 0, 0, 8, 0, 0])).unwrap();
        assert_eq!(atomic.fragment(), Fragment::None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_point_outside(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4u8, tagged: bool) {
            let at = if tagged { 16 } else { 12 };
            if bytes.len() > at + 2 {
                let ethertype = [0x0800u16, 0x86dd, 0x0806, 0x8100][usize::from(kind)];
                bytes[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
                bytes[at + 2] = if kind == 0 { 0x45 } else { 0x60 };
                if kind == 0 && bytes.len() >= at + 22 {
                    let sum = { bytes[at + 12..at + 14].fill(0); crate::checksum::of(&bytes[at + 2..at + 22]) };
                    bytes[at + 12..at + 14].copy_from_slice(&sum.to_be_bytes());
                }
            }
            if let Ok(Parsed::Ip(packet)) = parse(&bytes, bytes.len(), tagged) {
                prop_assert!(usize::from(packet.l4) <= packet.end as usize);
                prop_assert!(packet.end as usize <= bytes.len());
            }
        }
    }
}
