//! A pod changes its worker: the new home holds the pod's packets, the old one gives up what it has, the new one takes
//! it and releases what it held.
//!
//! The manager leads (`manager/rebalance.rs`); these are the workers' parts of it, each done between two batches.
//! Promises that no packet of the pod is lost uncounted, and that those of one flow stay in order.

use std::collections::VecDeque;

use espalier_xsk::{Packet, Port};

use super::port::{Place, WorkerPort};
use super::{BATCH, Worker};
use crate::clock;
use crate::counters::Blame;
use crate::flow::fragment::PacketUnderWay;
use crate::flow::{FlowRecord, PodSlot};
use crate::neighbour::Link;
use crate::reason::DropReason;
use crate::step::{self, Fate, Held, Presence};

/// Packets held for a pod on its way.
const HOLD: usize = 4096;
/// Flows that go with the rest of a pod; more follow in parts between which both workers move packets.
const FLOWS: usize = 4096;
/// Attempts to have the kernel send what is queued before a pod leaves.
const FLUSHES: usize = 64;

/// A pod between two workers; of its flows the first ones.
pub struct Luggage {
    port: Option<Port>,
    flows: Vec<FlowRecord>,
    more_flows: bool,
    link: Link,
    fragments: Vec<PacketUnderWay<Held<Packet>, Fate>>,
}

impl Luggage {
    /// Whether there are flows that did not find room in here.
    pub fn has_more_flows(&self) -> bool {
        self.more_flows
    }
}

/// A pod was taken in.
pub struct Settled {
    /// Flows that came with it.
    pub flows: u64,
    /// Flows there was no room for.
    pub flows_lost: u64,
    /// Whether its port is polled.
    pub port: std::io::Result<()>,
}

impl Worker {
    /// Holds the pod's packets from now on: it is about to come.
    pub(super) fn hold(&mut self, slot: PodSlot) {
        if let Some(presence) = self.shard.presence.get_mut(slot.index()) {
            *presence = Presence::Coming;
            self.held.insert(slot, VecDeque::new());
        }
    }

    /// Holds one packet, or drops it if too many wait already.
    pub(super) fn keep_held(&mut self, slot: PodSlot, packet: Packet) {
        let queue = self.held.entry(slot).or_default();
        if queue.len() < HOLD {
            queue.push_back(packet);
            self.shard.counters.handed_out(1);
        } else {
            self.sink().drop(packet, Blame::Ingress(slot), DropReason::MoveQueueFull);
        }
    }

    /// Gives the pod up. Every packet that was handed to this worker for it is dealt with before, and
    /// what it has sent is with the kernel.
    pub(super) fn release(&mut self, slot: PodSlot) -> Luggage {
        self.drain(clock::now());
        for _ in 0..FLUSHES {
            self.transmit();
            if self.ports.get(Place::TRUNK).is_none_or(WorkerPort::is_flushed) {
                break;
            }
        }
        if let Some(presence) = self.shard.presence.get_mut(slot.index()) {
            *presence = Presence::Away;
        }
        // What the pod sends meanwhile waits in its socket.
        let place = Place::of(Some(slot));
        self.refill(place, usize::MAX);
        let port = self.take_port(place);
        let flows = self.take_flows(slot, FLOWS);
        Luggage {
            port,
            more_flows: self.shard.flows.len_of(slot) > 0,
            flows,
            link: self.shard.links.take(slot),
            fragments: self.shard.fragments.take_pod(slot),
        }
    }

    /// Some of a pod's flows, for its new home; none when there are no more.
    pub(super) fn take_flows(&mut self, slot: PodSlot, budget: usize) -> Vec<FlowRecord> {
        let now = clock::now();
        loop {
            let taken = self.shard.flows.take_pod(slot, budget, now);
            if !taken.is_empty() || self.shard.flows.len_of(slot) == 0 {
                return taken;
            }
        }
    }

    /// Takes the pod in, and deals with what was held for it.
    pub(super) fn settle(&mut self, slot: PodSlot, luggage: Luggage) -> Settled {
        let Luggage { port, flows, link, fragments, .. } = luggage;
        let now = clock::now();
        let taken = self.restore_flows(&flows, now);
        self.shard.links.put(slot, link);
        for packet in fragments {
            step::take_fragments(&self.umem, &mut self.shard, now, packet, &mut self.decided);
        }
        self.carry_out();
        let put = port.map_or(Ok(()), |port| self.put_port(Place::of(Some(slot)), port));
        self.arrive(slot);
        Settled { flows: taken, flows_lost: flows.len() as u64 - taken, port: put }
    }

    /// The pod is at home here now: deals with what was held for it, if anything was.
    pub(super) fn arrive(&mut self, slot: PodSlot) {
        if let Some(presence) = self.shard.presence.get_mut(slot.index()) {
            *presence = Presence::Here;
        }
        let mut held = self.held.remove(&slot).unwrap_or_default();
        let now = clock::now();
        while !held.is_empty() {
            let mut batch = std::mem::take(&mut self.received);
            batch.extend(held.drain(..held.len().min(BATCH)));
            self.step_handed(&mut batch, now);
            self.received = batch;
            self.transmit();
        }
    }

    /// Frees what is held for pods that never came; the thread ends.
    pub(super) fn let_go(&mut self) {
        for (_, queue) in self.held.drain() {
            queue.into_iter().for_each(|packet| self.pool.free_packet(packet));
        }
        for ring in &mut self.rings.from {
            while let Ok(packet) = ring.pop() {
                self.pool.free_packet(packet);
            }
        }
    }
}
