//! Is the frame whole, from whom it claims, and meant for somebody here? ARP and neighbour discovery end here.

use std::net::IpAddr;

use super::{From, Path, Shard, Stop};
use crate::counters::Blame;
use crate::flow::PodSlot;
use crate::packet::{self, Packet, Parsed, array};
use crate::reason::DropReason;
use crate::responder::{self, Ends, Side};
use crate::tables::{PodTable, Tables};

/// Parses the frame and checks who sends it to whom.
#[inline]
pub(super) fn guard<P>(
    head: &[u8],
    total: usize,
    from: From,
    tables: &Tables,
    shard: &mut Shard<P>,
) -> Result<(Packet, Path), Stop> {
    match from {
        From::Trunk { vlan } => {
            let slot = tables.slot_of_vlan(vlan).ok_or(Stop::Drop(DropReason::VlanUnknown, Blame::Nobody))?;
            let pod = tables.pod(slot).ok_or(Stop::Drop(DropReason::VlanUnknown, Blame::Nobody))?;
            let drop = |reason| Stop::Drop(reason, Blame::Ingress(slot));
            let packet = upper_layers(head, total, false, Side::Trunk, (slot, pod), shard, drop)?;
            towards_pod(head, &packet, pod).map_err(drop)?;
            Ok((packet, Path { source: None, destination: Some(slot) }))
        }
        From::Pod { slot, tagged } => {
            let drop = |reason| Stop::Drop(reason, Blame::Egress(slot));
            let pod = tables.pod(slot).ok_or(drop(DropReason::PortUnknown))?;
            let packet = upper_layers(head, total, tagged, Side::Pod, (slot, pod), shard, drop)?;
            from_pod(head, &packet, pod, shard.links.link_mut(slot)).map_err(drop)?;
            let destination = match tagged {
                true => None,
                false => {
                    Some(tables.slot_of_address(packet.destination).ok_or(drop(DropReason::LocalPodGone))?)
                }
            };
            Ok((packet, Path { source: Some(slot), destination }))
        }
    }
}

/// Parses; what the responder handles ends here.
#[inline]
fn upper_layers<P>(
    head: &[u8],
    total: usize,
    tagged: bool,
    side: Side,
    (slot, pod): (PodSlot, &PodTable),
    shard: &mut Shard<P>,
    drop: impl Fn(DropReason) -> Stop,
) -> Result<Packet, Stop> {
    let parsed = packet::parse(head, total, tagged).map_err(&drop)?;
    let mut ends = Ends { slot, pod, link: shard.links.link_mut(slot) };
    let reply = match parsed {
        Parsed::Ip(packet) if !packet.is_neighbour_discovery() => return Ok(packet),
        Parsed::Ip(packet) => responder::nd(head, &packet, side, &mut ends),
        Parsed::Arp => responder::arp(head, side, &mut ends),
    };
    shard.originated.extend(reply.map_err(&drop)?);
    Err(Stop::Consumed)
}

/// EC2's source/destination check, towards the pod.
#[inline]
fn towards_pod(head: &[u8], packet: &Packet, pod: &PodTable) -> Result<(), DropReason> {
    refuse_multicast(head, packet.destination)?;
    if array(head, 0) != Some(pod.mac) {
        return Err(DropReason::DestinationMacForeign);
    }
    if !pod.owns(packet.destination) {
        return Err(DropReason::DestinationAddressForeign);
    }
    if pod.owns(packet.source) || !can_be_source(packet.source) {
        return Err(DropReason::SourceAddressForeign);
    }
    Ok(())
}

/// EC2's source/destination check, from the pod. Its MAC is learned from its first frame if it has not answered yet.
#[inline]
fn from_pod(
    head: &[u8],
    packet: &Packet,
    pod: &PodTable,
    link: &mut crate::neighbour::Link,
) -> Result<(), DropReason> {
    refuse_multicast(head, packet.destination)?;
    if !pod.owns(packet.source) {
        return Err(DropReason::SourceAddressForeign);
    }
    let mac = array(head, 6);
    if link.pod_mac.is_none() {
        link.pod_mac = mac;
    }
    if link.pod_mac != mac {
        return Err(DropReason::SourceMacForeign);
    }
    Ok(())
}

/// A VPC carries neither multicast nor broadcast outside a transit gateway's multicast domain.
fn refuse_multicast(head: &[u8], destination: IpAddr) -> Result<(), DropReason> {
    let group_mac = head.first().is_some_and(|byte| byte & 1 == 1);
    let group_address = destination.is_multicast() || destination == IpAddr::from([255; 4]);
    if group_mac || group_address { Err(DropReason::Multicast) } else { Ok(()) }
}

fn can_be_source(address: IpAddr) -> bool {
    !(address.is_multicast()
        || address.is_loopback()
        || address.is_unspecified()
        || address == IpAddr::from([255; 4]))
}
