//! IPv6 neighbour discovery (RFC 4861) of the responder.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr, RawHardwareAddress,
};

use super::{Ends, Originated, Side, is_unicast};
use crate::packet::{Fragment, Packet, array};
use crate::reason::DropReason;

const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV6_HEADER: usize = 40;

/// Handles one neighbour discovery message. `Ok(None)`: nothing to answer.
pub fn nd(
    head: &[u8],
    packet: &Packet,
    side: Side,
    ends: &mut Ends<'_>,
) -> Result<Option<Originated>, DropReason> {
    let invalid = DropReason::NeighbourDiscoveryInvalid;
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source().into(), packet.destination().into())
    else {
        return Err(invalid);
    };
    // RFC 4861 section 6.1 and 7.1: hop limit 255 proves that no router forwarded it, and it is never fragmented.
    let hop_limit = head.get(usize::from(packet.l3) + 7);
    if hop_limit != Some(&255) || packet.fragment() != Fragment::None {
        return Err(invalid);
    }
    let body = head.get(usize::from(packet.l4)..packet.end as usize).ok_or(invalid)?;
    let message = Icmpv6Packet::new_checked(body).map_err(|_| invalid)?;
    let repr = match Icmpv6Repr::parse(&source, &destination, &message, &ChecksumCapabilities::default()) {
        Ok(Icmpv6Repr::Ndisc(repr)) if message.msg_code() == 0 => repr,
        _ => return Err(invalid),
    };
    let sender_mac = array::<6>(head, 6).filter(|mac| is_unicast(*mac)).ok_or(invalid)?;
    match side {
        Side::Pod => from_pod(source, sender_mac, &repr, ends),
        Side::Trunk => from_trunk(source, sender_mac, &repr, ends),
    }
}

fn from_pod(
    source: Ipv6Addr,
    sender_mac: [u8; 6],
    repr: &NdiscRepr<'_>,
    ends: &mut Ends<'_>,
) -> Result<Option<Originated>, DropReason> {
    if source.is_unspecified() {
        return Ok(None); // Duplicate address detection (RFC 4862): nobody else has the pod's address.
    }
    if !source.is_unicast_link_local() && !ends.owns_v6(source) {
        return Err(DropReason::NeighbourDiscoveryInvalid);
    }
    match repr {
        NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
            if ends.owns_v6(source) && link_layer(*lladdr) == Some(sender_mac) {
                ends.link.pod_mac = Some(sender_mac);
            }
            if ends.owns_v6(*target_addr) {
                return Ok(None);
            }
            Ok(advertise(Side::Pod, ends, sender_mac, *target_addr, source))
        }
        NdiscRepr::NeighborAdvert { target_addr, lladdr, .. } => {
            if let Some(mac) = link_layer(*lladdr).filter(|_| ends.owns_v6(*target_addr)) {
                ends.link.pod_mac = Some(mac);
            }
            Ok(None)
        }
        // The pod's routes are set by the CNI; the switch advertises no router.
        NdiscRepr::RouterSolicit { .. } => Ok(None),
        // A pod is no router.
        NdiscRepr::RouterAdvert { .. } | NdiscRepr::Redirect { .. } => {
            Err(DropReason::NeighbourDiscoveryInvalid)
        }
    }
}

fn from_trunk(
    source: Ipv6Addr,
    sender_mac: [u8; 6],
    repr: &NdiscRepr<'_>,
    ends: &mut Ends<'_>,
) -> Result<Option<Originated>, DropReason> {
    let gateway = ends.pod.gateway_v6;
    match repr {
        NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
            if let Some(mac) = link_layer(*lladdr).filter(|_| source == gateway) {
                ends.link.learn_gateway_v6(mac);
            }
            let asked = ends.owns_v6(*target_addr) || *target_addr == ends.pod.link_local;
            if !asked || source.is_unspecified() {
                return Ok(None);
            }
            Ok(advertise(Side::Trunk, ends, sender_mac, *target_addr, source))
        }
        NdiscRepr::NeighborAdvert { target_addr, lladdr, .. } => {
            if let Some(mac) = link_layer(*lladdr).filter(|_| *target_addr == gateway) {
                ends.link.learn_gateway_v6(mac);
            }
            Ok(None)
        }
        NdiscRepr::RouterAdvert { lladdr, .. } => {
            if let Some(mac) = link_layer(*lladdr).filter(|_| source == gateway) {
                ends.link.learn_gateway_v6(mac);
            }
            Ok(None)
        }
        NdiscRepr::RouterSolicit { .. } => Ok(None),
        // The switch has one next hop a branch and follows no redirect.
        NdiscRepr::Redirect { .. } => Err(DropReason::NeighbourDiscoveryInvalid),
    }
}

/// Asks for `target`, in the name of `sender`.
pub fn neighbour_solicit(
    side: Side,
    ends: &Ends<'_>,
    sender: Ipv6Addr,
    target: Ipv6Addr,
) -> Option<Originated> {
    let own = ends.own_mac(side)?;
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let repr = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(EthernetAddress(own).into()) };
    build(side, ends, [0x33, 0x33, 0xff, a, b, c], (sender, group), repr)
}

fn advertise(
    side: Side,
    ends: &Ends<'_>,
    to_mac: [u8; 6],
    target: Ipv6Addr,
    to: Ipv6Addr,
) -> Option<Originated> {
    let own = ends.own_mac(side)?;
    let mut flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    if side == Side::Pod {
        flags |= NdiscNeighborFlags::ROUTER;
    }
    let repr =
        NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(EthernetAddress(own).into()) };
    build(side, ends, to_mac, (target, to), repr)
}

fn build(
    side: Side,
    ends: &Ends<'_>,
    destination: [u8; 6],
    (source, to): (Ipv6Addr, Ipv6Addr),
    repr: NdiscRepr<'_>,
) -> Option<Originated> {
    let message = Icmpv6Repr::Ndisc(repr);
    let header = Ipv6Repr {
        src_addr: source,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let mut body = [0; IPV6_HEADER + 32];
    let body = body.get_mut(..IPV6_HEADER + message.buffer_len())?;
    header.emit(&mut Ipv6Packet::new_unchecked(&mut body[..]));
    let (_, upper) = body.split_at_mut(IPV6_HEADER);
    message.emit(&source, &to, &mut Icmpv6Packet::new_unchecked(upper), &ChecksumCapabilities::default());
    let mut frame = ends.frame(side, destination, ETHERTYPE_IPV6)?;
    frame.bytes.try_extend_from_slice(body).ok()?;
    Some(frame)
}

fn link_layer(address: Option<RawHardwareAddress>) -> Option<[u8; 6]> {
    array(address?.as_bytes(), 0).filter(|mac| is_unicast(*mac))
}
