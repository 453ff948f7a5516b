//! Two workers decide as one: the same packets through one shard that has both pods, and through two that have one each
//! and hand over to each other, must end the same, byte for byte and counter for counter.

use std::collections::HashMap;

use espalier_switch::counters::{PodTotals, Totals};
use espalier_switch::flow::{Now, PodSlot, RuleCounts, RuleKey};
use espalier_switch::reason::DropReason;
use espalier_switch::step::{self, From, Handed, Outcome, Presence};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder};
use proptest::prelude::*;

use crate::harness::*;

/// Who sends a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender {
    /// A host, to this pod, by a queue of the trunk that this worker serves.
    Trunk { to: usize, queue: usize },
    /// This pod, out of the node.
    Out(usize),
    /// This pod, to the other.
    Across(usize),
}

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A packet. With the checksum left to the NIC where a pod sends it.
    Packet { sender: Sender, v6: bool, kind: u8, ports: (u16, u16), partial: bool },
    /// A part of a datagram between the pods: which, of which datagram.
    Fragment { from: usize, part: usize, id: u16 },
    /// An ICMP error from one pod to the other, about what it may have been sent.
    Error { from: usize, ports: (u16, u16) },
    /// Time passes.
    Wait(u64),
    /// The rules change, and change back.
    Rules(bool),
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let sender = prop_oneof![
        1 => (0..2usize, 0..2usize).prop_map(|(to, queue)| Sender::Trunk { to, queue }),
        1 => (0..2usize).prop_map(Sender::Out),
        4 => (0..2usize).prop_map(Sender::Across),
    ];
    let port = prop_oneof![Just(5432u16), Just(80), Just(7), 4000..4003u16];
    let ports = (port.clone(), port);
    prop_oneof![
        12 => (sender, any::<bool>(), 0..7u8, ports.clone(), any::<bool>()).prop_map(
            |(sender, v6, kind, ports, partial)| Event::Packet { sender, v6, kind, ports, partial }
        ),
        4 => (0..2usize, 0..3usize, 0..3u16).prop_map(|(from, part, id)| Event::Fragment { from, part, id }),
        2 => (0..2usize, ports).prop_map(|(from, ports)| Event::Error { from, ports }),
        1 => (1..700u64).prop_map(Event::Wait),
        1 => any::<bool>().prop_map(Event::Rules),
    ]
}

const SLOTS: [PodSlot; 2] = [WEB, DB];
const OWN: [[&str; 2]; 2] = [[WEB_IP, WEB_IP6], [DB_IP, DB_IP6]];
const FAR: [&str; 2] = [HOST_IP, HOST_IP6];

/// Everybody's UDP and pings to `db`, so that more than TCP crosses.
pub(crate) fn rules(wide: bool) -> String {
    let more = "      - {SecurityGroupRuleId: sgr-udp-db, IpProtocol: udp, FromPort: 0, ToPort: 65535, CidrIpv4: 10.0.0.0/8}
      - {SecurityGroupRuleId: sgr-ping-db, IpProtocol: icmp, FromPort: -1, ToPort: -1, CidrIpv4: 10.0.0.0/8}
";
    let text =
        SNAPSHOT.replace("groupId: sg-db\n    rules:\n", &format!("groupId: sg-db\n    rules:\n{more}"));
    assert_ne!(text, SNAPSHOT);
    match wide {
        true => text,
        false => {
            let kept = text.lines().filter(|line| !line.contains("sgr-5432") && !line.contains("sgr-udp-db"));
            kept.collect::<Vec<_>>().join("\n").replace("generation: 1", "generation: 2")
        }
    }
}

