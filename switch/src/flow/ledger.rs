//! What each rule has let pass, without any work for a packet of a known flow: its entry counts it already.
//!
//! A flow's counts go to its rule's account when it leaves the table or comes under another rule, and what it brought
//! along from elsewhere is taken off. So accounts and live flows together are what was let pass here, each packet once.
//! Called by the table and, for packets without a flow, by the step; read by the manager through [`FlowTable::settle`].

use std::collections::HashMap;

use espalier_api::rule::Direction;

use super::entry::Track;
use super::state::FlowState;
use super::table::FlowTable;
use super::time::{self, Now, elapsed};

/// Accounts there is room for from the start; more cost an allocation, until the manager settles them.
const ROOM: usize = 1024;

/// A rule's number in the generation that judged by it; numbers are given anew after a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleKey {
    /// The number.
    pub rule: u32,
    /// The generation.
    pub generation: u32,
}

impl RuleKey {
    /// The account of what passes without a rule: services that are never filtered, and fragments of packets that made
    /// no flow.
    pub const NONE: Self = Self { rule: u32::MAX, generation: 0 };
}

/// What a rule has let pass. Sums and differences are modulo 2^64: single terms may be negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleCounts {
    /// Packets in the rule's direction, that of a flow's first packet.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packets in the other direction.
    pub reply_packets: u64,
    /// Bytes of those.
    pub reply_bytes: u64,
    /// Flows begun.
    pub flows: u64,
    /// Flows allowed, but refused for want of room.
    pub refused: u64,
    /// The tick of the last packet.
    last: Option<u32>,
}

impl RuleCounts {
    /// One packet without a flow.
    fn packet(reply: bool, bytes: u32, now: Now) -> Self {
        let bytes = u64::from(bytes);
        let counts = Self { last: Some(now.tick()), ..Self::default() };
        match reply {
            false => Self { packets: 1, bytes, ..counts },
            true => Self { reply_packets: 1, reply_bytes: bytes, ..counts },
        }
    }

    /// What a flow has carried.
    fn of(track: &Track) -> Self {
        let (packets, bytes) = (track.packets(), track.bytes());
        let (there, back) = match track.marks.initiator() {
            Direction::Egress => (Direction::Egress as usize, Direction::Ingress as usize),
            Direction::Ingress => (Direction::Ingress as usize, Direction::Egress as usize),
        };
        Self {
            packets: packets[there],
            bytes: bytes[there],
            reply_packets: packets[back],
            reply_bytes: bytes[back],
            flows: 1,
            refused: 0,
            // What comes of a revoked flow is dropped.
            last: (track.state != Some(FlowState::Revoked)).then_some(track.last_seen),
        }
    }

    /// The opposite, to take it off.
    fn negated(self) -> Self {
        Self {
            packets: self.packets.wrapping_neg(),
            bytes: self.bytes.wrapping_neg(),
            reply_packets: self.reply_packets.wrapping_neg(),
            reply_bytes: self.reply_bytes.wrapping_neg(),
            flows: self.flows.wrapping_neg(),
            refused: self.refused.wrapping_neg(),
            last: None,
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.packets, other.packets),
            (&mut self.bytes, other.bytes),
            (&mut self.reply_packets, other.reply_packets),
            (&mut self.reply_bytes, other.reply_bytes),
            (&mut self.flows, other.flows),
            (&mut self.refused, other.refused),
        ] {
            *mine = mine.wrapping_add(theirs);
        }
        self.last = match (self.last, other.last) {
            (Some(mine), Some(theirs)) if elapsed(theirs, mine) > 0 => Some(theirs),
            (mine, theirs) => mine.or(theirs),
        };
    }

    /// Milliseconds since the last packet, to 64.
    pub fn idle_ms(&self, now: Now) -> Option<u64> {
        self.last.map(|last| time::to_ms(elapsed(now.tick(), last)))
    }
}

/// Counts by rule.
pub type Accounts = Vec<(RuleKey, RuleCounts)>;

