//! Is the frame whole, from whom it claims, and meant for somebody here? ARP and neighbour discovery end here.

use super::{From, Handed, Path, Shard, Stop};
use crate::counters::Blame;
use crate::flow::PodSlot;
use crate::ip::Ip;
use crate::packet::{self, Packet, Parsed, array};
use crate::reason::DropReason;
use crate::responder::{self, Ends, Side};
use crate::tables::{PodTable, Tables};

/// Parses the frame and checks who sends it to whom.
#[inline(always)]
pub(super) fn guard<P>(
    head: &[u8],
    total: usize,
    from: From,
    tables: &Tables,
    shard: &mut Shard<P>,
) -> Result<(Packet, Path), Stop> {
    let unknown = Stop::Drop(DropReason::VlanUnknown, Blame::Nobody);
    let (slot, side, tagged, blame, nobody) = match from {
        From::Trunk { vlan } | From::Peer(Handed::Trunk { vlan }) => {
            let Some(slot) = tables.slot_of_vlan(vlan) else { return Err(unknown) };
            (slot, Side::Trunk, false, Blame::Ingress(slot), unknown)
        }
        From::Pod { slot, tagged } => {
            let blame = Blame::Egress(slot);
            (slot, Side::Pod, tagged, blame, Stop::Drop(DropReason::PortUnknown, blame))
        }
        From::Peer(Handed::Pod) => return let_out(head, total, tables, shard),
    };
    let Some(pod) = tables.pod(slot) else { return Err(nobody) };
    let drop = |reason| Stop::Drop(reason, blame);
    let packet = match packet::parse(head, total, tagged).map_err(drop)? {
        Parsed::Ip(packet) if !packet.is_neighbour_discovery() => packet,
        other => {
            return Err(
                respond(head, &other, side, (slot, pod), shard).map_or_else(drop, |()| Stop::Consumed)
            );
        }
    };
    let path = match side {
        Side::Trunk => {
            towards_pod(head, &packet, pod).map_err(drop)?;
            Path { source: None, destination: Some(slot), elsewhere: None }
        }
        Side::Pod => {
            from_pod(head, &packet, pod, shard.links.link_mut(slot)).map_err(drop)?;
            match tagged {
                true => Path { source: Some(slot), destination: None, elsewhere: None },
                false => shard.path_to(
                    Some(slot),
                    tables.slot_of_address(packet.destination()).ok_or(drop(DropReason::LocalPodGone))?,
                ),
            }
        }
    };
    Ok((packet, path))
}

/// What another worker's pod may send to a pod of this node, by the policy of the one that sends.
#[inline(never)]
fn let_out<P>(head: &[u8], total: usize, tables: &Tables, shard: &Shard<P>) -> Result<(Packet, Path), Stop> {
    let drop = |reason| Stop::Drop(reason, Blame::Nobody);
    let Parsed::Ip(packet) = packet::parse(head, total, false).map_err(drop)? else {
        return Err(drop(DropReason::EthertypeUnknown));
    };
    let local = tables.slot_of_address(packet.destination()).ok_or(drop(DropReason::LocalPodGone))?;
    Ok((packet, shard.path_to(None, local)))
}

/// What the responder handles ends here.
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
fn from_pod(
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
