//! A switch without a kernel: the pure step over frames on the heap, two pods on a node, and the frames they send.

use std::net::IpAddr;

use espalier_api::Snapshot;
use espalier_rules::Judge;
use espalier_switch::flow::fragment::{FragmentConfig, Fragments};
use espalier_switch::flow::{FlowConfig, FlowTable, Now, PodSlot, Timeouts};
use espalier_switch::neighbour::HostEnd;
use espalier_switch::reason::DropReason;
use espalier_switch::responder::Originated;
pub(crate) use espalier_switch::step::Heap;
use espalier_switch::step::{self, From, Outcome, Shard, ShardParts};
use espalier_switch::tables::Tables;
use etherparse::PacketBuilder;

pub(crate) const WEB: PodSlot = PodSlot(0);
pub(crate) const DB: PodSlot = PodSlot(1);
pub(crate) const WEB_IP: &str = "10.0.1.10";
pub(crate) const DB_IP: &str = "10.0.1.11";
pub(crate) const WEB_IP6: &str = "2001:db8:1::10";
pub(crate) const DB_IP6: &str = "2001:db8:1::11";
pub(crate) const HOST_IP: &str = "10.0.9.9";
pub(crate) const HOST_IP6: &str = "2001:db8:9::9";
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0xee, 0, 0, 0, 1];
pub(crate) const POD_MAC: [[u8; 6]; 2] = [[2, 0xaa, 0, 0, 0, 1], [2, 0xaa, 0, 0, 0, 2]];
pub(crate) const VETH_MAC: [[u8; 6]; 2] = [[2, 0xbb, 0, 0, 0, 1], [2, 0xbb, 0, 0, 0, 2]];
pub(crate) const BRANCH_MAC: [[u8; 6]; 2] = [[2, 0xcc, 0, 0, 0, 1], [2, 0xcc, 0, 0, 0, 2]];
pub(crate) const VLAN: [u16; 2] = [101, 102];

/// `web` may go anywhere and be reached from `10.0.9.0/24` on 80 and by ping; `db` only from `web`'s group on 5432.
pub(crate) const SNAPSHOT: &str = "
generation: 1
vpc: {cidrs: [10.0.0.0/16]}
trunk: {interface: trunk0}
pods:
  - {name: default/web, eniId: eni-1, vlan: 101, mac: '02:cc:00:00:00:01', veth: veth1, securityGroups: [sg-web],
     addresses: [10.0.1.10, '2001:db8:1::10'], subnets: [10.0.1.0/24, '2001:db8:1::/64'], gateway: {mac: '02:ee:00:00:00:01'}}
  - {name: default/db, eniId: eni-2, vlan: 102, mac: '02:cc:00:00:00:02', veth: veth2, securityGroups: [sg-db],
     addresses: [10.0.1.11, '2001:db8:1::11'], subnets: [10.0.1.0/24, '2001:db8:1::/64'], gateway: {mac: '02:ee:00:00:00:01'}}
securityGroups:
  - groupId: sg-web
    rules:
      - {SecurityGroupRuleId: sgr-out, IsEgress: true, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}
      - {SecurityGroupRuleId: sgr-out6, IsEgress: true, IpProtocol: '-1', CidrIpv6: '::/0'}
      - {SecurityGroupRuleId: sgr-80, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 10.0.9.0/24}
      - {SecurityGroupRuleId: sgr-806, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv6: '2001:db8:9::/64'}
      - {SecurityGroupRuleId: sgr-udp, IpProtocol: udp, FromPort: 7, ToPort: 7, CidrIpv4: 10.0.9.0/24}
      - {SecurityGroupRuleId: sgr-ping, IpProtocol: icmp, FromPort: 8, ToPort: -1, CidrIpv4: 10.0.9.0/24}
  - groupId: sg-db
    rules:
      - {SecurityGroupRuleId: sgr-5432, IpProtocol: tcp, FromPort: 5432, ToPort: 5432, ReferencedGroupInfo: {GroupId: sg-web}}
";

/// A shard with its tables.
pub(crate) struct Bench {
    pub(crate) tables: Tables,
    pub(crate) shard: Shard<Vec<u8>>,
    pub(crate) now: Now,
}

impl Bench {
    /// Both pods attached, their MACs known.
    pub(crate) fn new() -> Self {
        let mut bench = Self::with(SNAPSHOT);
        for slot in [WEB, DB] {
            bench.shard.links.link_mut(slot).pod_mac = Some(POD_MAC[slot.index()]);
        }
        bench
    }

    /// Both pods attached, nothing learned.
    pub(crate) fn with(snapshot: &str) -> Self {
        let mut shard = Shard::new(ShardParts {
            flows: FlowTable::new(&FlowConfig::sized(1024, 2, [1, 2])).unwrap(),
            fragments: Fragments::new(FragmentConfig::for_pods(2)).unwrap(),
            related_errors: true,
            slots: 2,
        });
        for slot in [WEB, DB] {
            shard.links.attached(slot, HostEnd { mac: VETH_MAC[slot.index()], mtu: 1500 });
        }
        Self { tables: tables(snapshot), shard, now: Now(1000) }
    }

    /// The snapshot changes.
    pub(crate) fn publish(&mut self, snapshot: &str) {
        self.tables = tables(snapshot);
    }

    /// One frame through the step; whatever came out.
    pub(crate) fn step(&mut self, from: From, frame: &[u8]) -> Vec<(Vec<u8>, Outcome)> {
        self.batch(vec![(from, frame.to_vec())])
    }

