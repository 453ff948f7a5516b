//! A batch of packets through the stages: parse ▸ guard ▸ track (fragment) ▸ judge ▸ forward, each in its file.
//!
//! The guard and the lookup of flows run over the whole batch before the rest, so that the lookups' cache misses overlap.
//! The stages are compiled twice: `WATCHED` shows all they do to the watch, the other has nothing left of it.
//! Pure: frames, tables and time come in; outcomes, counters and frames to originate go out. The worker calls [`step`]
//! with real frames, tests and replay with frames on the heap.

use espalier_api::Direction;

use crate::counters::{Blame, Exit, ShardCounters};
use crate::facts::PacketFact;
use crate::flow::fragment::PacketUnderWay;
use crate::flow::{Lookups, Now, PodSlot, RuleKey, Sought};
use crate::ip::Ip;
use crate::packet::{self, Bytes, Frame, Packet};
use crate::reason::DropReason;
use crate::tables::Tables;

mod forward;
mod fragment;
mod guard;
mod heap;
mod judge;
mod shard;
mod trace;
mod track;
mod watched;

use track::Leg;

pub(crate) use forward::complete_checksum;
pub use fragment::{Fate, Held};
pub use heap::Heap;
pub(crate) use judge::{opening, tuple};
pub use shard::{Presence, Shard, ShardParts};
pub(crate) use trace::Witness;
pub use trace::{Traced, trace};

/// Access to the bytes of packets, wherever they lie.
pub trait Memory {
    /// A packet, maybe of several segments.
    type Packet;
    /// The first segment; all headers lie there.
    fn head<'a>(&'a self, packet: &'a Self::Packet) -> &'a [u8];
    /// The first segment, to rewrite headers.
    fn head_mut<'a>(&'a self, packet: &'a mut Self::Packet) -> &'a mut [u8];
    /// Bytes of all segments.
    fn len(&self, packet: &Self::Packet) -> usize;
    /// The segments, in order.
    fn segments<'a>(&'a self, packet: &'a Self::Packet) -> impl Iterator<Item = &'a [u8]>;
}

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The trunk, with this VLAN (its tag is already off).
    Trunk {
        /// VLAN of the tag.
        vlan: u16,
    },
    /// A pod.
    Pod {
        /// Which one.
        slot: PodSlot,
        /// Whether the steering program wrote the branch's tag into the frame.
        tagged: bool,
    },
    /// Another worker, which has counted it and handed it over.
    Peer(Handed),
}

/// Where a packet that was handed over came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// The trunk, with this VLAN; nobody has looked into it.
    Trunk {
        /// VLAN of the tag.
        vlan: u16,
    },
    /// A pod of this node whose policy let it out; for a pod of this node.
    Pod,
}

impl From {
    /// The pod, if it came from one's port.
    pub fn pod(self) -> Option<PodSlot> {
        match self {
            Self::Trunk { .. } | Self::Peer(_) => None,
            Self::Pod { slot, .. } => Some(slot),
        }
    }

    /// Counts the packet as come from here.
    fn count(self, counters: &mut ShardCounters, bytes: usize) {
        match self {
            Self::Trunk { .. } | Self::Pod { .. } => counters.received(self.pod(), bytes),
            Self::Peer(_) => counters.handed_in(),
        }
    }
}

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Send it.
    Forward(Exit),
    /// Give it to the home of the pod it is for: the sender's policy let it out, the receiver's has not seen it.
    HandOver {
        /// The pod.
        to: PodSlot,
    },
    /// Free it.
    Consumed,
    /// Free it, counted.
    Drop(DropReason),
}

/// Packets with what is to be done with them.
pub type Decided<P> = Vec<(P, Outcome)>;

/// A batch between its stages; kept for its memory.
#[derive(Default)]
struct Batch {
    admitted: Vec<Admitted>,
    lookups: Lookups,
}

/// What the guard made of a packet.
enum Admitted {
    /// It is looked up; the lookups' places, by `Direction as usize`.
    Guarded { parsed: Packet, path: Path, sought: [u32; 2] },
    /// Its way ends.
    Stopped(Stop),
}

/// The place of a lookup that is not there.
const NOWHERE: u32 = u32::MAX;

/// Whether policy lets a packet pass; if not, why, and whose drop it is.
pub type Verdict = Result<(), (DropReason, Blame)>;

