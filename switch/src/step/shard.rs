//! What one worker owns of the step's world, and the ends that a packet's way has in it.
//!
//! Everything a packet can come to passes here on its way out: it is counted, and shown to the watch if there is one.

use super::{Batch, Decided, Fate, Held, Memory, Outcome, Stop};
use crate::counters::{Blame, ShardCounters};
use crate::facts::{PacketFact, Teller};
use crate::flow::fragment::Fragments;
use crate::flow::{FlowTable, PodSlot};
use crate::neighbour::Links;
use crate::observe::{End, Watch};
use crate::packet::Packet;
use crate::reason::DropReason;
use crate::responder::Originated;

/// Whether a pod is at home with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its flows are here.
    Here,
    /// They are on their way here; its packets wait.
    Coming,
    /// They are with another worker, or there is no such pod.
    Away,
}

/// What one worker owns and the step changes.
pub struct Shard<P> {
    /// Its flows.
    pub flows: FlowTable,
    /// Fragmented packets under way.
    pub fragments: Fragments<Held<P>, Fate>,
    /// Whether ICMP errors about a live flow pass without a rule.
    pub related_errors: bool,
    /// Which pods are at home here, by slot.
    pub presence: Vec<Presence>,
    /// Its neighbours.
    pub links: Links,
    /// Its counters.
    pub counters: ShardCounters,
    /// Frames to send on behalf of the switch.
    pub originated: Vec<Originated>,
    /// Who looks at packets, if somebody does.
    pub watch: Option<Box<Watch>>,
    /// Who is told of packets that policy decided and no flow counts, if somebody is.
    pub facts: Option<Teller<PacketFact>>,
    pub(super) batch: Batch,
}

/// What [`Shard::new`] puts together.
pub struct ShardParts<P> {
    /// Its flows.
    pub flows: FlowTable,
    /// Fragmented packets under way.
    pub fragments: Fragments<Held<P>, Fate>,
    /// Whether ICMP errors about a live flow pass without a rule.
    pub related_errors: bool,
    /// Its pods' slots.
    pub slots: usize,
}

impl<P> Shard<P> {
    /// A shard that has seen nothing.
    pub fn new(parts: ShardParts<P>) -> Self {
        let ShardParts { flows, fragments, related_errors, slots } = parts;
        Self {
            flows,
            fragments,
            related_errors,
            presence: vec![Presence::Here; slots],
            links: Links::new(slots),
            counters: ShardCounters::new(slots),
            originated: Vec::new(),
            watch: None,
            facts: None,
            batch: Batch::default(),
        }
    }

    /// Whether the pod in the slot is at home here.
    pub fn is_home_of(&self, slot: PodSlot) -> bool {
        self.presence.get(slot.index()) == Some(&Presence::Here)
    }

    /// Counts a packet that is lost after the step.
    pub fn lost(&mut self, memory: &impl Memory<Packet = P>, packet: &P, blame: Blame, reason: DropReason) {
        self.counters.dropped(reason, blame);
        if let Some(watch) = &mut self.watch {
            watch.lost(memory.head(packet), memory.len(packet), blame, reason);
        }
    }

    pub(super) fn stopped<const WATCHED: bool>(&mut self, packet: P, stop: Stop, decided: &mut Decided<P>) {
        match stop {
            Stop::Elsewhere(to) => decided.push((packet, Outcome::HandOver { to })),
            Stop::Consumed(from) => {
                self.counters.consumed(from);
                self.decide::<WATCHED>(packet, Outcome::Consumed, None, decided);
            }
            Stop::Drop(reason, blame) => self.refuse::<WATCHED>(packet, reason, blame, None, decided),
        }
    }

    pub(super) fn refuse<const WATCHED: bool>(
        &mut self,
        packet: P,
        reason: DropReason,
        blame: Blame,
        parsed: Option<&Packet>,
        decided: &mut Decided<P>,
    ) {
        self.counters.dropped(reason, blame);
        self.decide::<WATCHED>(packet, Outcome::Drop(reason), parsed, decided);
    }

    #[inline]
    pub(super) fn decide<const WATCHED: bool>(
        &mut self,
        packet: P,
        outcome: Outcome,
        parsed: Option<&Packet>,
        decided: &mut Decided<P>,
    ) {
        if WATCHED && let Some(watch) = &mut self.watch {
            watch.end(parsed, End::Decided(outcome));
        }
        decided.push((packet, outcome));
    }
}
