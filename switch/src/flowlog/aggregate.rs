//! The table of an interval: packets and bytes by interface, ends, direction and verdict.
//!
//! Pure. The recorder shows it what flows carried and which packets passed or were denied without one, and closes it at
//! the end of each interval. It holds a bounded number of records; what finds no room is counted by pod.

use std::collections::{BTreeMap, HashMap};

use espalier_api::Direction;
use espalier_api::protocol::TCP;

use super::settings::Traffic;
use crate::facts::PacketFact;
use crate::flow::tcp_flag::{ACK, FIN, RST, SYN};
use crate::flow::{FlowState, Now, PodSlot, Selector};
use crate::ip::Ip;
use crate::manager::recorder::{Progress, Verdict};
use crate::packet::Upper;

/// What a record is about. AWS writes one for each direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The interface.
    pub(crate) slot: PodSlot,
    /// Towards the pod or from it.
    pub(crate) direction: Direction,
    /// The packets' source.
    pub(crate) source: (Ip, u16),
    /// Their destination.
    pub(crate) destination: (Ip, u16),
    /// Their protocol.
    pub(crate) protocol: u8,
    /// What was decided.
    pub(crate) verdict: Verdict,
}

/// What a record sums up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Packets.
    pub(crate) packets: u64,
    /// Bytes.
    pub(crate) bytes: u64,
    /// When the first was seen; the interval's start for a flow that is older.
    pub(crate) first: Now,
    /// When the last was seen.
    pub(crate) last: Now,
    /// TCP flags, as AWS shows them.
    pub(crate) flags: u8,
}

/// What happened to one interface in an interval.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Interval {
    /// The records, those with most bytes first.
    pub(crate) records: Vec<(Key, Sum)>,
    /// Whether there was any traffic, logged or not.
    pub(crate) traffic: bool,
    /// Packets or flows that are missing.
    pub(crate) skipped: u64,
}

/// The present interval.
pub(crate) struct Aggregator {
    table: HashMap<Key, Sum, foldhash::fast::RandomState>,
    room: usize,
    wanted: Traffic,
    began: Now,
    /// Pods with traffic, and what is missing of it.
    seen: HashMap<PodSlot, u64>,
    lost: u64,
}

impl Aggregator {
    /// Of what is wanted, with room for so many records.
    pub(crate) fn new(room: usize, wanted: Traffic, now: Now) -> Self {
        Self { table: HashMap::default(), room, wanted, began: now, seen: HashMap::new(), lost: 0 }
    }

    /// What a flow has carried since it was last shown.
    pub(crate) fn flow(&mut self, progress: &Progress) {
        let flow = &progress.flow;
        let key = flow.key;
        let (local, remote) = (Ip::from(key.local()), Ip::from(key.remote()));
        let (local_port, remote_port) = match key.selector() {
            Selector::Ports { local, remote } => (local, remote),
            Selector::Query { .. } | Selector::Addresses => (0, 0),
        };
        let account = flow.account();
        for direction in [Direction::Ingress, Direction::Egress] {
            let at = direction as usize;
            if progress.packets[at] == 0 {
                continue;
            }
            let ends = [(local, local_port), (remote, remote_port)];
            let [source, destination] = match direction {
                Direction::Egress => ends,
                Direction::Ingress => [ends[1], ends[0]],
            };
            let (slot, protocol) = (key.slot(), key.protocol());
            let verdict = Verdict::Accept(Some(account));
            let key = Key { slot, direction, source, destination, protocol, verdict };
            let first = progress.began.max(self.began);
            let sum = Sum {
                packets: progress.packets[at],
                bytes: progress.bytes[at],
                first,
                last: progress.last.max(first),
                flags: flags(progress, direction),
            };
            self.add(key, sum);
        }
    }

    /// A packet that no flow counts.
    pub(crate) fn packet(&mut self, fact: &PacketFact) {
        let (source, destination, flags) = match fact.upper {
            Upper::Tcp { source, destination, flags } => (source, destination, flags),
            Upper::Udp { source, destination } => (source, destination, 0),
            Upper::Icmp { .. } | Upper::Opaque => (0, 0, 0),
        };
        let key = Key {
            slot: fact.slot,
            direction: fact.direction,
            source: (fact.source, source),
            destination: (fact.destination, destination),
            protocol: fact.protocol,
            verdict: Verdict::of(fact),
        };
        let bytes = fact.bytes.into();
        self.add(key, Sum { packets: 1, bytes, first: fact.at, last: fact.at, flags: shown(flags) });
    }

    /// Something of this pod was lost on the way here.
    pub(crate) fn skip(&mut self, slot: PodSlot, count: u64) {
        *self.seen.entry(slot).or_default() += count;
    }

    fn add(&mut self, key: Key, sum: Sum) {
        let skipped = self.seen.entry(key.slot).or_default();
        let wanted = match self.wanted {
            Traffic::All => true,
            Traffic::Accept => key.verdict.passes(),
            Traffic::Reject => !key.verdict.passes(),
        };
        if !wanted {
            return;
        }
        if let Some(known) = self.table.get_mut(&key) {
            known.packets += sum.packets;
            known.bytes += sum.bytes;
            known.first = known.first.min(sum.first);
            known.last = known.last.max(sum.last);
            known.flags |= sum.flags;
        } else if self.table.len() < self.room {
            self.table.insert(key, sum);
        } else {
            *skipped += sum.packets;
            self.lost += sum.packets;
        }
    }

    /// Ends the interval of all.
    pub(crate) fn close(&mut self, now: Now) -> BTreeMap<PodSlot, Interval> {
        self.began = now;
        self.take(|_| true)
    }

