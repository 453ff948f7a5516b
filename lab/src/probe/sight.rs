//! What a receiver really got: counts per kind of packet, taken from a packet socket in its namespace.
//!
//! A probe is denied only if this count stayed where it was; no server, firewall or socket buffer is asked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use espalier_api::protocol::{ICMP, ICMPV6, TCP, UDP};
use etherparse::{EtherType, LaxSlicedPacket, ether_type};

use crate::LabError;
use crate::packet_socket::PacketSocket;

/// How often the thread looks whether it is still wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One kind of packet: protocol, addresses, and the destination port or the ICMP type and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) protocol: u8,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) detail: u16,
}

impl Kind {
    /// `detail` of an ICMP message.
    pub(super) fn icmp_detail(icmp_type: u8, code: u8) -> u16 {
        u16::from_be_bytes([icmp_type, code])
    }

    fn of_frame(frame: &[u8]) -> Option<Self> {
        let (ether_type, payload) = (frame.get(12..14)?, frame.get(14..)?);
        let ether_type = EtherType(u16::from_be_bytes([ether_type[0], ether_type[1]]));
        if ![ether_type::IPV4, ether_type::IPV6].contains(&ether_type) {
            return None;
        }
        let sliced = LaxSlicedPacket::from_ether_type(ether_type, payload);
        let net = sliced.net?;
        let payload = net.ip_payload_ref()?;
        let (ip, bytes) = (payload.ip_number.0, payload.payload);
        let (from, to): (IpAddr, IpAddr) = match &net {
            etherparse::LaxNetSlice::Ipv4(v4) => {
                (v4.header().source_addr().into(), v4.header().destination_addr().into())
            }
            etherparse::LaxNetSlice::Ipv6(v6) => {
                (v6.header().source_addr().into(), v6.header().destination_addr().into())
            }
            etherparse::LaxNetSlice::Arp(_) => return None,
        };
        // Read from the bytes: the parser leaves out messages whose length it does not expect (an ICMP timestamp).
        let at = match ip {
            TCP | UDP => Some(2),
            ICMP | ICMPV6 => Some(0),
            _ => None,
        };
        let detail =
            at.and_then(|at| bytes.get(at..at + 2)).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        Some(Self { protocol: ip, from, to, detail })
    }
}

/// The counts of one namespace.
#[derive(Debug, Default)]
pub(super) struct Sight {
    seen: Mutex<HashMap<Kind, u64>>,
}

impl Sight {
    /// Counts until `stop` is set.
    pub(super) fn watch(&self, mut packets: PacketSocket, stop: &AtomicBool) -> Result<(), LabError> {
        while !stop.load(Ordering::Relaxed) {
            let frame = packets
                .find(LOOK_AGAIN, |_| true)
                .map_err(|source| LabError::io("cannot read from a packet socket", source))?;
            if let Some(kind) = frame.and_then(Kind::of_frame) {
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
            }
        }
        Ok(())
    }

    /// How many packets of this kind were there.
    pub(super) fn count(&self, kind: &Kind) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(kind).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    #[test]
    fn packets_are_told_apart_by_protocol_addresses_and_port_or_type() {
        let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut tcp = Vec::new();
        builder().tcp(1000, 5432, 1, 100).write(&mut tcp, &[]).unwrap();
        let kind = Kind::of_frame(&tcp).unwrap();
        let (from, to) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(kind, Kind { protocol: 6, from, to, detail: 5432 });
        let mut icmp = Vec::new();
        builder().icmpv4_raw(13, 7, [0; 4]).write(&mut icmp, &[]).unwrap();
        assert_eq!(Kind::of_frame(&icmp).unwrap().detail, 0x0d07);
        assert_eq!(Kind::of_frame(&tcp[..20]), None);
    }
}
