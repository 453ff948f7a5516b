//! `POST /v1/trace`: makes the packet somebody asks about, and takes it through the workers that it would meet.

use std::net::IpAddr;

use espalier_api::trace::{DEFAULT_SOURCE_PORT, Stage, TcpFlags, Trace, TraceRequest};
use espalier_api::{Direction, InputError, Pod, Verdict, protocol};
use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder, TcpHeader};

use super::stages::{Narrator, line};
use super::{Manager, ManagerError};
use crate::flow::PodSlot;
use crate::packet;
use crate::step::{From, Handed, Outcome, Traced};

/// Who stands for a MAC address that is not known: the trace then says what the switch would make of that.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 1];

impl Manager {
    /// What would become of the packet.
    pub fn trace(&self, request: &TraceRequest) -> Result<Trace, ManagerError> {
        let injected = self.inject(request)?;
        let narrator = Narrator::new(self);
        let mut stages: Vec<Stage> = Vec::new();
        let mut packet = String::new();
        let (mut worker, mut from, mut frame) = (injected.worker, injected.from, injected.frame);
        let last = loop {
            let traced = self.trace_at(worker, from, frame)?;
            if let Some(seen) = &traced.seen {
                packet = seen.parsed.as_ref().map_or(packet, line);
                stages.extend(narrator.stages(worker, seen));
            }
            match (traced.outcome, from) {
                // Its pod's home hands nothing on.
                (Outcome::HandOver { to }, From::Pod { .. }) => {
                    worker = self.worker_of(to);
                    (from, frame) = (From::Peer(Handed::Pod), traced.frame);
                }
                _ => break traced,
            }
        };
        let dropped = match last.outcome {
            Outcome::Drop(reason) => Some(reason.label().to_owned()),
            _ => None,
        };
        Ok(Trace {
            verdict: if dropped.is_some() { Verdict::Deny } else { Verdict::Allow },
            reason: dropped,
            port: last.seen.as_ref().and_then(|seen| narrator.packet(worker, seen, false).to),
            packet,
            generation: self.snapshot().map(|snapshot| snapshot.generation).unwrap_or_default(),
            stages,
        })
    }

    fn trace_at(&self, worker: usize, from: From, frame: Vec<u8>) -> Result<Traced, ManagerError> {
        let crew = self.crew()?;
        let handle = crew.handles().get(worker);
        let handle = handle.ok_or_else(|| ManagerError::Failed(format!("there is no worker {worker}")))?;
        let traced = handle.trace(from, frame).map_err(ManagerError::failed)?;
        traced.ok_or_else(|| ManagerError::Failed(format!("worker {worker} has no tables yet")))
    }

    fn worker_of(&self, slot: PodSlot) -> usize {
        self.pods.values().find(|port| port.slot == slot).map_or(0, |port| port.home)
    }

    /// The frame as it would come, and where. What another pod of this node sends to the pod begins at that pod.
    fn inject(&self, request: &TraceRequest) -> Result<Injected, InputError> {
        let pods = &self.snapshot()?.pods;
        let port = self.known_pod(&request.pod).map_err(|message| InputError::new("pod", message))?;
        let none = || InputError::new("pod", format!("{} has gone", request.pod));
        let pod = pods.iter().find(|pod| pod.name == request.pod).ok_or_else(none)?;
        let local = local_address(pod, request)?;
        let other = pods.iter().find(|pod| pod.addresses.contains(&request.remote));
        let (source, destination) = match request.direction {
            Direction::Egress => (local, request.remote),
            Direction::Ingress => (request.remote, local),
        };
        match (request.direction, other) {
            (Direction::Egress, _) => self.sent_by(pod, other.is_none(), (source, destination), request),
            (Direction::Ingress, Some(sender)) => self.sent_by(sender, false, (source, destination), request),
            (Direction::Ingress, None) => {
                let frame = frame((NOBODY, pod.mac.octets()), (source, destination), request)?;
                Ok(Injected { worker: port.home, from: From::Trunk { vlan: pod.vlan.get() }, frame })
            }
        }
    }