    /// What happened to these interfaces so far, if anything did; they begin anew.
    pub(crate) fn take(&mut self, which: impl Fn(PodSlot) -> bool) -> BTreeMap<PodSlot, Interval> {
        let mut intervals: BTreeMap<PodSlot, Interval> = BTreeMap::new();
        for (slot, skipped) in self.seen.extract_if(|slot, _| which(*slot)) {
            intervals.insert(slot, Interval { skipped, traffic: true, ..Interval::default() });
        }
        for (key, sum) in self.table.extract_if(|key, _| which(key.slot)) {
            intervals.entry(key.slot).or_default().records.push((key, sum));
        }
        for interval in intervals.values_mut() {
            interval.records.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.bytes));
        }
        intervals
    }

    /// Packets that found no room, since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

/// SYN of the end that began, SYN-ACK of the one that answered, FIN of both. Which end sent a RST is not known of a flow.
fn flags(progress: &Progress, direction: Direction) -> u8 {
    let flow = &progress.flow;
    if flow.key.protocol() != TCP {
        return 0;
    }
    let at = direction as usize;
    let opened = progress.before[at] == 0 && !flow.picked_up();
    let fin = if progress.fin[at] { FIN } else { 0 };
    // The first answer to a SYN is a SYN-ACK, or the RST that refuses it.
    let refused = flow.state == FlowState::Reset && progress.packets[at] == 1;
    match opened {
        true if direction == flow.initiator() => SYN | fin,
        true if !refused => SYN | ACK | fin,
        _ => fin,
    }
}

/// A packet's flags as AWS shows them: ACK only with SYN.
fn shown(flags: u8) -> u8 {
    let ack = if flags & SYN != 0 { flags & ACK } else { 0 };
    flags & (FIN | SYN | RST) | ack
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::RuleKey;
    use crate::reason::DropReason;

    /// A packet of one of three pods to one of a few ports; every other one is denied.
    fn fact((slot, port, denied, bytes): (u16, u16, bool, u32)) -> PacketFact {
        PacketFact {
            at: Now(1000 + u64::from(bytes)),
            slot: PodSlot(slot),
            direction: Direction::Egress,
            source: Ipv4Addr::new(10, 0, 1, 10).into(),
            destination: Ipv4Addr::new(10, 0, 2, 20).into(),
            protocol: 17,
            upper: Upper::Udp { source: 5, destination: port },
            bytes,
            verdict: if denied {
                Err(DropReason::DeniedEgress)
            } else {
                Ok(Some(RuleKey { rule: 3, generation: 1 }))
            },
            audited: false,
        }
    }

    proptest! {
        /// Whatever the room: what is in the records and what is said to be missing is what there was, pod by pod.
        #[test]
        fn nothing_is_lost_unsaid(
            packets in prop::collection::vec((0u16..3, 0u16..6, any::<bool>(), 60u32..1500), 0..200),
            room in 1usize..20,
            close_after in 0usize..200,
        ) {
            let mut table = Aggregator::new(room, Traffic::All, Now(0));
            let mut said: HashMap<PodSlot, (u64, u64)> = HashMap::new();
            let mut take = |table: &mut Aggregator| {
                let closed = table.close(Now(5000));
                let records: usize = closed.values().map(|interval| interval.records.len()).sum();
                assert!(records <= room);
                for (slot, interval) in closed {
                    let sum = said.entry(slot).or_default();
                    sum.0 += interval.records.iter().map(|(_, sum)| sum.packets).sum::<u64>();
                    sum.1 += interval.skipped;
                }
            };
            let mut model: HashMap<PodSlot, u64> = HashMap::new();
            for (index, packet) in packets.iter().enumerate() {
                table.packet(&fact(*packet));
                *model.entry(PodSlot(packet.0)).or_default() += 1;
                if index == close_after {
                    take(&mut table);
                }
            }
            take(&mut table);
            let lost: u64 = said.values().map(|(_, skipped)| skipped).sum();
            prop_assert_eq!(lost, table.lost());
            let sums: HashMap<PodSlot, u64> =
                said.into_iter().map(|(slot, (packets, skipped))| (slot, packets + skipped)).collect();
            prop_assert_eq!(sums, model);
        }

        /// With room for all, each record is the sum of its packets.
        #[test]
        fn records_are_the_sums_of_their_packets(
            packets in prop::collection::vec((0u16..3, 0u16..6, any::<bool>(), 60u32..1500), 0..200),
        ) {
            let mut table = Aggregator::new(1000, Traffic::Reject, Now(0));
            let mut model: HashMap<(u16, u16), (u64, u64)> = HashMap::new();
            for packet in &packets {
                table.packet(&fact(*packet));
                if packet.2 {
                    let sum = model.entry((packet.0, packet.1)).or_default();
                    *sum = (sum.0 + 1, sum.1 + u64::from(packet.3));
                }
            }
            let records = table.close(Now(5000)).into_values().flat_map(|interval| interval.records);
            let said: HashMap<_, _> = records
                .map(|(key, sum)| ((key.slot.0, key.destination.1), (sum.packets, sum.bytes)))
                .collect();
            prop_assert_eq!(said, model);
        }
    }

    #[test]
    fn a_pod_that_leaves_takes_only_its_own_records() {
        let mut table = Aggregator::new(10, Traffic::All, Now(0));
        for slot in 0..3 {
            table.packet(&fact((slot, 80, false, 100)));
        }
        let gone = table.take(|slot| slot == PodSlot(1));
        assert_eq!(gone.keys().collect::<Vec<_>>(), [&PodSlot(1)]);
        assert_eq!(table.close(Now(1)).keys().collect::<Vec<_>>(), [&PodSlot(0), &PodSlot(2)]);
    }
}
