//! Packets on their way from the worker that received them to the home of the pod they are for.
//!
//! One bounded ring for each pair of workers, written and read in batches. A worker that does not keep up has its
//! packets dropped where they come from, counted. Made once by [`rings`]; used by the worker, and by its bench.

use std::sync::Arc;

use espalier_xsk::Packet;
use rtrb::{Consumer, Producer, RingBuffer};

use super::doorbell::Doorbell;
use super::port::{self, Place};
use super::{BATCH, Worker, fair};
use crate::counters::Blame;
use crate::flow::{Now, PodSlot};
use crate::reason::DropReason;
use crate::step::{From, Handed, Presence};
use crate::tables::Tables;

/// Packets a ring has room for: twice the default of a port's receive ring, so that what a worker takes in while its
/// peer is busy elsewhere for a moment is not lost.
const RING: usize = 4096;

/// The ends of the rings that one worker has, by the number of the other worker; none for itself.
pub struct Rings<P> {
    /// The ways to the others.
    pub to: Vec<Option<Outlet<P>>>,
    /// What the others hand over.
    pub from: Vec<Consumer<P>>,
}

/// The way to one other worker.
pub struct Outlet<P> {
    ring: Producer<P>,
    bell: Arc<Doorbell>,
    staged: Vec<P>,
    blames: Vec<Blame>,
}

