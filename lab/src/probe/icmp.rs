//! ICMP and ICMPv6 messages of any type and code, and the replies to echo requests.

use std::io;
use std::net::IpAddr;

use etherparse::{Icmpv4Header, Icmpv4Type, PacketBuilder};

/// Echo request and reply (RFC 792, RFC 4443).
const ECHO: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);

/// Types that carry the packet they complain about (RFC 792; RFC 4443 has 1 to 4).
const ERRORS_V4: [u8; 5] = [3, 4, 5, 11, 12];

/// Timestamp and its reply have three timestamps (RFC 792).
const TIMESTAMPS: [u8; 2] = [13, 14];
const TIMESTAMP_BYTES: usize = 12;

/// Bytes of an ICMP header.
const HEADER: usize = 8;

/// A message to send.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    reply_type: Option<u8>,
    v4: bool,
}

impl Message {
    /// A message with a checksum (IPv4) or room for the kernel to put one (IPv6, RFC 3542 3.1).
    pub(super) fn new(from: IpAddr, to: IpAddr, icmp_type: u8, code: u8, payload: &[u8]) -> io::Result<Self> {
        let v4 = to.is_ipv4();
        let is_error = if v4 { ERRORS_V4.contains(&icmp_type) } else { icmp_type < 128 };
        let payload = match icmp_type {
            _ if is_error => complained_about(to, from)?,
            _ if v4 && TIMESTAMPS.contains(&icmp_type) => payload[..TIMESTAMP_BYTES].to_vec(),
            _ => payload.to_vec(),
        };
        let rest = if is_error { [0; 4] } else { [payload[0], payload[1], 0, 1] };
        let mut bytes = if v4 {
            let kind = Icmpv4Type::Unknown { type_u8: icmp_type, code_u8: code, bytes5to8: rest };
            Icmpv4Header::with_checksum(kind, &payload).to_bytes().to_vec()
        } else {
            [&[icmp_type, code, 0, 0][..], &rest].concat()
        };
        bytes.extend_from_slice(&payload);
        let (request, reply) = if v4 { ECHO } else { ECHO_V6 };
        let reply_type = (icmp_type == request && code == 0).then_some(reply);
        Ok(Self { bytes, reply_type, v4 })
    }

    /// Whether an answer is due.
    pub(super) fn wants_answer(v4: bool, icmp_type: u8, code: u8) -> bool {
        icmp_type == (if v4 { ECHO.0 } else { ECHO_V6.0 }) && code == 0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a received packet (IPv4 sockets give the header too) is the reply to this very message.
    pub(super) fn is_answered_by(&self, received: &[u8]) -> bool {
        let header =
            if self.v4 { received.first().map_or(0, |first| usize::from(first & 0xf) * 4) } else { 0 };
        let Some(reply) = received.get(header..) else { return false };
        let same_rest = reply.get(4..) == self.bytes.get(4..);
        self.reply_type.is_some()
            && reply.first().copied() == self.reply_type
            && same_rest
            && reply.len() >= HEADER
    }
}

/// A UDP packet of the other direction, for an ICMP error to quote.
fn complained_about(from: IpAddr, to: IpAddr) -> io::Result<Vec<u8>> {
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => return Err(io::Error::other("addresses of two families")),
    };
    let mut packet = Vec::new();
    builder.udp(40_000, 40_000).write(&mut packet, b"quoted").map_err(io::Error::other)?;
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_to_this_very_request_is_an_answer() {
        let (from, to) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let message = Message::new(from, to, 8, 0, &[7; 64]).unwrap();
        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(message.bytes());
        assert!(!message.is_answered_by(&packet), "the request itself");
        packet[20] = 0;
        assert!(message.is_answered_by(&packet));
        packet[40] ^= 1;
        assert!(!message.is_answered_by(&packet), "another payload");
        assert!(!message.is_answered_by(&[]));
        let other = Message::new(from, to, 13, 0, &[7; 64]).unwrap();
        assert!(!other.is_answered_by(&packet));
    }
}
