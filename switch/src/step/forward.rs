//! The last stage: next hop, MAC addresses, and the checksum that a pod's transmit offload left open.

use super::Memory;
use crate::checksum;
use crate::flow::PodSlot;
use crate::neighbour::Links;
use crate::packet::{Packet, array};
use crate::reason::DropReason;
use crate::tables::Tables;

/// The MAC addresses that the packet gets: destination, source.
pub(super) type Hop<'a> = (&'a [u8; 6], &'a [u8; 6]);

/// Writes the MAC addresses into the packet.
#[inline(always)]
pub(super) fn readdress<M: Memory>(memory: &M, (destination, source): Hop<'_>, packet: &mut M::Packet) {
    if let Some(macs) = memory.head_mut(packet).first_chunk_mut::<12>() {
        macs[..6].copy_from_slice(destination);
        macs[6..].copy_from_slice(source);
    }
}

/// The way to a pod, or why the packet cannot take it.
#[inline(always)]
pub(super) fn to_pod<'a>(
    links: &'a Links,
    parsed: &Packet,
    total: usize,
    slot: PodSlot,
) -> Result<Hop<'a>, DropReason> {
    let link = links.link(slot);
    let host = link.host.as_ref().ok_or(DropReason::PortDown)?;
    let pod_mac = link.pod_mac.as_ref().ok_or(DropReason::PodUnresolved)?;
    if total - usize::from(parsed.l3) > host.mtu as usize {
        return Err(DropReason::PacketTooBig);
    }
    Ok((pod_mac, &host.mac))
}

/// The same from a pod to the trunk.
#[inline(always)]
pub(super) fn to_trunk<'a>(
    links: &'a Links,
    tables: &'a Tables,
    parsed: &Packet,
    slot: PodSlot,
) -> Result<Hop<'a>, DropReason> {
    let pod = tables.pod(slot).ok_or(DropReason::PortUnknown)?;
    let gateway = links.link(slot).gateway_mac(pod, parsed.destination());
    Ok((gateway.ok_or(DropReason::GatewayUnresolved)?, &pod.mac))
}

/// Fills in the checksum that the pod left to its NIC, if it did.
#[inline(always)]
pub(crate) fn complete_checksum<M: Memory>(memory: &M, parsed: &Packet, packet: &mut M::Packet) {
    if let Some(field) = checksum::partial(parsed, memory.head(packet)) {
        fill_in_checksum(memory, parsed, packet, field);
    }
}

/// The checksum over all segments, into its field in the head.
fn fill_in_checksum<M: Memory>(memory: &M, parsed: &Packet, packet: &mut M::Packet, field: usize) {
    let sum = checksum::complete(parsed, memory.segments(packet)).to_be_bytes();
    let head = memory.head_mut(packet);
    debug_assert!(array::<2>(head, field).is_some(), "`partial` read the field");
    if let Some(bytes) = head.get_mut(field..field + 2) {
        bytes.copy_from_slice(&sum);
    }
}