/// The rings between workers with these doorbells.
pub fn rings<P>(bells: &[Arc<Doorbell>]) -> Vec<Rings<P>> {
    let mut all: Vec<Rings<P>> = bells.iter().map(|_| Rings { to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..bells.len() {
        for (to, bell) in bells.iter().enumerate() {
            if to == from {
                all[from].to.push(None);
                continue;
            }
            let (producer, consumer) = RingBuffer::new(RING);
            all[from].to.push(Some(Outlet {
                ring: producer,
                bell: Arc::clone(bell),
                staged: Vec::new(),
                blames: Vec::new(),
            }));
            all[to].from.push(consumer);
        }
    }
    all
}

impl<P> Rings<P> {
    /// Takes up to so many from each of the others.
    pub fn take(&mut self, handed: &mut Vec<P>, most: usize) {
        for ring in &mut self.from {
            let count = ring.slots().min(most);
            if let Ok(chunk) = ring.read_chunk(count) {
                handed.extend(chunk);
            }
        }
    }
}

impl<P> Outlet<P> {
    /// Takes a packet for the next [`Self::flush`].
    pub fn stage(&mut self, packet: P, blame: Blame) {
        self.staged.push(packet);
        self.blames.push(blame);
    }

    /// Hands over what was staged, in order, as far as there is room, for which the pods take turns; `refused`
    /// gets the rest. Returns how many were handed over.
    pub fn flush(&mut self, mut refused: impl FnMut(P, Blame)) -> usize {
        if self.staged.is_empty() {
            return 0;
        }
        let room = self.ring.slots();
        if room < self.staged.len() {
            fair::take_turns(&mut self.staged, &mut self.blames, |_, blame| (*blame, 1));
            for (packet, blame) in self.staged.drain(room..).zip(self.blames.drain(room..)) {
                refused(packet, blame);
            }
        }
        let count = self.staged.len();
        self.blames.clear();
        let Ok(chunk) = self.ring.write_chunk_uninit(count) else {
            debug_assert!(false, "the room was asked for, and only this worker takes it");
            return 0;
        };
        let handed = chunk.fill_from_iter(self.staged.drain(..));
        self.bell.ring_if_asleep();
        handed
    }
}

impl Worker {
    /// Takes the packets out that are for pods of other workers, and sends them there. Nothing but the VLAN is looked at.
    pub(super) fn sort_out(&mut self, place: Place, received: &mut Vec<Packet>) {
        let Some(tables) = self.tables.take() else { return };
        let mut own = std::mem::take(&mut self.own);
        for packet in received.drain(..) {
            let slot = match place.from(&self.umem, &packet) {
                From::Trunk { vlan } => tables.slot_of_vlan(vlan),
                From::Pod { .. } | From::Peer(_) => None,
            };
            match slot.filter(|slot| !self.is_for_step(*slot, &tables)) {
                None => own.push(packet),
                Some(slot) => {
                    self.shard.counters.received(None, packet.len());
                    self.hand_over(slot, tables.home(slot), packet);
                }
            }
        }
        std::mem::swap(received, &mut own);
        self.own = own;
        self.tables = Some(tables);
    }

    /// Whether a packet of the trunk for this pod is this worker's to decide. One of a pod that has just gone is.
    fn is_for_step(&self, slot: PodSlot, tables: &Tables) -> bool {
        match self.shard.presence.get(slot.index()) {
            Some(Presence::Here) | None => true,
            Some(Presence::Coming) => false,
            Some(Presence::Away) => tables.home(slot) == self.index,
        }
    }

    /// Sends a packet to the pod's home.
    pub(super) fn hand_over(&mut self, slot: PodSlot, home: usize, packet: Packet) {
        match self.shard.presence.get(slot.index()) {
            Some(Presence::Coming) => return self.keep_held(slot, packet),
            Some(Presence::Here) => {
                self.shard.counters.handed_out(1);
                return self.late.push(packet);
            }
            Some(Presence::Away) | None => {}
        }
        match self.rings.to.get_mut(home) {
            Some(Some(outlet)) => outlet.stage(packet, Blame::Ingress(slot)),
            Some(None) | None => {
                self.sink().drop(packet, Blame::Ingress(slot), DropReason::NotHome);
            }
        }
    }

    /// Takes up to `turn` batches from each ring that others write, and asks for them: by the time [`Self::take_over`] looks
    /// at them, they have come from the cores that wrote them.
    pub(super) fn fetch_handed(&mut self, turn: usize) {
        self.rings.take(&mut self.handed, turn * BATCH);
        self.handed.iter().for_each(|packet| self.umem.prefetch_handed(packet.head()));
    }

    /// Takes what was handed over through the step. Says whether there was anything.
    pub(super) fn take_over(&mut self, now: Now) -> bool {
        let any = !self.late.is_empty() || !self.handed.is_empty();
        if !self.late.is_empty() {
            let mut late = std::mem::take(&mut self.late);
            self.step_handed(&mut late, now);
        }
        while !self.handed.is_empty() {
            let mut batch = std::mem::take(&mut self.received);
            batch.extend(self.handed.drain(..self.handed.len().min(BATCH)));
            self.batches += 1;
            self.step_handed(&mut batch, now);
            self.received = batch;
        }
        any
    }

    /// Takes over all that has been handed over so far.
    pub(super) fn drain(&mut self, now: Now) {
        let mut left: Vec<usize> = self.rings.from.iter().map(|ring| ring.slots()).collect();
        while left.iter().any(|left| *left > 0) || !self.late.is_empty() {
            left.iter_mut().for_each(|left| *left = left.saturating_sub(BATCH));
            self.fetch_handed(1);
            self.take_over(now);
        }
    }

    /// Takes packets through the step that another worker received. Those of a pod that is on its way here are held.
    pub(super) fn step_handed(&mut self, packets: &mut Vec<Packet>, now: Now) {
        if !self.held.is_empty() {
            self.hold_back(packets);
        }
        self.step(packets, port::handed, now);
    }

    /// Takes the packets out that the trunk brought for pods that are not here yet.
    fn hold_back(&mut self, packets: &mut Vec<Packet>) {
        let Some(tables) = self.tables.take() else { return };
        let mut own = std::mem::take(&mut self.own);
        for packet in packets.drain(..) {
            let slot = match port::handed(&self.umem, &packet) {
                From::Peer(Handed::Trunk { vlan }) => tables.slot_of_vlan(vlan),
                _ => None,
            };
            match slot.filter(|slot| self.shard.presence.get(slot.index()) == Some(&Presence::Coming)) {
                None => own.push(packet),
                Some(slot) => {
                    self.shard.counters.handed_in();
                    self.keep_held(slot, packet);
                }
            }
        }
        std::mem::swap(packets, &mut own);
        self.own = own;
        self.tables = Some(tables);
    }
}