/// Between which ends a packet goes, and so whose policies it must pass here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// To a pod: from the trunk, or from a pod at home with another worker, whose policy let it out there.
    In { to: PodSlot },
    /// From a pod to the trunk.
    Out { from: PodSlot },
    /// From one pod to another.
    Across { from: PodSlot, to: PodSlot },
    /// From a pod to one at home with another worker, where the policy of that one comes.
    Away { from: PodSlot, to: PodSlot },
}

/// Why a stage ended a packet's way.
#[derive(Clone, Copy)]
enum Stop {
    /// It was handed over for a pod that has left meanwhile.
    Elsewhere(PodSlot),
    /// The responder used it up; from a pod, or from the trunk (`None`).
    Consumed(Option<PodSlot>),
    Drop(DropReason, Blame),
}

/// Decides packets, asking once for each, in order, where it came `from`; rewrites the headers of those to be forwarded,
/// and counts everything but the forwarding itself, which the worker counts when a port has taken the packet. Appends to
/// `decided`: usually the packets themselves; nothing for a fragment that waits for its first, and those that waited when
/// it comes. Packets of one flow stay in order.
#[inline]
pub fn step<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: &Tables,
    now: Now,
    from: impl FnMut(&M::Packet) -> From,
    packets: &mut Vec<M::Packet>,
    decided: &mut Decided<M::Packet>,
) {
    match shard.watch {
        None => batch::<false, M>(memory, shard, tables, now, from, packets, decided),
        Some(_) => watched::each(memory, shard, tables, now, from, packets, decided),
    }
}

/// What the usual packet passes is inlined into the two loops, down to `pass_steady`: left to itself, the compiler makes
/// calls of it, moves each packet three times and takes a fifth longer.
#[inline(always)]
fn batch<const WATCHED: bool, M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: &Tables,
    now: Now,
    mut from: impl FnMut(&M::Packet) -> From,
    packets: &mut Vec<M::Packet>,
    decided: &mut Decided<M::Packet>,
) {
    let mut batch = std::mem::take(&mut shard.batch);
    for packet in packets.iter() {
        admit(shard, tables, from(packet), (memory.head(packet), memory.len(packet)), &mut batch);
    }
    batch.lookups.look(&shard.flows);
    for (mut packet, admitted) in packets.drain(..).zip(&batch.admitted) {
        let (parsed, path, sought) = match admitted {
            Admitted::Guarded { parsed, path, sought } => (parsed, *path, *sought),
            Admitted::Stopped(stop) => {
                shard.stopped::<WATCHED>(packet, *stop, decided);
                continue;
            }
        };
        if parsed.fragment() != packet::Fragment::None {
            fragment::fragment::<WATCHED, M>(
                memory,
                shard,
                tables,
                now,
                Held { parsed: *parsed, path, packet },
                decided,
            );
            continue;
        }
        let known = |direction: Direction| batch.lookups.get(sought[direction as usize]);
        let head = memory.head(&packet);
        let verdict = policies::<WATCHED, _>(shard, tables, now, (parsed, head), path, known);
        let outcome = finish::<WATCHED, M>(memory, shard, tables, (parsed, path), &mut packet, verdict);
        shard.decide::<WATCHED>(packet, outcome, Some(parsed), decided);
    }
    batch.admitted.clear();
    batch.lookups.clear();
    shard.batch = batch;
}

/// The guard stage for one packet. Each way in has its own copy of it, and in that IPv4 has one, because what needs not be
/// asked costs nothing.
#[inline(always)]
fn admit<P>(shard: &mut Shard<P>, tables: &Tables, from: From, bytes: Bytes<'_>, batch: &mut Batch) {
    match from {
        From::Trunk { vlan } => {
            shard.counters.received(None, bytes.1);
            admit_from_trunk(shard, tables, vlan, bytes, batch);
        }
        From::Pod { slot, tagged } => {
            shard.counters.received(Some(slot), bytes.1);
            admit_from_pod(shard, tables, (slot, tagged), bytes, batch);
        }
        From::Peer(handed) => {
            shard.counters.handed_in();
            match handed {
                Handed::Trunk { vlan } => admit_from_trunk(shard, tables, vlan, bytes, batch),
                Handed::Pod => batch.enter(guard::let_out(Frame::new(bytes, false), tables, shard)),
            }
        }
    }
}

