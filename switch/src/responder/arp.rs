//! ARP (RFC 826) of the responder.

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::{Ends, Originated, Side, is_unicast};
use crate::packet::array;
use crate::reason::DropReason;

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERNET_HEADER: usize = 14;

/// Handles one ARP frame (untagged, as both sides hand it over). `Ok(None)`: nothing to answer.
pub fn arp(head: &[u8], side: Side, ends: &mut Ends<'_>) -> Result<Option<Originated>, DropReason> {
    let body = head.get(ETHERNET_HEADER..).ok_or(DropReason::ArpInvalid)?;
    let packet = ArpPacket::new_checked(body).map_err(|_| DropReason::ArpInvalid)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender_mac),
        source_protocol_addr: sender,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&packet).map_err(|_| DropReason::ArpInvalid)?
    else {
        return Err(DropReason::ArpInvalid);
    };
    if array::<6>(head, 6) != Some(sender_mac) || !is_unicast(sender_mac) {
        return Err(DropReason::ArpInvalid);
    }
    match side {
        Side::Pod if sender.is_unspecified() => return Ok(None), // Address conflict probe (RFC 5227).
        Side::Pod if !ends.owns_v4(sender) => return Err(DropReason::ArpInvalid),
        Side::Pod => ends.link.pod_mac = Some(sender_mac),
        Side::Trunk if ends.pod.gateway_v4 == Some(sender) => ends.link.learn_gateway_v4(sender_mac),
        Side::Trunk => {}
    }
    let asked = match side {
        Side::Pod => !ends.owns_v4(target),
        Side::Trunk => ends.owns_v4(target),
    };
    if operation != ArpOperation::Request || !asked {
        return Ok(None);
    }
    Ok(build(side, ends, sender_mac, ArpOperation::Reply, (target, sender)))
}

/// Asks for `target`, in the name of `sender`.
pub fn arp_request(side: Side, ends: &Ends<'_>, sender: Ipv4Addr, target: Ipv4Addr) -> Option<Originated> {
    build(side, ends, [0xff; 6], ArpOperation::Request, (sender, target))
}

fn build(
    side: Side,
    ends: &Ends<'_>,
    destination: [u8; 6],
    operation: ArpOperation,
    (sender, target): (Ipv4Addr, Ipv4Addr),
) -> Option<Originated> {
    let own = ends.own_mac(side)?;
    let target_mac = if operation == ArpOperation::Request { [0; 6] } else { destination };
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(own),
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress(target_mac),
        target_protocol_addr: target,
    };
    let mut body = [0; 28];
    repr.emit(&mut ArpPacket::new_unchecked(&mut body[..]));
    let mut frame = ends.frame(side, destination, ETHERTYPE_ARP)?;
    frame.bytes.extend(body);
    Some(frame)
}