/// The frame and where it comes from, for a switch with one worker.
pub(crate) fn frame_of(event: Event) -> Option<(From, Vec<u8>)> {
    match event {
        Event::Packet { sender, v6, kind, ports: (a, b), partial } => {
            let load = match kind {
                0 => Load::Syn(a, b),
                1 => Load::SynAck(a, b),
                2 => Load::Ack(a, b),
                3 => Load::Udp(a, b),
                4 => Load::Ping(a),
                5 => Load::Pong(a),
                _ if v6 => Load::Udp(b, a),
                _ => Load::AskTime(a),
            };
            let family = usize::from(v6);
            let (from, mut frame) = match sender {
                Sender::Trunk { to, .. } => {
                    (trunk(SLOTS[to]), from_host(SLOTS[to], FAR[family], OWN[to][family], load))
                }
                Sender::Out(pod_) => {
                    (pod(SLOTS[pod_]), from_pod(SLOTS[pod_], OWN[pod_][family], FAR[family], load))
                }
                Sender::Across(pod) => {
                    (local(SLOTS[pod]), from_pod(SLOTS[pod], OWN[pod][family], OWN[1 - pod][family], load))
                }
            };
            if partial && kind <= 2 && !v6 && !matches!(sender, Sender::Trunk { .. }) {
                leave_partial(&mut frame);
            }
            Some((from, if let Sender::Out(pod) = sender { tagged(SLOTS[pod], frame) } else { frame }))
        }
        Event::Fragment { from, part, id } => Some((local(SLOTS[from]), fragment(from, part, id))),
        Event::Error { from, ports: (a, b) } => {
            let [own, other] =
                [OWN[from][0], OWN[1 - from][0]].map(|text| text.parse::<std::net::Ipv4Addr>().unwrap());
            let about = frame(([0; 6], [0; 6]), &other.to_string(), &own.to_string(), Load::Udp(a, b));
            let mut error = Vec::new();
            PacketBuilder::ethernet2(POD_MAC[from], VETH_MAC[from])
                .ipv4(own.octets(), other.octets(), 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port))
                .write(&mut error, &about[14..42])
                .unwrap();
            Some((local(SLOTS[from]), error))
        }
        Event::Wait(_) | Event::Rules(_) => None,
    }
}

