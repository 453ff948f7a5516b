//! A shard of its own for a replay: tables of the snapshot, every pod at home, every neighbour known, time as in the file.

use std::sync::mpsc::{Receiver, channel};

use espalier_api::{InputError, Snapshot};
use espalier_rules::Judge;

use super::reader::Captured;
use crate::flow::fragment::{FragmentConfig, Fragments};
use crate::flow::{FlowConfig, FlowTable, Now, PodSlot, Timeouts};
use crate::ip::Ip;
use crate::neighbour::HostEnd;
use crate::observe::{Sample, Watch};
use crate::packet::{self, Parsed};
use crate::step::{self, From, Heap, Shard, ShardParts, Witness};
use crate::tables::Tables;

/// Flows a replay keeps track of.
const FLOWS: u32 = 1 << 18;
/// Stands for neighbours that the file does not show.
const SOMEBODY: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The shard.
pub(super) struct Stage {
    pub(super) tables: Tables,
    shard: Shard<Vec<u8>>,
    seen: Receiver<Sample>,
    clock: Option<(u64, u64)>,
}

impl Stage {
    /// With the snapshot in force and no flows.
    pub(super) fn new(snapshot: &Snapshot) -> Result<Self, InputError> {
        let slots = snapshot.pods.len();
        let pods = u16::try_from(slots).unwrap_or(u16::MAX).max(1);
        let placed: Vec<PodSlot> = (0..pods).map(PodSlot).take(slots).collect();
        let (judge, _) = Judge::compiled(snapshot);
        let tables = Tables::new(snapshot, judge, &placed, slots, Timeouts::NITRO);
        let refuse = |error: &dyn std::fmt::Display| InputError::new("", error.to_string());
        let mut shard = Shard::new(ShardParts {
            // The seed is no secret here, and the same file must give the same answers.
            flows: FlowTable::new(&FlowConfig::sized(FLOWS, pods, [1, 2])).map_err(|error| refuse(&error))?,
            fragments: Fragments::new(FragmentConfig::for_pods(pods))
                .ok_or_else(|| refuse(&"too many pods"))?,
            related_errors: true,
            slots,
        });
        for (slot, pod) in tables.pods() {
            shard.links.attached(slot, HostEnd { mac: SOMEBODY, mtu: u32::MAX });
            shard.links.link_mut(slot).learn_gateway_v4(SOMEBODY);
            shard.links.link_mut(slot).learn_gateway_v6(SOMEBODY);
            shard.flows.set_timeouts(slot, pod.timeouts);
        }
        let (witness, seen) = channel();
        shard.watch = Some(Box::new(Watch::new(Box::new(Witness(witness)))));
        Ok(Self { tables, shard, seen, clock: None })
    }

    /// The pod's MAC, as its first frame shows it.
    pub(super) fn learn(&mut self, slot: PodSlot, frame: &[u8]) {
        let link = self.shard.links.link_mut(slot);
        link.pod_mac = link.pod_mac.or_else(|| frame.get(6..12)?.try_into().ok());
    }

    /// Pods that have sent nothing get a MAC, so that they can be sent to.
    pub(super) fn settle(&mut self) {
        for (slot, _) in self.tables.pods() {
            self.shard.links.link_mut(slot).pod_mac.get_or_insert(SOMEBODY);
        }
    }

    /// Where a frame of a pod's own interface came from, told by its addresses; and the frame as the switch would get it.
    pub(super) fn told_by_addresses(&self, pod: PodSlot, frame: &[u8]) -> Option<(From, Vec<u8>)> {
        let Ok(Parsed::Ip(parsed)) = packet::parse(frame, frame.len(), false) else { return None };
        let table = self.tables.pod(pod)?;
        if table.owns(parsed.source()) {
            return Some(self.steered(pod, frame));
        }
        let mut frame = frame.to_vec();
        // Towards a pod the switch has written other MACs over those of the branch.
        frame.get_mut(..6)?.copy_from_slice(&table.mac);
        table.owns(parsed.destination()).then_some((From::Trunk { vlan: table.vlan }, frame))
    }

    /// What the steering program makes of a pod's frame: it tags what leaves the node, and what has a tag of its own.
    pub(super) fn steered(&self, slot: PodSlot, frame: &[u8]) -> (From, Vec<u8>) {
        let tagged = match packet::parse(frame, frame.len(), false) {
            Ok(Parsed::Ip(parsed)) => self.leaves(frame, &parsed),
            Ok(Parsed::Arp) => false,
            Err(_) => packet::has_tag(frame),
        };
        let mut frame = frame.to_vec();
        if tagged && let Some(pod) = self.tables.pod(slot) {
            packet::put_tag(&mut frame, pod.vlan);
        }
        (From::Pod { slot, tagged }, frame)
    }

    fn leaves(&self, frame: &[u8], parsed: &packet::Packet) -> bool {
        let group = frame.first().is_some_and(|byte| byte & 1 == 1);
        let local = |address: Ip| self.tables.slot_of_address(address).is_some();
        !group && !parsed.is_neighbour_discovery() && !local(parsed.destination())
    }

    /// Takes a frame through the step; shows the decided ones, that may include fragments that came before.
    pub(super) fn step(&mut self, captured: &Captured, from: From, frame: Vec<u8>) -> Vec<Sample> {
        let now = self.now(captured.unix_ns);
        let mut decided = Vec::new();
        step::expire(&Heap, &mut self.shard, &self.tables, now, &mut decided);
        step::step(&Heap, &mut self.shard, &self.tables, now, |_| from, &mut vec![frame], &mut decided);
        self.shard.originated.clear();
        self.seen.try_iter().collect()
    }

    /// Milliseconds that never go back.
    fn now(&mut self, unix_ns: u64) -> Now {
        let ms = unix_ns / 1_000_000;
        let (first, before) = *self.clock.get_or_insert((ms, 0));
        let since = ms.saturating_sub(first).max(before);
        self.clock = Some((first, since));
        Now(1000 + since)
    }
}

/// A frame as the worker gets it that it is handed over to: with the checksum that its pod left to its NIC.
pub(super) fn handed_over(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Ok(Parsed::Ip(parsed)) = packet::parse(&frame, frame.len(), false) {
        step::complete_checksum(&Heap, &parsed, &mut frame);
    }
    frame
}
