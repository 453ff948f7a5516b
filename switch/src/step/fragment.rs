//! Fragments: the first is judged, the others follow its verdict; one that comes before it is held for a moment.

use espalier_api::Direction;

use super::{Decided, Memory, Path, Shard, Verdict, finish, policies, track, watched};
use crate::counters::Blame;
use crate::facts::PacketFact;
use crate::flow::fragment::{FragmentDrop, FragmentKey, Later, PacketUnderWay, Part};
use crate::flow::{Now, PodSlot, RuleKey};
use crate::packet::{Fragment, Packet};
use crate::reason::DropReason;
use crate::tables::Tables;

/// Fragmented packets looked at for expiry in a round.
const EXPIRE_BUDGET: usize = 16;

/// A packet between the guard and its verdict.
pub struct Held<P> {
    pub(super) parsed: Packet,
    pub(super) path: Path,
    pub(super) packet: P,
}

impl<P> Held<P> {
    fn blame(&self) -> Blame {
        let (slot, direction) = self.path.first_policy();
        Blame::of(slot, direction)
    }

    /// The policies that let it pass: the sender's egress, the receiver's ingress.
    fn passed(&self, verdict: Verdict) -> [Option<(PodSlot, Direction)>; 2] {
        let [egress, ingress] = self.path.policies();
        match verdict {
            Ok(()) => [egress, ingress],
            Err((_, Blame::Ingress(_))) => [egress, None],
            Err(_) => [None, None],
        }
    }

    /// The packet that it is a part of, in the pod's share that it counts against, and the part.
    fn part(&self) -> Option<(FragmentKey, Part)> {
        let Fragment::Part { id, offset, more } = self.parsed.fragment() else { return None };
        let (source, destination) = (self.parsed.source().into(), self.parsed.destination().into());
        let (slot, direction) = self.path.first_policy();
        let key = FragmentKey::new(slot, direction, source, destination, self.parsed.protocol, id);
        Some((key, Part { offset, len: self.parsed.l4_len() as u32, more }))
    }
}

/// What the first fragment of a packet means for the others.
#[derive(Clone, Copy)]
pub struct Fate {
    verdict: Verdict,
    /// The rules that let it pass, for the sender's egress and the receiver's ingress, and whether it was a reply there.
    accounts: [(RuleKey, bool); 2],
}

impl Fate {
    /// Of a packet whose first fragment has just been decided.
    fn of<P>(shard: &Shard<P>, first: &Held<P>, verdict: Verdict) -> Self {
        let account = |(slot, direction)| {
            let key = track::key(slot, direction, &first.parsed)?;
            let (account, initiator) = shard.flows.account_of(shard.flows.find(&key).handle()?);
            Some((account, direction != initiator))
        };
        let accounts =
            first.passed(verdict).map(|leg| leg.and_then(account).unwrap_or((RuleKey::NONE, false)));
        Self { verdict, accounts }
    }

    /// Counts a later fragment, which no flow does.
    fn credit<P>(&self, shard: &mut Shard<P>, now: Now, later: &Held<P>) {
        for (leg, (account, reply)) in later.passed(self.verdict).iter().zip(self.accounts) {
            if leg.is_some() {
                shard.flows.credit(account, reply, later.parsed.end, now);
            }
        }
    }
}

