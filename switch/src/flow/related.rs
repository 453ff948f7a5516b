//! ICMP and ICMPv6 errors: which live flow of the pod they are about.
//!
//! The step calls [`FlowTable::related`] with an error message that has no flow of its own. It matches by the packet
//! embedded in the message (RFC 792, RFC 4443), checks that this packet can have gone the other way (RFC 5927 section 4),
//! and neither makes nor refreshes a flow. What is unrelated is judged by the rules like any other ICMP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::protocol::{ICMP, ICMPV6, TCP, UDP};
use espalier_api::rule::Direction;

use super::key::{FlowKey, PodSlot};
use super::table::FlowTable;
use super::time::Now;
use super::{FlowHandle, Found};

/// Type, code, checksum and four bytes that depend on the type.
const ICMP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;
/// More extension headers than a sane embedded packet has.
const MAX_EXTENSIONS: usize = 8;

/// A received ICMP or ICMPv6 message and the header it came under.
#[derive(Debug, Clone, Copy)]
pub struct IcmpMessage<'a> {
    /// The pod it goes to or comes from.
    pub slot: PodSlot,
    /// Which way it goes.
    pub direction: Direction,
    /// Source of the outer header.
    pub source: IpAddr,
    /// Destination of the outer header.
    pub destination: IpAddr,
    /// Protocol of the outer header: ICMP or ICMPv6.
    pub protocol: u8,
    /// The message from its type on, as far as it lies in the first segment.
    pub bytes: &'a [u8],
}

/// Why a message is about no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unrelated {
    /// It is not an error that can be about a flow: a query, a redirect, a source quench.
    NotAnError,
    /// The embedded packet is cut off before its ports or identifier.
    Truncated,
    /// The embedded packet is malformed, a later fragment, or itself an ICMP error.
    EmbeddedInvalid,
    /// The embedded packet cannot have gone the other way between the ends of the message.
    EmbeddedForged,
    /// No live flow sent such a packet.
    NoFlow,
}

/// Whether a type is an error about another packet: destination unreachable, packet too big, time exceeded or
/// parameter problem. Redirects (RFC 792) and source quench (deprecated by RFC 6633) are not: they steer the receiver.
pub fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => matches!(kind, 3 | 11 | 12),
        ICMPV6 => matches!(kind, 1..=4),
        _ => false,
    }
}

impl FlowTable {
    /// The live flow that `message` is about: one that has sent packets in the direction of the embedded one.
    ///
    /// A flow that [`FlowTable::needs_judgement`] has to be judged again before the message passes.
    pub fn related(&self, message: &IcmpMessage<'_>, now: Now) -> Result<FlowHandle, Unrelated> {
        let key = embedded_key(message)?;
        let Found::Hit(handle) = self.find(&key) else { return Err(Unrelated::NoFlow) };
        let sent = self.entries.track(handle.0).packets()[message.direction.opposite() as usize];
        if sent == 0 || self.is_over(handle.0, now.tick()) { Err(Unrelated::NoFlow) } else { Ok(handle) }
    }
}

/// The flow that the packet embedded in `message` would belong to.
pub fn embedded_key(message: &IcmpMessage<'_>) -> Result<FlowKey, Unrelated> {
    let kind = *message.bytes.first().ok_or(Unrelated::Truncated)?;
    if !is_error(message.protocol, kind) {
        return Err(Unrelated::NotAnError);
    }
    let embedded = message.bytes.get(ICMP_HEADER..).ok_or(Unrelated::Truncated)?;
    let packet = if message.protocol == ICMP { ipv4(embedded)? } else { ipv6(embedded)? };
    let (local, remote) = match message.direction {
        // A router on the way may report, so the outer source says nothing.
        Direction::Ingress => (packet.source, packet.destination),
        Direction::Egress => (packet.destination, packet.source),
    };
    let honest = match message.direction {
        Direction::Ingress => local == message.destination,
        Direction::Egress => local == message.source && remote == message.destination,
    };
    if !honest {
        return Err(Unrelated::EmbeddedForged);
    }
    key(message, &packet, local, remote)
}