/// A part of a datagram from one pod to the other.
fn fragment(from: usize, part: usize, id: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let ends =
        [OWN[from][0], OWN[1 - from][0]].map(|text| text.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let macs = (POD_MAC[from], VETH_MAC[from]);
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(ends[0], ends[1], 64)
        .udp(4000, 7)
        .write(&mut frame, &[id as u8; 56])
        .unwrap();
    let mut parts = crate::stages::fragments(&frame, 24);
    let mut frame = parts.swap_remove(part);
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[24..26].fill(0);
    let sum = espalier_switch::checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Leaves a TCP checksum as Linux does for a NIC to complete: the sum of the pseudo-header.
fn leave_partial(frame: &mut [u8]) {
    let words = frame[26..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>() + 6 + (frame.len() - 34) as u32;
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[50..52].copy_from_slice(&(folded as u16).to_be_bytes());
}

/// A shard at each of two workers, with the ring between them.
struct Pair([Bench; 2]);

impl Pair {
    fn new() -> Self {
        let mut pair = [Bench::new(), Bench::new()];
        for (worker, bench) in pair.iter_mut().enumerate() {
            bench.publish(&rules(true));
            bench.shard.presence[1 - worker] = Presence::Away;
        }
        Self(pair)
    }

    /// One packet to its end: what became of it, and of those it released.
    fn step(&mut self, event: Event, from: From, frame: &[u8]) -> Vec<(Vec<u8>, Outcome)> {
        let (worker, from) = match (event, from) {
            // Handed over unseen where the queue is another worker's, which the worker does before the step.
            (Event::Packet { sender: Sender::Trunk { to, queue }, .. }, From::Trunk { vlan })
                if to != queue =>
            {
                let counters = &mut self.0[queue].shard.counters;
                counters.received(None, frame.len());
                counters.handed_out(1);
                (to, From::Peer(Handed::Trunk { vlan }))
            }
            (_, From::Trunk { vlan }) => (usize::from(vlan != VLAN[0]), from),
            (_, From::Pod { slot, .. }) => (slot.index(), from),
            (_, From::Peer(_)) => unreachable!("one worker has no peers"),
        };
        let decided = self.0[worker].step(from, frame);
        decided.into_iter().flat_map(|(frame, outcome)| self.follow(worker, frame, outcome)).collect()
    }

    fn follow(&mut self, worker: usize, frame: Vec<u8>, outcome: Outcome) -> Vec<(Vec<u8>, Outcome)> {
        let Outcome::HandOver { to } = outcome else { return vec![(frame, outcome)] };
        assert_eq!(to.index(), 1 - worker);
        self.0[worker].shard.counters.handed_out(1);
        self.0[to.index()].step(From::Peer(Handed::Pod), &frame)
    }

    fn expire(&mut self) -> Vec<(Vec<u8>, Outcome)> {
        let mut decided = Vec::new();
        for bench in &mut self.0 {
            step::expire(&Heap, &mut bench.shard, &bench.tables, bench.now, &mut decided);
        }
        decided
    }
}

/// What became of packets. The bytes of one that is not sent do not matter.
fn ends(decided: Vec<(Vec<u8>, Outcome)>) -> Vec<(Vec<u8>, Outcome)> {
    let end = |(frame, outcome): (Vec<u8>, Outcome)| match outcome {
        Outcome::Forward(_) => (frame, outcome),
        _ => (Vec::new(), outcome),
    };
    decided.into_iter().map(end).collect()
}

/// What each rule let pass, without the time of the last packet.
fn accounts(benches: &mut [&mut Bench]) -> HashMap<RuleKey, [u64; 6]> {
    let mut sums: HashMap<RuleKey, RuleCounts> = HashMap::new();
    for bench in benches {
        let flows = &mut bench.shard.flows;
        let settled = flows.settle();
        flows.begin_live();
        let live = flows.go_on_live(u32::MAX).unwrap();
        settled.iter().chain(&live).for_each(|(key, counts)| sums.entry(*key).or_default().add(counts));
    }
    let numbers = sums.into_iter().map(|(key, of)| {
        (key, [of.packets, of.bytes, of.reply_packets, of.reply_bytes, of.flows, of.refused])
    });
    numbers.filter(|(_, of)| *of != [0; 6]).collect()
}

/// Both pods' and all counters, without what only the split has.
fn sums(benches: &[&Bench]) -> (Totals, [PodTotals; 2], usize) {
    let mut totals = Totals::default();
    let mut pods = [PodTotals::default(), PodTotals::default()];
    for bench in benches {
        assert!(bench.shard.counters.totals.balances(), "{:?}", bench.shard.counters.totals);
        totals.add(&bench.shard.counters.totals);
        for (sum, slot) in pods.iter_mut().zip(SLOTS) {
            sum.add(bench.shard.counters.pod(slot));
        }
    }
    assert_eq!(totals.handed_in, totals.handed_out);
    (totals.handed_in, totals.handed_out) = (0, 0);
    (totals, pods, benches.iter().map(|bench| bench.shard.flows.len()).sum())
}

proptest! {
    #[test]
    fn two_workers_decide_as_one(events in prop::collection::vec(event(), 1..120)) {
        let mut one = Bench::new();
        one.publish(&rules(true));
        let mut two = Pair::new();
        let mut forwarded = 0;
        for event in events {
            match (event, frame_of(event)) {
                (_, Some((from, frame))) => {
                    let wanted = ends(one.step(from, &frame));
                    forwarded += wanted.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Forward(_))).count();
                    prop_assert_eq!(ends(two.step(event, from, &frame)), wanted, "{:?}", event);
                }
                (Event::Wait(ms), None) => {
                    one.now = Now(one.now.0 + ms);
                    two.0.iter_mut().for_each(|bench| bench.now = one.now);
                    let mut decided = Vec::new();
                    step::expire(&Heap, &mut one.shard, &one.tables, one.now, &mut decided);
                    prop_assert_eq!(ends(two.expire()), ends(decided));
                }
                (Event::Rules(wide), None) => {
                    one.publish(&rules(wide));
                    two.0.iter_mut().for_each(|bench| bench.publish(&rules(wide)));
                }
                (_, None) => {}
            }
        }
        // Held fragments have been received and not yet decided: time decides them.
        one.now = Now(one.now.0 + 60_000);
        let mut decided = Vec::new();
        for _ in 0..40 {
            step::expire(&Heap, &mut one.shard, &one.tables, one.now, &mut decided);
            two.0.iter_mut().for_each(|bench| bench.now = one.now);
            two.expire();
        }
        let mut pair = two.0;
        let [first, second] = &mut pair;
        let rules = accounts(&mut [&mut one]);
        prop_assert_eq!(&accounts(&mut [first, second]), &rules);
        let (one, two) = (sums(&[&one]), sums(&[&pair[0], &pair[1]]));
        prop_assert_eq!(one.0.forwarded, forwarded as u64);
        // Every policy that let a packet pass counted it, for a rule or as one without, and every one that did not, too.
        let passed: u64 = rules.values().map(|of| of[0] + of[2]).sum();
        let late = [DropReason::GatewayUnresolved, DropReason::PodUnresolved, DropReason::PacketTooBig];
        let late = late.iter().map(|reason| one.0.dropped.of(*reason)).sum::<u64>();
        let legs: u64 = one.1.iter().map(|pod| pod.out + pod.tx).sum();
        prop_assert_eq!(passed, legs + late);
        prop_assert!(one.1.iter().all(PodTotals::balances), "{:?}", one.1);
        prop_assert_eq!(one, two);
    }
}