    /// Frames through the step, as one batch.
    pub(crate) fn batch(&mut self, frames: Vec<(From, Vec<u8>)>) -> Vec<(Vec<u8>, Outcome)> {
        let (from, mut packets): (Vec<From>, Vec<Vec<u8>>) = frames.into_iter().unzip();
        let mut from = from.into_iter();
        let next = |_: &Vec<u8>| from.next().unwrap();
        let mut decided = Vec::new();
        step::step(&Heap, &mut self.shard, &self.tables, self.now, next, &mut packets, &mut decided);
        for (frame, outcome) in &decided {
            if let Outcome::Forward(exit) = outcome {
                self.shard.counters.forwarded(*exit, frame.len());
            }
        }
        decided
    }

    /// One frame that must come out again at once.
    pub(crate) fn one(&mut self, from: From, frame: &[u8]) -> (Vec<u8>, Outcome) {
        let mut decided = self.step(from, frame);
        assert_eq!(decided.len(), 1, "{decided:?}");
        decided.remove(0)
    }

    /// One frame that must be dropped, and be counted so.
    pub(crate) fn dropped(&mut self, from: From, frame: &[u8]) -> DropReason {
        let before = self.shard.counters.totals.dropped.clone();
        match self.one(from, frame).1 {
            Outcome::Drop(reason) => {
                assert_eq!(self.shard.counters.totals.dropped.of(reason), before.of(reason) + 1);
                assert!(self.shard.counters.totals.balances());
                reason
            }
            other => panic!("{other:?}"),
        }
    }

    /// One frame that must leave by the port.
    pub(crate) fn forwarded(&mut self, from: From, frame: &[u8], to: Option<PodSlot>) -> Vec<u8> {
        let (frame, outcome) = self.one(from, frame);
        assert!(matches!(outcome, Outcome::Forward(exit) if exit.pod() == to), "{outcome:?}");
        assert!(self.shard.counters.totals.balances());
        frame
    }

    /// One frame that the responder must use up; what it answered.
    pub(crate) fn consumed(&mut self, from: From, frame: &[u8]) -> Vec<Originated> {
        assert_eq!(self.one(from, frame).1, Outcome::Consumed);
        std::mem::take(&mut self.shard.originated)
    }
}

fn tables(snapshot: &str) -> Tables {
    let snapshot = Snapshot::from_yaml(snapshot).unwrap();
    let (judge, warnings) = Judge::compiled(&snapshot);
    assert!(warnings.is_empty(), "{warnings:?}");
    Tables::new(&snapshot, judge, &[WEB, DB], 2, Timeouts::NITRO)
}

/// From the trunk, on a pod's branch.
pub(crate) fn trunk(slot: PodSlot) -> From {
    From::Trunk { vlan: VLAN[slot.index()] }
}

/// From a pod, tagged for the trunk.
pub(crate) fn pod(slot: PodSlot) -> From {
    From::Pod { slot, tagged: true }
}

/// From a pod, untagged: for a local pod or for the switch.
pub(crate) fn local(slot: PodSlot) -> From {
    From::Pod { slot, tagged: false }
}

/// What a packet carries.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    Syn(u16, u16),
    SynAck(u16, u16),
    Ack(u16, u16),
    Udp(u16, u16),
    Ping(u16),
    Pong(u16),
    AskTime(u16),
    TellTime(u16),
}

/// An IP packet in an Ethernet frame.
pub(crate) fn frame(macs: ([u8; 6], [u8; 6]), source: &str, destination: &str, load: Load) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let ip = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("families differ"),
    };
    let v6 = source.contains(':');
    let mut frame = Vec::new();
    match load {
        Load::Syn(from, to) => ip.tcp(from, to, 1, 1000).syn().write(&mut frame, b""),
        Load::SynAck(from, to) => ip.tcp(from, to, 1, 1000).syn().ack(1).write(&mut frame, b""),
        Load::Ack(from, to) => ip.tcp(from, to, 1, 1000).ack(1).write(&mut frame, b"payload"),
        Load::Udp(from, to) => ip.udp(from, to).write(&mut frame, b"payload"),
        Load::Ping(id) if v6 => ip.icmpv6_echo_request(id, 1).write(&mut frame, b"ping"),
        Load::Pong(id) if v6 => ip.icmpv6_echo_reply(id, 1).write(&mut frame, b"ping"),
        Load::AskTime(id) => ip.icmpv4_raw(13, 0, time(id)).write(&mut frame, &[0; 12]),
        Load::TellTime(id) => ip.icmpv4_raw(14, 0, time(id)).write(&mut frame, &[0; 12]),
        Load::Ping(id) => ip.icmpv4_echo_request(id, 1).write(&mut frame, b"ping"),
        Load::Pong(id) => ip.icmpv4_echo_reply(id, 1).write(&mut frame, b"ping"),
    }
    .unwrap();
    frame
}

/// Identifier and sequence number of an ICMP timestamp message.
fn time(id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [high, low, 0, 1]
}

/// A frame of a host on the VPC's side, its tag already off.
pub(crate) fn from_host(slot: PodSlot, source: &str, destination: &str, load: Load) -> Vec<u8> {
    frame((GATEWAY_MAC, BRANCH_MAC[slot.index()]), source, destination, load)
}

/// A frame of a pod as its kernel sends it.
pub(crate) fn from_pod(slot: PodSlot, source: &str, destination: &str, load: Load) -> Vec<u8> {
    frame((POD_MAC[slot.index()], VETH_MAC[slot.index()]), source, destination, load)
}

/// The frame with the branch's tag, as the steering program writes it.
pub(crate) fn tagged(slot: PodSlot, mut frame: Vec<u8>) -> Vec<u8> {
    let vlan = VLAN[slot.index()].to_be_bytes();
    frame.splice(12..12, [0x81, 0, vlan[0], vlan[1]]);
    frame
}
