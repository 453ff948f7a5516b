//! Counters of one worker: every packet ends in exactly one of forwarded, dropped by a reason, or consumed.
//!
//! Written by the worker that owns them with plain stores; the management thread reads copies it asked for. Sums over
//! workers, and the shapes of the control socket, are made from those copies.

use std::collections::BTreeMap;

use espalier_api::Direction;
use espalier_api::control::{Counters, PodCounters};

use crate::flow::PodSlot;
use crate::reason::DropReason;

/// Drops, one counter a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drops([u64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl Drops {
    /// Counts one drop.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Drops for one reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Drops for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// The reasons that occurred, by label.
    pub fn by_label(&self) -> BTreeMap<String, u64> {
        let counted = DropReason::ALL.iter().zip(self.0).filter(|(_, count)| *count > 0);
        counted.map(|(reason, count)| (reason.label().to_owned(), count)).collect()
    }
}

/// Packets of a worker, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Received from ports.
    pub rx: u64,
    /// Taken over from another worker, or from its own queue of held packets.
    pub handed_in: u64,
    /// Handed over to the pod's home.
    pub handed_out: u64,
    /// Handed to a port to send.
    pub forwarded: u64,
    /// Used up by the responder.
    pub consumed: u64,
    /// Made by the switch.
    pub originated: u64,
    /// Dropped.
    pub dropped: Drops,
}

impl Totals {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.rx += other.rx;
        self.handed_in += other.handed_in;
        self.handed_out += other.handed_out;
        self.forwarded += other.forwarded;
        self.consumed += other.consumed;
        self.originated += other.originated;
        self.dropped.add(&other.dropped);
    }

    /// Whether every packet that came ended in a counter.
    pub fn balances(&self) -> bool {
        self.rx + self.handed_in == self.forwarded + self.consumed + self.dropped.total() + self.handed_out
    }

    /// The shape of the control socket.
    pub fn to_api(&self) -> Counters {
        Counters {
            rx: self.rx,
            handed_in: self.handed_in,
            handed_out: self.handed_out,
            forwarded: self.forwarded,
            consumed: self.consumed,
            dropped: self.dropped.by_label(),
            originated: self.originated,
        }
    }
}

/// Packets of one pod, as one worker or all of them saw them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct PodTotals {
    /// Packets from the pod.
    pub rx: u64,
    /// Bytes from the pod.
    pub rx_bytes: u64,
    /// Packets handed to the pod's port.
    pub tx: u64,
    /// Bytes handed to the pod's port.
    pub tx_bytes: u64,
    /// Packets from the pod that left its side: sent to the trunk, or let through to the policy of a pod of the node.
    pub out: u64,
    /// Bytes of those.
    pub out_bytes: u64,
    /// Packets from the pod that the responder used up.
    pub consumed: u64,
    /// Dropped coming from the pod.
    pub egress_dropped: Drops,
    /// Dropped on the way to the pod.
    pub ingress_dropped: Drops,
    /// What audit mode let pass, by why it would have been dropped; by `Direction as usize`.
    pub would_deny: [Drops; 2],
}

impl PodTotals {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.rx += other.rx;
        self.rx_bytes += other.rx_bytes;
        self.tx += other.tx;
        self.tx_bytes += other.tx_bytes;
        self.out += other.out;
        self.out_bytes += other.out_bytes;
        self.consumed += other.consumed;
        self.egress_dropped.add(&other.egress_dropped);
        self.ingress_dropped.add(&other.ingress_dropped);
        for (mine, theirs) in self.would_deny.iter_mut().zip(&other.would_deny) {
            mine.add(theirs);
        }
    }

    /// Whether every packet that the pod sent ended in a counter.
    pub fn balances(&self) -> bool {
        self.rx == self.out + self.consumed + self.egress_dropped.total()
    }

    /// The shape of the control socket.
    pub fn to_api(&self) -> PodCounters {
        PodCounters {
            rx: self.rx,
            rx_bytes: self.rx_bytes,
            tx: self.tx,
            tx_bytes: self.tx_bytes,
            out: self.out,
            out_bytes: self.out_bytes,
            consumed: self.consumed,
            egress_dropped: self.egress_dropped.by_label(),
            ingress_dropped: self.ingress_dropped.by_label(),
            egress_would_deny: self.would_deny[Direction::Egress as usize].by_label(),
            ingress_would_deny: self.would_deny[Direction::Ingress as usize].by_label(),
        }
    }
}

/// Whose counters a drop belongs to, besides the worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// No pod's: the frame could not be told to belong to one.
    Nobody,
    /// It came from this pod.
    Egress(PodSlot),
    /// It was on the way to this pod.
    Ingress(PodSlot),
}

impl Blame {
    /// What a pod's policy or port for a direction is blamed for.
    pub(crate) fn of(slot: PodSlot, direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress(slot),
            Direction::Egress => Self::Egress(slot),
        }
    }
}