#[derive(Default)]
struct Book(HashMap<RuleKey, RuleCounts, foldhash::fast::RandomState>);

impl Book {
    #[inline]
    fn add(&mut self, key: RuleKey, counts: &RuleCounts) {
        self.0.entry(key).or_default().add(counts);
    }

    /// All of it; the book is empty then, and keeps its room.
    fn take(&mut self) -> Accounts {
        self.0.drain().filter(|(_, counts)| *counts != RuleCounts::default()).collect()
    }
}

/// The accounts of a table, and the adding up of its live flows where one is under way.
pub(super) struct Ledger {
    settled: Book,
    live: Book,
    /// The next entry that the adding up will look at.
    cursor: Option<u32>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let mut settled = Book::default();
        settled.0.reserve(ROOM);
        Self { settled, live: Book::default(), cursor: None }
    }

    /// The flow in `entry` leaves, or leaves its rule.
    pub(super) fn leave(&mut self, entry: u32, track: &Track) {
        self.post(entry, track, RuleCounts::of(track));
    }

    /// A flow that has been counted elsewhere comes to `entry`, or comes under its rule.
    pub(super) fn come(&mut self, entry: u32, track: &Track) {
        self.post(entry, track, RuleCounts::of(track).negated());
    }

    /// An adding up that has passed the entry has counted it as it was then, and leaves it at that. One that has not yet
    /// will find it as it is afterwards, or not at all, and needs the difference.
    fn post(&mut self, entry: u32, track: &Track, counts: RuleCounts) {
        let key = track.account();
        self.settled.add(key, &counts);
        if self.cursor.is_some_and(|cursor| entry >= cursor) {
            self.live.add(key, &counts);
        }
    }
}

impl Track {
    /// The rule it is under.
    fn account(&self) -> RuleKey {
        RuleKey { rule: self.rule, generation: self.generation }
    }
}

impl FlowTable {
    /// Counts a packet that `key` let pass without a flow; `reply` if it went against the direction of the rule.
    pub fn credit(&mut self, key: RuleKey, reply: bool, bytes: u32, now: Now) {
        self.ledger.settled.add(key, &RuleCounts::packet(reply, bytes, now));
    }

    /// Counts a flow that `key` allowed and that found no room.
    pub fn credit_refused(&mut self, key: RuleKey) {
        self.ledger.settled.add(key, &RuleCounts { refused: 1, ..RuleCounts::default() });
    }

    /// What was let pass by flows that are over, and without a flow, since the last call. The caller keeps the sums.
    pub fn settle(&mut self) -> Accounts {
        self.ledger.settled.take()
    }

    /// Takes back what [`Self::settle`] gave, because nobody has it.
    pub fn unsettle(&mut self, accounts: Accounts) {
        accounts.iter().for_each(|(key, counts)| self.ledger.settled.add(*key, counts));
    }

    /// Begins to add up the live flows. To be called right after [`Self::settle`]: together they are each rule's sum, in
    /// which every flow is counted once, as it was at some moment before the end, whatever becomes of it meanwhile.
    pub fn begin_live(&mut self) {
        self.ledger.live.0.clear();
        self.ledger.cursor = Some(0);
    }

    /// Adds up the next `limit` entries. Returns the sums at the end.
    pub fn go_on_live(&mut self, limit: u32) -> Option<Accounts> {
        let all = self.entries.len() as u32;
        let from = self.ledger.cursor?;
        let to = if self.is_empty() { all } else { from.saturating_add(limit).min(all) };
        for entry in from..to {
            let track = self.entries.track(entry);
            if track.state.is_some() {
                self.ledger.live.add(track.account(), &RuleCounts::of(track));
            }
        }
        self.ledger.cursor = (to < all).then_some(to);
        if to < all { None } else { Some(self.ledger.live.take()) }
    }

    /// The rule a flow is under, and the direction of its first packet.
    pub fn account_of(&self, handle: super::FlowHandle) -> (RuleKey, Direction) {
        let track = self.entries.track(handle.0);
        (track.account(), track.marks.initiator())
    }
}
