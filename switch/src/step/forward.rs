//! The last stage: next hop, MAC addresses, and the checksum that a pod's transmit offload left open.

use super::{Memory, Path};
use crate::checksum;
use crate::counters::Blame;
use crate::flow::PodSlot;
use crate::neighbour::Links;
use crate::packet::{Packet, array};
use crate::reason::DropReason;
use crate::tables::Tables;

/// Why it cannot leave, and whose drop that is.
type Refused = (DropReason, Blame);

/// Rewrites the packet for the port it leaves by. Says whose drop it is if that port does not take it.
pub(super) fn forward<M: Memory>(
    memory: &M,
    links: &Links,
    tables: &Tables,
    parsed: &Packet,
    path: Path,
    packet: &mut M::Packet,
) -> Result<Blame, Refused> {
    let (destination, source, blame) = match path {
        Path { destination: Some(slot), .. } => to_pod(links, parsed, memory.len(packet), slot)?,
        Path { source: Some(slot), .. } => to_trunk(links, tables, parsed, slot)?,
        Path { source: None, destination: None } => {
            return Err((DropReason::PortUnknown, Blame::Nobody));
        }
    };
    if path.source.is_some() {
        complete_checksum(memory, parsed, packet);
    }
    if let Some(macs) = memory.head_mut(packet).first_chunk_mut::<12>() {
        macs[..6].copy_from_slice(&destination);
        macs[6..].copy_from_slice(&source);
    }
    Ok(blame)
}

type Hop = ([u8; 6], [u8; 6], Blame);

fn to_pod(links: &Links, parsed: &Packet, total: usize, slot: PodSlot) -> Result<Hop, Refused> {
    let blame = Blame::Ingress(slot);
    let link = links.link(slot);
    let host = link.host.ok_or((DropReason::PortDown, blame))?;
    let pod_mac = link.pod_mac.ok_or((DropReason::PodUnresolved, blame))?;
    if total - usize::from(parsed.l3) > host.mtu as usize {
        return Err((DropReason::PacketTooBig, blame));
    }
    Ok((pod_mac, host.mac, blame))
}

fn to_trunk(links: &Links, tables: &Tables, parsed: &Packet, slot: PodSlot) -> Result<Hop, Refused> {
    let blame = Blame::Egress(slot);
    let pod = tables.pod(slot).ok_or((DropReason::PortUnknown, blame))?;
    let gateway = links.link(slot).gateway_mac(pod, parsed.destination);
    let gateway = gateway.ok_or((DropReason::GatewayUnresolved, blame))?;
    Ok((gateway, pod.mac, blame))
}

fn complete_checksum<M: Memory>(memory: &M, parsed: &Packet, packet: &mut M::Packet) {
    let Some(field) = checksum::partial(parsed, memory.head(packet)) else { return };
    let sum = checksum::complete(parsed, memory.segments(packet)).to_be_bytes();
    let head = memory.head_mut(packet);
    debug_assert!(array::<2>(head, field).is_some(), "`partial` read the field");
    if let Some(bytes) = head.get_mut(field..field + 2) {
        bytes.copy_from_slice(&sum);
    }
}