#[inline(never)]
fn admit_from_trunk<P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    vlan: u16,
    bytes: Bytes<'_>,
    batch: &mut Batch,
) {
    let frame = Frame::new(bytes, false);
    match frame.ipv4() {
        Some(frame) => batch.enter(guard::from_trunk(frame, vlan, tables, shard)),
        None => batch.enter(guard::from_trunk(frame, vlan, tables, shard)),
    }
}

#[inline(never)]
fn admit_from_pod<P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    (slot, tagged): (PodSlot, bool),
    bytes: Bytes<'_>,
    batch: &mut Batch,
) {
    let frame = Frame::new(bytes, tagged);
    match frame.ipv4() {
        Some(frame) => batch.enter(guard::from_pod(frame, slot, tables, shard)),
        None => batch.enter(guard::from_pod(frame, slot, tables, shard)),
    }
}

impl Batch {
    /// Enters what the guard made of the next packet, with the flows to look for.
    #[inline(always)]
    fn enter(&mut self, guarded: Result<(Packet, Path), Stop>) {
        let (parsed, path) = match guarded {
            Ok(passed) => passed,
            Err(stop) => return self.admitted.push(Admitted::Stopped(stop)),
        };
        let mut sought = [NOWHERE; 2];
        if let Some(slot) = path.source()
            && let Some(key) = track::key(slot, Direction::Egress, &parsed)
        {
            sought[Direction::Egress as usize] = self.lookups.add(key);
        }
        if let Some(slot) = path.destination()
            && let Some(key) = track::key(slot, Direction::Ingress, &parsed)
        {
            sought[Direction::Ingress as usize] = self.lookups.add(key);
        }
        self.admitted.push(Admitted::Guarded { parsed, path, sought });
    }
}

/// Before the first snapshot nobody may send anything.
pub fn without_tables<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    mut from: impl FnMut(&M::Packet) -> From,
    packets: &mut Vec<M::Packet>,
    decided: &mut Decided<M::Packet>,
) {
    for packet in packets.drain(..) {
        let from = from(&packet);
        from.count(&mut shard.counters, memory.len(&packet));
        let blame = from.pod().map_or(Blame::Nobody, Blame::Egress);
        shard.refuse::<true>(packet, DropReason::PortUnknown, blame, None, decided);
    }
}

/// Drops the fragments that have waited too long for their first.
pub fn expire<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: &Tables,
    now: Now,
    decided: &mut Decided<M::Packet>,
) {
    fragment::expire(memory, shard, tables, now, decided);
}

/// Drops the fragments of a pod that is gone.
pub fn forget_fragments<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    now: Now,
    slot: PodSlot,
    decided: &mut Decided<M::Packet>,
) {
    fragment::forget(memory, shard, now, slot, decided);
}

/// Takes a fragmented packet over from another worker's shard.
pub fn take_fragments<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    now: Now,
    packet: PacketUnderWay<Held<M::Packet>, Fate>,
    decided: &mut Decided<M::Packet>,
) {
    fragment::take(memory, shard, now, packet, decided);
}

/// The policy of the pod that sends, then that of the pod that gets.
#[inline(always)]
fn policies<'a, const WATCHED: bool, P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    now: Now,
    (parsed, head): (&Packet, &[u8]),
    path: Path,
    known: impl Fn(Direction) -> Option<&'a Sought>,
) -> Verdict {
    let mut pass = |slot, direction| {
        let known = known(direction);
        if !WATCHED
            && let Some(sought) = known
            && shard.flows.pass_steady(sought, tables.stamp, &track::facts(parsed, direction), now)
        {
            return Ok(());
        }
        let leg = Leg { slot, direction, packet: parsed, head };
        policy::<WATCHED, _>(shard, tables, now, &leg, known)
            .map_err(|reason| (reason, Blame::of(slot, direction)))
    };
    if let Some(slot) = path.source() {
        pass(slot, Direction::Egress)?;
    }
    if let Some(slot) = path.destination() {
        pass(slot, Direction::Ingress)?;
    }
    Ok(())
}