/// The port that a packet is sent by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// This pod's.
    Pod(PodSlot),
    /// The trunk's.
    Trunk {
        /// The pod that sends it.
        from: PodSlot,
    },
}

impl Exit {
    /// The pod, if it is a pod's port.
    pub fn pod(self) -> Option<PodSlot> {
        match self {
            Self::Pod(slot) => Some(slot),
            Self::Trunk { .. } => None,
        }
    }

    /// Whose drop a packet is that the port does not take.
    pub fn blame(self) -> Blame {
        match self {
            Self::Pod(slot) => Blame::Ingress(slot),
            Self::Trunk { from } => Blame::Egress(from),
        }
    }
}

/// Counters of one worker.
#[derive(Debug, Clone)]
pub struct ShardCounters {
    /// All its packets.
    pub totals: Totals,
    pods: Vec<PodTotals>,
}

impl ShardCounters {
    /// Zeroes for `slots` pods.
    pub fn new(slots: usize) -> Self {
        Self { totals: Totals::default(), pods: vec![PodTotals::default(); slots] }
    }

    /// The counters of one pod.
    pub fn pod(&self, slot: PodSlot) -> &PodTotals {
        &self.pods[usize::from(slot.0)]
    }

    fn pod_mut(&mut self, slot: PodSlot) -> &mut PodTotals {
        &mut self.pods[usize::from(slot.0)]
    }

    /// A new pod took the slot.
    pub fn reset_pod(&mut self, slot: PodSlot) {
        *self.pod_mut(slot) = PodTotals::default();
    }

    /// A packet came from the trunk (`None`) or from a pod.
    pub fn received(&mut self, from: Option<PodSlot>, bytes: usize) {
        self.totals.rx += 1;
        if let Some(slot) = from {
            let pod = self.pod_mut(slot);
            pod.rx += 1;
            pod.rx_bytes += bytes as u64;
        }
    }

    /// A packet came from another worker, which has counted where it came from.
    pub fn handed_in(&mut self) {
        self.totals.handed_in += 1;
    }

    /// Packets left for the homes of their pods.
    pub fn handed_out(&mut self, packets: usize) {
        self.totals.handed_out += packets as u64;
    }

    /// A packet was handed to a port.
    pub fn forwarded(&mut self, exit: Exit, bytes: usize) {
        self.totals.forwarded += 1;
        match exit {
            Exit::Pod(slot) => {
                let pod = self.pod_mut(slot);
                pod.tx += 1;
                pod.tx_bytes += bytes as u64;
            }
            Exit::Trunk { from } => self.let_through(from, bytes),
        }
    }

    /// A packet of a pod left its side.
    pub fn let_through(&mut self, slot: PodSlot, bytes: usize) {
        let pod = self.pod_mut(slot);
        pod.out += 1;
        pod.out_bytes += bytes as u64;
    }

    /// The responder used a packet up, of a pod or of the trunk (`None`).
    pub fn consumed(&mut self, from: Option<PodSlot>) {
        self.totals.consumed += 1;
        if let Some(slot) = from {
            self.pod_mut(slot).consumed += 1;
        }
    }

    /// The switch sent a frame of its own.
    pub fn originated(&mut self) {
        self.totals.originated += 1;
    }

    /// A packet passed because its pod is in audit mode; what becomes of it is counted like that of any other.
    pub fn would_deny(&mut self, reason: DropReason, slot: PodSlot, direction: Direction) {
        self.pod_mut(slot).would_deny[direction as usize].count(reason);
    }

    /// A packet was dropped.
    pub fn dropped(&mut self, reason: DropReason, blame: Blame) {
        self.totals.dropped.count(reason);
        match blame {
            Blame::Nobody => {}
            Blame::Egress(slot) => self.pod_mut(slot).egress_dropped.count(reason),
            Blame::Ingress(slot) => self.pod_mut(slot).ingress_dropped.count(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_ends_once() {
        let mut counters = ShardCounters::new(2);
        let slot = PodSlot(1);
        for _ in 0..4 {
            counters.received(Some(slot), 100);
        }
        counters.forwarded(Exit::Trunk { from: slot }, 100);
        counters.consumed(Some(slot));
        counters.dropped(DropReason::DeniedEgress, Blame::Egress(slot));
        assert!(!counters.totals.balances());
        assert!(!counters.pod(slot).balances());
        counters.dropped(DropReason::Multicast, Blame::Egress(slot));
        assert!(counters.totals.balances());
        assert!(counters.pod(slot).balances());
        let pod = counters.pod(slot).to_api();
        assert_eq!((pod.rx, pod.rx_bytes, pod.tx), (4, 400, 0));
        assert_eq!((pod.out, pod.out_bytes, pod.consumed), (1, 100, 1));
        assert_eq!(
            pod.egress_dropped,
            BTreeMap::from([("denied-egress".to_owned(), 1), ("multicast".to_owned(), 1)])
        );
        assert_eq!(counters.totals.to_api().accounted(), 4);
    }
}