/// Takes one fragment through.
pub(super) fn fragment<const WATCHED: bool, M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: &Tables,
    now: Now,
    item: Held<M::Packet>,
    decided: &mut Decided<M::Packet>,
) {
    let Some((key, part)) = item.part() else { return };
    let mut doomed = Vec::new();
    let mut ready = Vec::new();
    let mut drop = |reason, item| doomed.push((reason, item));
    if part.offset > 0 {
        match shard.fragments.later(&key, &part, now, item, &mut drop) {
            Later::Inherit(fate, item) => ready.push((item, fate)),
            Later::Held => {}
            Later::Drop(reason, item) => drop(reason, item),
        }
    } else {
        match shard.fragments.first(&key, item.parsed.protocol, &part, now, &mut drop) {
            Err(reason) => drop(reason, item),
            Ok(()) => {
                let head = memory.head(&item.packet);
                let verdict: Verdict =
                    policies::<WATCHED, _>(shard, tables, now, (&item.parsed, head), item.path, |_| None);
                let fate = Fate::of(shard, &item, verdict);
                ready.push((item, fate));
                shard.fragments.decide(&key, fate, now, |held| ready.push((held, fate)));
            }
        }
    }
    for (reason, item) in doomed {
        refuse(memory, shard, (Some(tables), now), reason, item, decided);
    }
    for (item, fate) in ready {
        let verdict = fate.verdict;
        if matches!(item.parsed.fragment(), Fragment::Part { offset: 1.., .. }) {
            fate.credit(shard, now, &item);
            tell_later(shard, now, &item, verdict);
        }
        let Held { parsed, path, mut packet } = item;
        let outcome = finish::<WATCHED, M>(memory, shard, tables, (&parsed, path), &mut packet, verdict);
        shard.decide::<WATCHED>(packet, outcome, Some(&parsed), decided);
    }
}

/// Tells of a later fragment, which no flow counts.
fn tell_later<P>(shard: &mut Shard<P>, now: Now, item: &Held<P>, verdict: Verdict) {
    let Some(facts) = &mut shard.facts else { return };
    let mut tell = |leg, said| facts.tell(PacketFact::new(leg, &item.parsed, now, said));
    item.passed(verdict).into_iter().flatten().for_each(|leg| tell(leg, Ok(None)));
    match verdict {
        Err((reason, Blame::Egress(slot))) => tell((slot, Direction::Egress), Err(reason)),
        Err((reason, Blame::Ingress(slot))) => tell((slot, Direction::Ingress), Err(reason)),
        Err((_, Blame::Nobody)) | Ok(()) => {}
    }
}

/// Drops what has waited too long.
pub(super) fn expire<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    tables: &Tables,
    now: Now,
    decided: &mut Decided<M::Packet>,
) {
    let mut doomed = Vec::new();
    shard.fragments.expire(now, EXPIRE_BUDGET, |reason, item| doomed.push((reason, item)));
    for (reason, item) in doomed {
        refuse(memory, shard, (Some(tables), now), reason, item, decided);
    }
}

/// Drops what waits on behalf of a pod.
pub(super) fn forget<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    now: Now,
    slot: PodSlot,
    decided: &mut Decided<M::Packet>,
) {
    let mut doomed = Vec::new();
    shard.fragments.remove_pod(slot, |reason, item| doomed.push((reason, item)));
    for (reason, item) in doomed {
        refuse(memory, shard, (None, now), reason, item, decided);
    }
}

/// Takes over what another shard knew of a packet.
pub(super) fn take<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    now: Now,
    packet: PacketUnderWay<Held<M::Packet>, Fate>,
    decided: &mut Decided<M::Packet>,
) {
    let mut doomed = Vec::new();
    shard.fragments.put(packet, |reason, item| doomed.push((reason, item)));
    for (reason, item) in doomed {
        refuse(memory, shard, (None, now), reason, item, decided);
    }
}

fn refuse<M: Memory>(
    memory: &M,
    shard: &mut Shard<M::Packet>,
    (tables, now): (Option<&Tables>, Now),
    reason: FragmentDrop,
    item: Held<M::Packet>,
    decided: &mut Decided<M::Packet>,
) {
    if shard.watch.is_some() {
        watched::held(memory, shard, tables, now, &item);
    }
    let blame = item.blame();
    shard.refuse::<true>(item.packet, reason_of(reason), blame, Some(&item.parsed), decided);
}

fn reason_of(reason: FragmentDrop) -> DropReason {
    match reason {
        FragmentDrop::Orphan | FragmentDrop::PodRemoved => DropReason::FragmentOrphan,
        FragmentDrop::Malformed | FragmentDrop::Tiny | FragmentDrop::Overlap | FragmentDrop::Duplicate => {
            DropReason::FragmentInvalid
        }
        FragmentDrop::Scattered
        | FragmentDrop::HeldLimit
        | FragmentDrop::PacketLimit
        | FragmentDrop::Evicted => DropReason::FragmentLimit,
    }
}