    fn sent_by(
        &self,
        pod: &Pod,
        tagged: bool,
        ends: (IpAddr, IpAddr),
        request: &TraceRequest,
    ) -> Result<Injected, InputError> {
        let port = self.pods.get(&pod.name);
        let port = port.ok_or_else(|| InputError::new("pod", format!("{} has no port", pod.name)))?;
        let mac = self.pod_mac(port.home, port.slot).unwrap_or(NOBODY);
        let mut frame = frame((mac, NOBODY), ends, request)?;
        if tagged {
            packet::put_tag(&mut frame, pod.vlan.get());
        }
        Ok(Injected { worker: port.home, from: From::Pod { slot: port.slot, tagged }, frame })
    }

    fn pod_mac(&self, home: usize, slot: PodSlot) -> Option<[u8; 6]> {
        let handle = self.crew.as_ref()?.handles().get(home)?;
        handle.report().ok()?.links.get(slot.index())?.pod_mac
    }
}

/// A frame, where it comes from, and the worker that gets it.
struct Injected {
    worker: usize,
    from: From,
    frame: Vec<u8>,
}

/// The pod's end: as asked for, or its first address of the remote's family.
fn local_address(pod: &Pod, request: &TraceRequest) -> Result<IpAddr, InputError> {
    let alike = |address: &IpAddr| address.is_ipv4() == request.remote.is_ipv4();
    let listed = || pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match request.local {
        Some(local) if !alike(&local) => {
            Err(InputError::new("local", format!("{local} and {} are of two families", request.remote)))
        }
        // One that is not the pod's is worth a trace: the guard says so.
        Some(local) => Ok(local),
        None => pod.addresses.iter().copied().find(alike).ok_or_else(|| {
            let message = format!(
                "{} is of a family that {} has no address of: it has {}",
                request.remote,
                pod.name,
                listed()
            );
            InputError::new("remote", message)
        }),
    }
}

fn frame(
    macs: ([u8; 6], [u8; 6]),
    ends: (IpAddr, IpAddr),
    request: &TraceRequest,
) -> Result<Vec<u8>, InputError> {
    const HOPS: u8 = 64;
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let ip = match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), HOPS),
        _ => return Err(InputError::new("remote", "both ends must be of one family")),
    };
    let payload = vec![0; usize::from(request.payload)];
    let port = || {
        let message = format!("missing, {} needs the destination port", request.protocol);
        request.port.ok_or_else(|| InputError::new("port", message))
    };
    let kind = || {
        let message =
            format!("missing, {} needs the type (8 is an echo request, 128 in ICMPv6)", request.protocol);
        request.icmp_type.ok_or_else(|| InputError::new("icmpType", message))
    };
    let source_port = request.source_port.unwrap_or(DEFAULT_SOURCE_PORT);
    let code = request.icmp_code.unwrap_or_default();
    let mut frame = Vec::new();
    let written = match request.protocol.0 {
        protocol::TCP => {
            let header = tcp(source_port, port()?, request.tcp_flags.unwrap_or(TcpFlags::SYN));
            ip.tcp_header(header).write(&mut frame, &payload)
        }
        protocol::UDP => ip.udp(source_port, port()?).write(&mut frame, &payload),
        protocol::ICMP => ip.icmpv4(icmpv4(kind()?, code)).write(&mut frame, &payload),
        protocol::ICMPV6 => ip.icmpv6(icmpv6(kind()?, code)).write(&mut frame, &payload),
        other => ip.write(&mut frame, IpNumber(other), &payload),
    };
    written.map_err(|error| InputError::new("", format!("no such packet: {error}")))?;
    Ok(frame)
}

fn tcp(source: u16, destination: u16, TcpFlags(flags): TcpFlags) -> TcpHeader {
    let [fin, syn, rst, psh, ack, urg] = [0, 1, 2, 3, 4, 5].map(|bit| flags >> bit & 1 == 1);
    TcpHeader { fin, syn, rst, psh, ack, urg, ..TcpHeader::new(source, destination, 1, u16::MAX) }
}

/// With identifier 1, sequence number 1 where the type has those.
const REST: [u8; 4] = [0, 1, 0, 1];

fn icmpv4(kind: u8, code: u8) -> Icmpv4Type {
    Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: REST }
}

fn icmpv6(kind: u8, code: u8) -> Icmpv6Type {
    Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: REST }
}
