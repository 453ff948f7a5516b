//! The question the policy is asked: a packet, or the packet that began a flow.

use espalier_api::Direction;
use espalier_rules::{Decision, Engine, Tuple};

use crate::flow::{FlowKey, Selector};
use crate::ip::Ip;
use crate::packet::Upper;
use crate::tables::{PodTable, Tables};

/// The decision of the pod's policy.
pub(super) fn judge(tables: &Tables, pod: &PodTable, packet: Tuple) -> Decision {
    pod.policy.map_or(Decision::Deny, |policy| tables.judge.judge(policy, &packet))
}

/// A packet as the policy sees it.
pub(crate) fn tuple(direction: Direction, remote: Ip, protocol: u8, upper: Upper) -> Tuple {
    let remote = remote.into();
    match upper {
        Upper::Tcp { source, destination, .. } | Upper::Udp { source, destination } => {
            Tuple::with_ports(direction, remote, protocol, source, destination)
        }
        Upper::Icmp { kind, code, .. } => Tuple::icmp(direction, remote, protocol, kind, code),
        Upper::Opaque => Tuple::bare(direction, remote, protocol),
    }
}

/// The first packet of a flow that `initiator` began.
pub(crate) fn opening(key: &FlowKey, initiator: Direction) -> Tuple {
    let (remote, number) = (key.remote(), key.protocol());
    match key.selector() {
        Selector::Ports { local, remote: remote_port } => {
            let (source, destination) = match initiator {
                Direction::Ingress => (remote_port, local),
                Direction::Egress => (local, remote_port),
            };
            Tuple::with_ports(initiator, remote, number, source, destination)
        }
        Selector::Query { request, .. } => Tuple::icmp(initiator, remote, number, request, 0),
        Selector::Addresses => Tuple::bare(initiator, remote, number),
    }
}
