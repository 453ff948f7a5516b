//! What the step makes of packets, shown to whoever asked: live traces, captures, replay.
//!
//! A shard without a [`Watch`] takes packets through a step that has none of this compiled in. With one, they go through
//! one at a time; everything shown is a copy, so an observer can change nothing.

use espalier_api::Direction;
use espalier_api::filter::Fate;
use espalier_rules::Decision;

use crate::counters::Blame;
use crate::flow::{FlowRecord, Now, PodSlot, RuleKey};
use crate::packet::Packet;
use crate::reason::DropReason;
use crate::step::{From, Outcome};

mod tap;

pub use tap::{Sample, Samples, Tap, Wanted, tap};

/// Somebody who looks at packets.
pub trait Observer: Send {
    /// A packet has been decided, or lost afterwards. Says whether the observer wants to see more.
    fn seen(&mut self, seen: &Seen<'_>) -> bool;
}

/// A packet and what was made of it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// When.
    pub now: Now,
    /// The generation of the tables in use.
    pub generation: u32,
    /// Where it came from; nothing for one lost on the way out.
    pub from: Option<From>,
    /// Its first segment, as it was received; as it was to be sent if it was lost on the way out.
    pub bytes: &'a [u8],
    /// Bytes of all its segments.
    pub len: usize,
    /// Its headers, unless they are malformed or the guard refused it.
    pub parsed: Option<&'a Packet>,
    /// What the policies of up to two pods said, in order.
    pub legs: &'a [LegSeen],
    /// What became of it.
    pub end: End,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The step decided so.
    Decided(Outcome),
    /// It was on its way out of the step, and there was no room for it.
    Lost {
        /// Whose drop it is.
        blame: Blame,
        /// Why.
        reason: DropReason,
    },
}

impl End {
    /// Why it was dropped, if it was.
    pub fn dropped(self) -> Option<DropReason> {
        match self {
            Self::Decided(Outcome::Drop(reason)) | Self::Lost { reason, .. } => Some(reason),
            Self::Decided(_) => None,
        }
    }

    /// As a word: handed to another worker, it went on.
    pub fn fate(self) -> Fate {
        match self {
            Self::Decided(Outcome::Forward(_) | Outcome::HandOver { .. }) => Fate::Forward,
            Self::Decided(Outcome::Consumed) => Fate::Consumed,
            Self::Decided(Outcome::Drop(_)) | Self::Lost { .. } => Fate::Drop,
        }
    }
}

/// What one pod's policy did with a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LegSeen {
    /// The pod.
    pub slot: PodSlot,
    /// Towards it or from it.
    pub direction: Direction,
    /// The flow it was found to belong to; for an ICMP error, the flow that it is about.
    pub before: Option<FlowRecord>,
    /// That flow, or the one it began, afterwards.
    pub after: Option<FlowRecord>,
    /// What the rules say, where they were asked: there was no such flow, it had ended, or it must be judged again.
    pub decision: Option<Decision>,
    /// What came of it.
    pub verdict: Result<(), DropReason>,
    /// Whether it passes although it was denied: the pod is in audit mode.
    pub audited: bool,
}

impl LegSeen {
    /// Whether the packet went on.
    pub fn passed(&self) -> bool {
        self.verdict.is_ok() || self.audited
    }

    /// The rule that let it pass, and the generation in whose numbers it is given.
    pub fn rule(&self, generation: u32) -> Option<RuleKey> {
        self.verdict.ok()?;
        match (self.decision, self.after.or(self.before)) {
            (Some(Decision::Allow { rule, .. }), _) => {
                Some(RuleKey { rule: rule.index() as u32, generation })
            }
            (Some(Decision::Unfiltered { .. }), _) => None,
            (_, flow) => flow.map(|flow| flow.account()),
        }
    }
}

/// The observers at a shard, and the packet under way.
pub struct Watch {
    observers: Vec<Box<dyn Observer>>,
    now: Now,
    generation: u32,
    from: From,
    bytes: Vec<u8>,
    len: usize,
    legs: Vec<LegSeen>,
}

impl Watch {
    /// Shows everything to the observer.
    pub fn new(observer: Box<dyn Observer>) -> Self {
        Self {
            observers: vec![observer],
            now: Now(0),
            generation: 0,
            from: From::Trunk { vlan: 0 },
            bytes: Vec::new(),
            len: 0,
            legs: Vec::new(),
        }
    }

    /// Shows everything to another observer, too.
    pub fn add(&mut self, observer: Box<dyn Observer>) {
        self.observers.push(observer);
    }

    /// Whether nobody wants to see more.
    pub fn is_over(&self) -> bool {
        self.observers.is_empty()
    }

    /// The next packet.
    pub(crate) fn begin(&mut self, now: Now, generation: u32, from: From) {
        (self.now, self.generation, self.from) = (now, generation, from);
        self.legs.clear();
    }

    /// Its bytes, before they are rewritten.
    pub(crate) fn keep(&mut self, head: &[u8], len: usize) {
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.len = len;
    }

    /// What a pod's policy said.
    pub(crate) fn leg(&mut self, leg: LegSeen) {
        self.legs.push(leg);
    }

    /// What became of the packet.
    pub(crate) fn end(&mut self, parsed: Option<&Packet>, end: End) {
        let Self { observers, now, generation, from, bytes, len, legs } = self;
        let (now, generation, from, len) = (*now, *generation, *from, *len);
        let seen = Seen { now, generation, from: Some(from), bytes, len, parsed, legs, end };
        observers.retain_mut(|observer| observer.seen(&seen));
    }

    /// A packet was lost after the step.
    pub(crate) fn lost(&mut self, bytes: &[u8], len: usize, blame: Blame, reason: DropReason) {
        let (now, generation) = (self.now, self.generation);
        let end = End::Lost { blame, reason };
        let seen = Seen { now, generation, from: None, bytes, len, parsed: None, legs: &[], end };
        self.observers.retain_mut(|observer| observer.seen(&seen));
    }
}
