//! Is the frame whole, from whom it claims, and meant for somebody here? ARP and neighbour discovery end here.

use super::{Path, Shard, Stop};
use crate::counters::Blame;
use crate::flow::PodSlot;
use crate::ip::Ip;
use crate::packet::{Frame, Packet, Parsed, array};
use crate::reason::DropReason;
use crate::responder::{self, Ends, Side};
use crate::tables::{PodTable, Tables};

/// Parses a frame from the trunk and checks who sends it to whom.
#[inline(always)]
pub(super) fn from_trunk<P>(
    frame: Frame<'_>,
    vlan: u16,
    tables: &Tables,
    shard: &mut Shard<P>,
) -> Result<(Packet, Path), Stop> {
    let unknown = Stop::Drop(DropReason::VlanUnknown, Blame::Nobody);
    let slot = tables.slot_of_vlan(vlan).ok_or(unknown)?;
    let pod = tables.pod(slot).ok_or(unknown)?;
    let drop = |reason| Stop::Drop(reason, Blame::Ingress(slot));
    let packet = parse(frame, (Side::Trunk, slot, pod), shard, drop)?;
    towards_pod(frame.head, &packet, pod).map_err(drop)?;
    Ok((packet, Path::In { to: slot }))
}

/// The same for a frame from a pod; one with a tag is for the trunk.
#[inline(always)]
pub(super) fn from_pod<P>(
    frame: Frame<'_>,
    slot: PodSlot,
    tables: &Tables,
    shard: &mut Shard<P>,
) -> Result<(Packet, Path), Stop> {
    let drop = |reason| Stop::Drop(reason, Blame::Egress(slot));
    let pod = tables.pod(slot).ok_or(drop(DropReason::PortUnknown))?;
    let packet = parse(frame, (Side::Pod, slot, pod), shard, drop)?;
    of_pod(frame.head, &packet, pod, shard.links.link_mut(slot)).map_err(drop)?;
    if frame.tagged {
        return Ok((packet, Path::Out { from: slot }));
    }
    let to = tables.slot_of_address(packet.destination()).ok_or(drop(DropReason::LocalPodGone))?;
    match shard.is_home_of(to) {
        true => Ok((packet, Path::Across { from: slot, to })),
        false => Ok((packet, Path::Away { from: slot, to })),
    }
}

/// The same for what another worker's pod may send to a pod of this node, by the policy of the one that sends.
pub(super) fn let_out<P>(
    frame: Frame<'_>,
    tables: &Tables,
    shard: &Shard<P>,
) -> Result<(Packet, Path), Stop> {
    let drop = |reason| Stop::Drop(reason, Blame::Nobody);
    let Parsed::Ip(packet) = frame.parse().map_err(drop)? else {
        return Err(drop(DropReason::EthertypeUnknown));
    };
    let to = tables.slot_of_address(packet.destination()).ok_or(drop(DropReason::LocalPodGone))?;
    if shard.is_home_of(to) { Ok((packet, Path::In { to })) } else { Err(Stop::Elsewhere(to)) }
}

/// Parses; what the responder handles ends here.
#[inline(always)]
fn parse<P>(
    frame: Frame<'_>,
    (side, slot, pod): (Side, PodSlot, &PodTable),
    shard: &mut Shard<P>,
    drop: impl Fn(DropReason) -> Stop,
) -> Result<Packet, Stop> {
    match frame.parse().map_err(&drop)? {
        Parsed::Ip(packet) if !packet.is_neighbour_discovery() => Ok(packet),
        other => {
            respond(frame.head, &other, side, (slot, pod), shard).map_err(drop)?;
            Err(Stop::Consumed(matches!(side, Side::Pod).then_some(slot)))
        }
    }
}

/// Hands ARP and neighbour discovery to the responder.
#[cold]
fn respond<P>(
    head: &[u8],
    parsed: &Parsed,
    side: Side,
    (slot, pod): (PodSlot, &PodTable),
    shard: &mut Shard<P>,
) -> Result<(), DropReason> {
    let mut ends = Ends { slot, pod, link: shard.links.link_mut(slot) };
    let reply = match parsed {
        Parsed::Ip(packet) => responder::nd(head, packet, side, &mut ends)?,
        Parsed::Arp => responder::arp(head, side, &mut ends)?,
    };
    shard.originated.extend(reply);
    Ok(())
}

/// EC2's source/destination check, towards the pod.
#[inline]
fn towards_pod(head: &[u8], packet: &Packet, pod: &PodTable) -> Result<(), DropReason> {
    refuse_multicast(head, packet.destination())?;
    if array(head, 0) != Some(pod.mac) {
        return Err(DropReason::DestinationMacForeign);
    }
    if !pod.owns(packet.destination()) {
        return Err(DropReason::DestinationAddressForeign);
    }
    let source = packet.source();
    if pod.owns(source) || source.is_group() || source.is_own() {
        return Err(DropReason::SourceAddressForeign);
    }
    Ok(())
}

/// EC2's source/destination check, from the pod. Its MAC is learned from its first frame if it has not answered yet.
#[inline]
fn of_pod(
    head: &[u8],
    packet: &Packet,
    pod: &PodTable,
    link: &mut crate::neighbour::Link,
) -> Result<(), DropReason> {
    refuse_multicast(head, packet.destination())?;
    if !pod.owns(packet.source()) {
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
#[inline]
fn refuse_multicast(head: &[u8], destination: Ip) -> Result<(), DropReason> {
    let group_mac = head.first().is_some_and(|byte| byte & 1 == 1);
    if group_mac || destination.is_group() { Err(DropReason::Multicast) } else { Ok(()) }
}
