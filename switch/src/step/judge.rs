//! The question the policy is asked: a packet, or the packet that began the flow it belongs to.

use espalier_api::Direction;
use espalier_rules::{Decision, Engine, Tuple};

use super::remote;
use super::track::Leg;
use crate::packet::{Packet, Upper, protocol};
use crate::tables::{PodTable, Tables};

/// The decision for this packet as it is.
pub(super) fn judge(tables: &Tables, pod: &PodTable, leg: &Leg<'_>) -> Decision {
    decide(tables, pod, tuple(leg.packet, leg.direction))
}

/// The decision for the first packet of the flow that this packet belongs to, which `initiator` sent.
pub(super) fn judge_initiator(
    tables: &Tables,
    pod: &PodTable,
    leg: &Leg<'_>,
    initiator: Direction,
) -> Decision {
    match initiator == leg.direction {
        true => judge(tables, pod, leg),
        false => decide(tables, pod, opening(leg.packet, leg.direction, initiator)),
    }
}

fn decide(tables: &Tables, pod: &PodTable, tuple: Tuple) -> Decision {
    pod.policy.map_or(Decision::Deny, |policy| tables.judge.judge(policy, &tuple))
}

fn tuple(packet: &Packet, direction: Direction) -> Tuple {
    let remote = remote(packet, direction);
    match packet.upper {
        Upper::Tcp { source, destination, .. } | Upper::Udp { source, destination } => {
            Tuple::with_ports(direction, remote, packet.protocol, source, destination)
        }
        Upper::Icmp { kind, code, .. } => Tuple::icmp(direction, remote, packet.protocol, kind, code),
        Upper::Opaque => Tuple::bare(direction, remote, packet.protocol),
    }
}

/// The packet that this one answers.
fn opening(reply: &Packet, direction: Direction, initiator: Direction) -> Tuple {
    let remote = remote(reply, direction);
    match reply.upper {
        Upper::Tcp { source, destination, .. } | Upper::Udp { source, destination } => {
            Tuple::with_ports(initiator, remote, reply.protocol, destination, source)
        }
        Upper::Icmp { kind, .. } => {
            Tuple::icmp(initiator, remote, reply.protocol, request_of(reply.protocol, kind), 0)
        }
        Upper::Opaque => Tuple::bare(initiator, remote, reply.protocol),
    }
}

/// The ICMP type of the request that a reply answers.
fn request_of(number: u8, reply: u8) -> u8 {
    match (number, reply) {
        (protocol::ICMP, 0) => 8,
        (protocol::ICMPV6, 129) => 128,
        (_, other) => other,
    }
}
