//! The packets of the benches: the smallest frames of a flow in either direction, patched from a template.
//!
//! Called outside the measured time. The upper layer's checksum is that of the template: nothing on the step's way
//! verifies it, as on a NIC that has done so.

use std::net::IpAddr;

use anyhow::{Context, Result};
use espalier_api::Direction;
use espalier_switch::checksum;
use espalier_switch::flow::{FlowKey, PodSlot, tcp_flag};
use etherparse::PacketBuilder;

use super::arena::Frame;
use super::world::{GATEWAY_MAC, branch_mac, pod_mac, veth_mac, vlan};

pub(super) use espalier_api::protocol::{TCP, UDP};

const ETHERNET: usize = 14;
const TAG: usize = 4;
/// Bytes of a frame that has room to spare.
const SMALLEST: usize = 64;

/// What tells one flow from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) slot: PodSlot,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) protocol: u8,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
}

impl Ends {
    /// As the flow table knows it.
    pub(super) fn key(&self) -> FlowKey {
        let Self { slot, local, remote, protocol, local_port, remote_port } = *self;
        FlowKey::tcp_udp(slot, local, remote, protocol, local_port, remote_port)
    }
}

/// A frame of one family and protocol, to be patched.
#[derive(Debug)]
pub(super) struct Template {
    untagged: Vec<u8>,
    tagged: Vec<u8>,
}

impl Template {
    /// With these TCP flags, if it is TCP: SYN or ACK.
    pub(super) fn new(v6: bool, protocol: u8, tcp_flags: u8) -> Result<Self> {
        let ethernet = PacketBuilder::ethernet2([0; 6], [0; 6]);
        let (ip, headers) = match v6 {
            true => (ethernet.ipv6([1; 16], [2; 16], 64), ETHERNET + 40),
            false => (ethernet.ipv4([1; 4], [2; 4], 64), ETHERNET + 20),
        };
        let upper = if protocol == TCP { 20 } else { 8 };
        let payload = vec![0x5a; SMALLEST.saturating_sub(headers + upper)];
        let mut untagged = Vec::new();
        match (protocol, tcp_flags) {
            (TCP, tcp_flag::SYN) => ip.tcp(1, 2, 3, 1000).syn().write(&mut untagged, &payload),
            (TCP, _) => ip.tcp(1, 2, 3, 1000).ack(1).write(&mut untagged, &payload),
            _ => ip.udp(1, 2).write(&mut untagged, &payload),
        }
        .context("a template cannot be made")?;
        let mut tagged = untagged.clone();
        tagged.splice(ETHERNET - 2..ETHERNET - 2, [0x81, 0, 0, 0]);
        Ok(Self { untagged, tagged })
    }

    /// Writes the flow's frame from the trunk (its tag already off) or from the pod (tagged by the steering program).
    pub(super) fn write(&self, frame: &mut Frame<'_>, ends: &Ends, direction: Direction) {
        let Ends { slot, local, remote, local_port, remote_port, .. } = *ends;
        let (template, l3, macs) = match direction {
            Direction::Ingress => (&self.untagged, ETHERNET, [branch_mac(slot), GATEWAY_MAC]),
            Direction::Egress => (&self.tagged, ETHERNET + TAG, [veth_mac(slot), pod_mac(slot)]),
        };
        let ((source, from), (destination, to)) = match direction {
            Direction::Ingress => ((remote, remote_port), (local, local_port)),
            Direction::Egress => ((local, local_port), (remote, remote_port)),
        };
        let bytes = frame.copy(template);
        bytes[..12].copy_from_slice(macs.as_flattened());
        if direction == Direction::Egress {
            bytes[14..16].copy_from_slice(&vlan(slot).to_be_bytes());
        }
        let l4 = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes[l3 + 10..l3 + 12].fill(0);
                bytes[l3 + 12..l3 + 16].copy_from_slice(&source.octets());
                bytes[l3 + 16..l3 + 20].copy_from_slice(&destination.octets());
                let sum = checksum::of(&bytes[l3..l3 + 20]);
                bytes[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
                l3 + 20
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes[l3 + 8..l3 + 24].copy_from_slice(&source.octets());
                bytes[l3 + 24..l3 + 40].copy_from_slice(&destination.octets());
                l3 + 40
            }
            _ => unreachable!("both ends of a flow are of one family"),
        };
        bytes[l4..l4 + 2].copy_from_slice(&from.to_be_bytes());
        bytes[l4 + 2..l4 + 4].copy_from_slice(&to.to_be_bytes());
    }
}