struct Embedded<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    upper: &'a [u8],
    later_fragment: bool,
}

fn key(
    message: &IcmpMessage<'_>,
    packet: &Embedded<'_>,
    local: IpAddr,
    remote: IpAddr,
) -> Result<FlowKey, Unrelated> {
    let protocol = packet.protocol;
    if !matches!(protocol, TCP | UDP | ICMP | ICMPV6) {
        return Ok(FlowKey::addresses_only(message.slot, local, remote, protocol));
    }
    if packet.later_fragment {
        return Err(Unrelated::EmbeddedInvalid);
    }
    if protocol == TCP || protocol == UDP {
        let source = u16::from_be_bytes(array(packet.upper, 0)?);
        let destination = u16::from_be_bytes(array(packet.upper, 2)?);
        let (local_port, remote_port) = match message.direction {
            Direction::Ingress => (source, destination),
            Direction::Egress => (destination, source),
        };
        return Ok(FlowKey::tcp_udp(message.slot, local, remote, protocol, local_port, remote_port));
    }
    let [kind] = array(packet.upper, 0)?;
    let query = (kind, u16::from_be_bytes(array(packet.upper, 4)?));
    let sent = message.direction.opposite();
    FlowKey::query(message.slot, local, remote, protocol, query, sent).ok_or(Unrelated::EmbeddedInvalid)
}

fn ipv4(bytes: &[u8]) -> Result<Embedded<'_>, Unrelated> {
    let header: [u8; 20] = array(bytes, 0)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err(Unrelated::EmbeddedInvalid);
    }
    Ok(Embedded {
        source: Ipv4Addr::from(array(bytes, 12)?).into(),
        destination: Ipv4Addr::from(array(bytes, 16)?).into(),
        protocol: header[9],
        upper: bytes.get(header_len..).ok_or(Unrelated::Truncated)?,
        later_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
    })
}

fn ipv6(bytes: &[u8]) -> Result<Embedded<'_>, Unrelated> {
    let header: [u8; IPV6_HEADER] = array(bytes, 0)?;
    if header[0] >> 4 != 6 {
        return Err(Unrelated::EmbeddedInvalid);
    }
    let mut packet = Embedded {
        source: Ipv6Addr::from(array::<16>(bytes, 8)?).into(),
        destination: Ipv6Addr::from(array::<16>(bytes, 24)?).into(),
        protocol: header[6],
        upper: &bytes[IPV6_HEADER..],
        later_fragment: false,
    };
    for _ in 0..=MAX_EXTENSIONS {
        if !extension(&mut packet)? {
            return Ok(packet);
        }
    }
    Err(Unrelated::EmbeddedInvalid)
}

