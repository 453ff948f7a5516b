//! Finding one's way in a received frame: where the addresses, the ports and the payload are.
//!
//! Called by the receiver and the reflector for every frame. Promises offsets inside the frame only, whatever the
//! bytes are; anything but plain IPv4 and IPv6 with UDP, TCP or ICMP has no layout.

use crate::checksum;

/// A frame's parts. Offsets are in bytes from the Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Where the IP header begins.
    pub network: usize,
    /// Whether it is IPv6.
    pub v6: bool,
    /// The IP protocol number.
    pub protocol: u8,
    /// Where the transport header begins.
    pub transport: usize,
    /// Where the payload begins.
    pub payload: usize,
    /// Whether the checksum of an IPv4 header is right. Receivers drop the frame otherwise.
    pub header_intact: bool,
}

/// IP protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

const VLAN_TAGS: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Tags looked behind: a service tag and a customer tag.
const MAX_TAGS: usize = 2;

impl Layout {
    /// The layout, if the frame has one.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        let mut kind = word(frame, at)?;
        for _ in 0..MAX_TAGS {
            if VLAN_TAGS.contains(&kind) {
                at += 4;
                kind = word(frame, at)?;
            }
        }
        let network = at + 2;
        match kind {
            IPV4 => Self::v4(frame, network),
            IPV6 => Self::v6(frame, network),
            _ => None,
        }
    }

    fn v4(frame: &[u8], network: usize) -> Option<Self> {
        let first = *frame.get(network)?;
        let header_len = usize::from(first & 0x0f) * 4;
        // Later fragments have no transport header.
        if first >> 4 != 4 || header_len < 20 || word(frame, network + 6)? & 0x1fff != 0 {
            return None;
        }
        let header = frame.get(network..network + header_len)?;
        let intact = checksum::sum(header) == 0xffff;
        Self::transport(frame, network, false, header[9], network + header_len, intact)
    }

    fn v6(frame: &[u8], network: usize) -> Option<Self> {
        let header = frame.get(network..network + 40)?;
        Self::transport(frame, network, true, header[6], network + 40, true)
    }

    fn transport(
        frame: &[u8],
        network: usize,
        v6: bool,
        protocol: u8,
        transport: usize,
        header_intact: bool,
    ) -> Option<Self> {
        let len = match protocol {
            UDP | ICMP | ICMPV6 => 8,
            TCP => usize::from(*frame.get(transport + 12)? >> 4) * 4,
            _ => return None,
        };
        let payload = transport + len;
        (len >= 8 && payload <= frame.len()).then_some(Self {
            network,
            v6,
            protocol,
            transport,
            payload,
            header_intact,
        })
    }
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::every_kind;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_frame_is_found_with_its_payload() {
        for headers in every_kind() {
            let frame = headers.build(200).unwrap();
            let layout = Layout::of(&frame).unwrap();
            assert_eq!(layout.payload, usize::from(headers.bytes()), "{headers:?}");
            assert_eq!(layout.v6, headers.source.is_ipv6());
            assert!(layout.header_intact);
        }
    }

    #[test]
    fn a_damaged_header_fragments_and_strangers_are_told() {
        let mut frame = every_kind().next().unwrap().build(100).unwrap();
        frame[14 + 8] ^= 1;
        assert!(!Layout::of(&frame).unwrap().header_intact);
        frame[14 + 7] = 1;
        assert_eq!(Layout::of(&frame), None);
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(Layout::of(&arp), None);
    }

    proptest! {
        #[test]
        fn no_bytes_lead_outside_the_frame(mut frame in prop::collection::vec(any::<u8>(), 0..120), kind in 0..4) {
            if let Some(bytes) = frame.get_mut(12..14) {
                bytes.copy_from_slice(&[[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x12, 0x34]][kind as usize]);
            }
            if let Some(layout) = Layout::of(&frame) {
                prop_assert!(layout.network < layout.transport && layout.transport < layout.payload);
                prop_assert!(layout.payload <= frame.len());
            }
        }
    }
}
