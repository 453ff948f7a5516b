//! The Internet checksum (RFC 1071): verifying headers, and completing what a pod's transmit offload left undone.
//!
//! A pod with tx-checksumming on sends TCP and UDP with only the pseudo-header sum in the checksum field, for a NIC to
//! finish; behind the switch there is none (data path: veth to AF_XDP), so the switch finishes it.

use espalier_api::{Family, protocol};

use crate::ip::Ip;
use crate::packet::{Fragment, Packet};

/// Whether `bytes`, checksum field included, sum to zero.
#[inline(always)]
pub fn verifies(bytes: &[u8]) -> bool {
    fold(sum(bytes)) == 0xffff
}

/// The checksum of `bytes` (whose checksum field is zero).
pub fn of(bytes: &[u8]) -> u16 {
    u16::from_be(!fold(sum(bytes)))
}

/// Offset in the frame of the checksum field, if it holds only the pseudo-header sum.
///
/// A complete checksum equals that value once in 65536 packets; completing it again then yields the same value for an
/// intact packet, because the payload sums to what makes it so.
#[inline(always)]
pub fn partial(packet: &Packet, head: &[u8]) -> Option<usize> {
    let field = match (packet.protocol, packet.fragment()) {
        (protocol::TCP, Fragment::None) => usize::from(packet.l4) + 16,
        (protocol::UDP, Fragment::None) => usize::from(packet.l4) + 6,
        _ => return None,
    };
    let stored = u16::from_be_bytes(crate::packet::array(head, field)?);
    (stored != 0 && stored == fold(pseudo(packet))).then_some(field)
}

/// Sums the upper layer over all segments and returns the finished checksum. The segments hold the whole frame.
pub fn complete<'a>(packet: &Packet, segments: impl Iterator<Item = &'a [u8]>) -> u16 {
    // The field itself holds the pseudo-header sum, so summing the whole upper layer includes it once.
    let (mut skip, mut left) = (usize::from(packet.l4), packet.l4_len());
    let mut total = 0u64;
    let mut odd = false;
    for segment in segments {
        let start = skip.min(segment.len());
        skip -= start;
        let part = &segment[start..segment.len().min(start + left)];
        left -= part.len();
        let folded = fold(sum(part));
        total += u64::from(if odd { folded.swap_bytes() } else { folded });
        odd ^= part.len() % 2 == 1;
    }
    match u16::from_be(!fold(total)) {
        // RFC 768: zero means "no checksum" in UDP, so the other zero is sent.
        0 if packet.protocol == protocol::UDP => 0xffff,
        value => value,
    }
}

#[inline(always)]
fn pseudo(packet: &Packet) -> u64 {
    // Every word is a sum of 16-bit words times powers of 2^16, which is 1 modulo 2^16 - 1; halves keep the sum in range.
    let halves = |word: u64| (word >> 32) + (word & 0xffff_ffff);
    let address = |ip: Ip| match ip.family {
        Family::V4 => ip.words[1],
        Family::V6 => halves(ip.words[0]) + halves(ip.words[1]),
    };
    address(packet.source())
        + address(packet.destination())
        + u64::from(packet.protocol)
        + packet.l4_len() as u64
}

/// Adds 16-bit words as they lie in memory, an odd last byte with a zero behind it. Such a sum has the bytes of the sum of
/// big-endian words, in the machine's order (RFC 1071 section 2 (B)).
#[inline(always)]
fn sum(bytes: &[u8]) -> u64 {
    let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().map(|bytes| word(*bytes)).sum::<u64>() + word(last)
}

/// The sum of the 16-bit words of a sum. Once more than that changes nothing, so it takes no loop.
#[inline(always)]
fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Parsed, parse};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn frame(v6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match v6 {
            true => ethernet.ipv6([0x20; 16], [0x31; 16], 64),
            false => ethernet.ipv4([10, 0, 0, 1], [10, 9, 8, 7], 64),
        };
        match tcp {
            true => ip.tcp(1, 2, 3, 4).write(&mut frame, payload).unwrap(),
            false => ip.udp(1, 2).write(&mut frame, payload).unwrap(),
        }
        frame
    }

    proptest! {
        /// What etherparse computed is found again from the partial sum, however the frame is cut into segments.
        #[test]
        fn completing_gives_the_full_checksum(v6: bool, tcp: bool, payload in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(0..400usize, 0..4)) {
            let mut frame = frame(v6, tcp, &payload);
            let Ok(Parsed::Ip(packet)) = parse(&frame, frame.len(), false) else { panic!() };
            let field = usize::from(packet.l4) + if tcp { 16 } else { 6 };
            let full = u16::from_be_bytes([frame[field], frame[field + 1]]);
            let partial_sum = fold(pseudo(&packet));
            frame[field..field + 2].copy_from_slice(&partial_sum.to_be_bytes());
            prop_assert_eq!(partial(&packet, &frame), Some(field));

            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(frame.len())).collect();
            cuts.extend([0, frame.len()]);
            cuts.sort_unstable();
            let segments = cuts.windows(2).map(|pair| &frame[pair[0]..pair[1]]);
            prop_assert_eq!(complete(&packet, segments), full);
        }
    }

    #[test]
    fn a_full_checksum_is_left_alone() {
        let frame = frame(false, true, b"payload");
        let Ok(Parsed::Ip(packet)) = parse(&frame, frame.len(), false) else { panic!() };
        assert_eq!(partial(&packet, &frame), None);
    }
}