/// Steps over one extension header (RFC 8200 section 4); whether there was one.
fn extension(packet: &mut Embedded<'_>) -> Result<bool, Unrelated> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    if packet.later_fragment {
        return Ok(false);
    }
    let len = match packet.protocol {
        HOP_BY_HOP | ROUTING | DESTINATION => {
            let [_, units] = array(packet.upper, 0)?;
            usize::from(units) * 8 + 8
        }
        AUTHENTICATION => {
            let [_, units] = array(packet.upper, 0)?;
            usize::from(units) * 4 + 8
        }
        FRAGMENT => {
            packet.later_fragment = u16::from_be_bytes(array(packet.upper, 2)?) & 0xfff8 != 0;
            8
        }
        _ => return Ok(false),
    };
    [packet.protocol] = array(packet.upper, 0)?;
    packet.upper = packet.upper.get(len..).ok_or(Unrelated::Truncated)?;
    Ok(true)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unrelated> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Unrelated::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowConfig, NewFlow, PacketFacts, Selector};
    use Direction::{Egress, Ingress};
    use etherparse::PacketBuilder;

    const POD: PodSlot = PodSlot(0);
    const LOCAL: [u8; 4] = [10, 0, 0, 1];
    const REMOTE: [u8; 4] = [192, 0, 2, 7];
    const ROUTER: [u8; 4] = [10, 0, 0, 254];

    fn v6(last: u8) -> [u8; 16] {
        let mut address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        address[15] = last;
        address
    }

    fn error(kind: u8, embedded: &[u8]) -> Vec<u8> {
        [&[kind, 4, 0, 0, 0, 0, 5, 0], embedded].concat()
    }

    fn udp4(source: [u8; 4], destination: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(source, destination, 64)
            .udp(ports.0, ports.1)
            .write(&mut bytes, &[0; 100])
            .unwrap();
        bytes
    }

    fn ingress(bytes: &[u8]) -> IcmpMessage<'_> {
        IcmpMessage {
            slot: POD,
            direction: Ingress,
            source: ROUTER.into(),
            destination: LOCAL.into(),
            protocol: ICMP,
            bytes,
        }
    }

    fn udp_flow() -> FlowKey {
        FlowKey::tcp_udp(POD, IpAddr::from(LOCAL), IpAddr::from(REMOTE), UDP, 5000, 53)
    }

    #[test]
    fn a_router_reports_on_what_the_pod_sent() {
        let message = error(3, &udp4(LOCAL, REMOTE, (5000, 53)));
        assert_eq!(embedded_key(&ingress(&message)), Ok(udp_flow()));
        let least = &message[..ICMP_HEADER + 20 + 8];
        assert_eq!(embedded_key(&ingress(least)), Ok(udp_flow()), "eight bytes of the payload are enough");
        assert_eq!(embedded_key(&ingress(&message[..ICMP_HEADER + 20 + 3])), Err(Unrelated::Truncated));
        assert_eq!(embedded_key(&ingress(&message[..ICMP_HEADER + 19])), Err(Unrelated::Truncated));
        assert_eq!(embedded_key(&ingress(&[])), Err(Unrelated::Truncated));
    }

    #[test]
    fn the_pod_reports_only_on_what_was_sent_to_it() {
        let message = error(3, &udp4(REMOTE, LOCAL, (53, 5000)));
        let out = |destination: [u8; 4]| IcmpMessage {
            direction: Egress,
            source: LOCAL.into(),
            destination: destination.into(),
            ..ingress(&message)
        };
        assert_eq!(embedded_key(&out(REMOTE)), Ok(udp_flow()));
        assert_eq!(embedded_key(&out(ROUTER)), Err(Unrelated::EmbeddedForged));
    }

    #[test]
    fn embedded_packets_that_the_pod_cannot_have_sent_are_forged() {
        for embedded in [udp4(REMOTE, LOCAL, (53, 5000)), udp4(ROUTER, REMOTE, (5000, 53))] {
            assert_eq!(embedded_key(&ingress(&error(3, &embedded))), Err(Unrelated::EmbeddedForged));
        }
    }

    #[test]
    fn only_errors_count() {
        let embedded = udp4(LOCAL, REMOTE, (5000, 53));
        for kind in 0..=255 {
            let expected =
                if [3, 11, 12].contains(&kind) { Ok(udp_flow()) } else { Err(Unrelated::NotAnError) };
            assert_eq!(embedded_key(&ingress(&error(kind, &embedded))), expected, "type {kind}");
        }
    }

    #[test]
    fn later_fragments_and_errors_about_errors_are_refused() {
        let mut embedded = udp4(LOCAL, REMOTE, (5000, 53));
        embedded[7] = 1;
        assert_eq!(embedded_key(&ingress(&error(3, &embedded))), Err(Unrelated::EmbeddedInvalid));
        let mut embedded = udp4(LOCAL, REMOTE, (0x0301, 0));
        embedded[9] = ICMP;
        assert_eq!(embedded_key(&ingress(&error(3, &embedded))), Err(Unrelated::EmbeddedInvalid));
        embedded[0] = 0x44;
        assert_eq!(embedded_key(&ingress(&error(3, &embedded))), Err(Unrelated::EmbeddedInvalid));
    }

    #[test]
    fn echo_errors_go_to_the_flow_of_whoever_asked() {
        for (kind, initiator) in [(8_u8, Egress), (0, Ingress)] {
            let mut embedded = udp4(LOCAL, REMOTE, (u16::from(kind) << 8, 0));
            embedded[9] = ICMP;
            embedded[24..26].copy_from_slice(&77_u16.to_be_bytes());
            let selector = Selector::Query { request: 8, id: 77, initiator };
            let expected = FlowKey::new(POD, IpAddr::from(LOCAL), IpAddr::from(REMOTE), ICMP, selector);
            assert_eq!(embedded_key(&ingress(&error(11, &embedded))), Ok(expected));
        }
    }

    #[test]
    fn ipv6_extension_headers_are_stepped_over() {
        let mut udp = Vec::new();
        PacketBuilder::ipv6(v6(1), v6(2), 64).udp(5000, 53).write(&mut udp, &[0; 8]).unwrap();
        let with = |chain: &[(u8, [u8; 8])]| {
            let mut packet = udp[..IPV6_HEADER].to_vec();
            let mut kinds = chain.iter().map(|(kind, _)| *kind).chain([UDP]);
            packet[6] = kinds.next().unwrap();
            for (_, body) in chain {
                packet.push(kinds.next().unwrap());
                packet.extend_from_slice(&body[1..]);
            }
            packet.extend_from_slice(&udp[IPV6_HEADER..]);
            error(2, &packet)
        };
        let key = |bytes: &[u8]| {
            let (source, destination) = (v6(9).into(), v6(1).into());
            embedded_key(&IcmpMessage { source, destination, protocol: ICMPV6, ..ingress(bytes) })
        };
        let expected = FlowKey::tcp_udp(POD, IpAddr::from(v6(1)), IpAddr::from(v6(2)), UDP, 5000, 53);
        assert_eq!(key(&with(&[])), Ok(expected));
        assert_eq!(key(&with(&[(0, [0; 8]), (60, [0; 8]), (44, [0; 8])])), Ok(expected));
        assert_eq!(key(&with(&[(44, [0, 0, 0, 8, 0, 0, 0, 0])])), Err(Unrelated::EmbeddedInvalid));
        assert_eq!(key(&with(&[(60, [0; 8]); 9])), Err(Unrelated::EmbeddedInvalid));
        assert_eq!(key(&with(&[(60, [0, 200, 0, 0, 0, 0, 0, 0])])), Err(Unrelated::Truncated));
    }

    #[test]
    fn only_a_live_flow_that_sent_something_is_related() {
        let mut table = FlowTable::new(&FlowConfig::sized(16, 1, [1, 2])).unwrap();
        let message = error(3, &udp4(LOCAL, REMOTE, (5000, 53)));
        let message = ingress(&message);
        assert_eq!(table.related(&message, Now(0)), Err(Unrelated::NoFlow));
        let first = PacketFacts { direction: Ingress, tcp_flags: 0, bytes: 60 };
        let flow = NewFlow {
            initiator: Ingress,
            rule: 0,
            generation: 0,
            tracked: true,
            revoke_on_change: false,
            first,
        };
        let handle = table.insert(&udp_flow(), &flow, Now(0)).unwrap();
        assert_eq!(table.related(&message, Now(0)), Err(Unrelated::NoFlow), "the pod has sent nothing");
        table.on_packet(handle, &PacketFacts { direction: Egress, ..first }, Now(1000));
        assert_eq!(table.related(&message, Now(31_000)), Ok(handle));
        assert_eq!(
            table.related(&message, Now(32_000)),
            Err(Unrelated::NoFlow),
            "it does not keep the flow alive"
        );
        assert_eq!(table.len(), 1);
    }
}