/// The policy of one pod, for a packet that is not the usual or is looked at.
#[inline(never)]
fn policy<const WATCHED: bool, P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    now: Now,
    leg: &Leg<'_>,
    known: Option<&Sought>,
) -> Result<(), DropReason> {
    let verdict = match WATCHED {
        false => track::track(shard, tables, now, leg, known),
        true => watched::track(shard, tables, now, leg, known),
    };
    match verdict {
        Ok(()) => Ok(()),
        Err(reason) => denied(shard, tables, now, leg, reason),
    }
}

/// A packet that policy does not let pass, unless the pod is in audit mode.
#[cold]
fn denied<P>(
    shard: &mut Shard<P>,
    tables: &Tables,
    now: Now,
    leg: &Leg<'_>,
    reason: DropReason,
) -> Result<(), DropReason> {
    let audited = is_audited(tables, leg.slot, reason);
    if let Some(facts) = &mut shard.facts {
        facts.tell(PacketFact { audited, ..leg.fact(now, Err(reason)) });
    }
    if !audited {
        return Err(reason);
    }
    shard.counters.would_deny(reason, leg.slot, leg.direction);
    shard.flows.credit(RuleKey::NONE, false, leg.packet.end, now);
    Ok(())
}

/// Whether what a pod's policy denied passes all the same.
fn is_audited(tables: &Tables, slot: PodSlot, reason: DropReason) -> bool {
    reason.is_denial() && tables.pod(slot).is_some_and(|pod| pod.audit)
}

/// Carries a verdict out: rewrites a packet that is to be forwarded, counts one that is not.
#[inline(always)]
fn finish<const WATCHED: bool, M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: &Tables,
    (parsed, path): (&Packet, Path),
    packet: &mut M::Packet,
    verdict: Verdict,
) -> Outcome {
    if WATCHED && let Some(watch) = &mut shard.watch {
        watch.keep(memory.head(packet), memory.len(packet));
    }
    if let Path::Across { from, .. } | Path::Away { from, .. } = path
        && !matches!(verdict, Err((_, Blame::Egress(_))))
    {
        shard.counters.let_through(from, memory.len(packet));
    }
    let (reason, blame) = match verdict {
        Err(refused) => refused,
        Ok(()) => {
            let exit = match path {
                Path::In { to } | Path::Across { to, .. } => Exit::Pod(to),
                Path::Out { from } => Exit::Trunk { from },
                Path::Away { to, .. } => {
                    forward::complete_checksum(memory, parsed, packet);
                    return Outcome::HandOver { to };
                }
            };
            let hop = match exit {
                Exit::Pod(to) => forward::to_pod(&shard.links, parsed, memory.len(packet), to),
                Exit::Trunk { from } => forward::to_trunk(&shard.links, tables, parsed, from),
            };
            match hop {
                Ok(hop) => {
                    if path.source().is_some() {
                        forward::complete_checksum(memory, parsed, packet);
                    }
                    forward::readdress(memory, hop, packet);
                    return Outcome::Forward(exit);
                }
                Err(reason) => (reason, exit.blame()),
            }
        }
    };
    shard.counters.dropped(reason, blame);
    Outcome::Drop(reason)
}

impl Path {
    /// The pod whose egress policy it must pass.
    #[inline(always)]
    fn source(self) -> Option<PodSlot> {
        match self {
            Self::In { .. } => None,
            Self::Out { from } | Self::Across { from, .. } | Self::Away { from, .. } => Some(from),
        }
    }

    /// The pod whose ingress policy it must pass here.
    #[inline(always)]
    fn destination(self) -> Option<PodSlot> {
        match self {
            Self::In { to } | Self::Across { to, .. } => Some(to),
            Self::Out { .. } | Self::Away { .. } => None,
        }
    }

    /// Both policies, in order.
    fn policies(self) -> [Option<(PodSlot, Direction)>; 2] {
        [
            self.source().map(|slot| (slot, Direction::Egress)),
            self.destination().map(|slot| (slot, Direction::Ingress)),
        ]
    }

    /// The first of them.
    fn first_policy(self) -> (PodSlot, Direction) {
        match self {
            Self::In { to } => (to, Direction::Ingress),
            Self::Out { from } | Self::Across { from, .. } | Self::Away { from, .. } => {
                (from, Direction::Egress)
            }
        }
    }
}

/// The far end of a packet, seen from a pod.
fn remote(packet: &Packet, direction: Direction) -> Ip {
    match direction {
        Direction::Ingress => packet.source(),
        Direction::Egress => packet.destination(),
    }
}
