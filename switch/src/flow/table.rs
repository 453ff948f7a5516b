//! The table itself: lookup, the per-packet update, insertion and removal.
//!
//! Public interface of [`super`]. Aging is in `aging`, listing in `listing`. Invariant: an entry with a state is in the
//! index under its key, in the one queue of its pod and class, and on its pod's count; any other is free.

use espalier_api::rule::{Direction, Family};

use super::aging::Sweep;
use super::changes::Changes;
use super::config::{FlowConfig, FlowConfigError};
use super::entry::{Entries, Track};
use super::index::{Index, NONE};
use super::key::{FlowKey, PodSlot, Seed};
use super::ledger::Ledger;
use super::lookup::Sought;
use super::pod::{Pod, Pool};
use super::queue::Links;
use super::state::{self, Class, FlowState, Marks, tcp_flag};
use super::time::{self, Now, elapsed};
use super::{
    FlowHandle, FlowRecord, FlowStats, Found, Judgement, NewFlow, Outcome, Over, PacketFacts, Refused,
};
use crate::facts::{EndedFlow, Teller};

/// Entries of the other family that are stepped over in search of one to give up.
const VICTIM_STEPS: usize = 16;
/// Packets each way that make UDP a stream: EC2's more than one request and response.
const ANSWERED: u64 = 2;

/// The flows of one worker's pods.
pub struct FlowTable {
    pub(super) seed: Seed,
    pub(super) index: Index,
    pub(super) entries: Entries,
    pub(super) links: Links,
    pub(super) pods: Vec<Pod>,
    pools: [Pool; 2],
    half_open_per_pod: u32,
    memory_bytes: u64,
    pub(super) sweep: Sweep,
    pub(super) changes: Changes,
    pub(super) stats: FlowStats,
    pub(super) ledger: Ledger,
    /// Who is told of flows that end, if somebody is.
    pub ended: Option<Teller<EndedFlow>>,
}

impl FlowTable {
    /// An empty table. All memory it will ever use is taken and touched here.
    pub fn new(config: &FlowConfig) -> Result<Self, FlowConfigError> {
        config.check()?;
        let entries = config.entries();
        let both = (entries[0] + entries[1]) as usize;
        let refused = || FlowConfigError::Memory { bytes: config.memory_bytes() };
        Ok(Self {
            seed: Seed::new(config.seed),
            index: Index::new(entries).ok_or_else(refused)?,
            entries: Entries::new(entries).ok_or_else(refused)?,
            links: Links::new(both).ok_or_else(refused)?,
            pods: vec![Pod::new(config.timeouts); config.pods.into()],
            pools: [Pool::new(config.ipv4, config.pods), Pool::new(config.ipv6, config.pods)],
            half_open_per_pod: config.half_open_per_pod,
            memory_bytes: config.memory_bytes(),
            sweep: Sweep::default(),
            changes: Changes::new(both).ok_or_else(refused)?,
            stats: FlowStats::default(),
            ledger: Ledger::new(),
            ended: None,
        })
    }

    /// The flow of `key`.
    pub fn find(&self, key: &FlowKey) -> Found {
        self.find_sought(&self.seek(*key))
    }

    /// The flow that was looked for, whatever has become of the table since.
    pub fn find_sought(&self, sought: &Sought) -> Found {
        let entry = match self.entries.is(sought.entry, &sought.key) {
            true => Some(sought.entry),
            false => self.entry_of(sought),
        };
        entry.map_or(Found::Miss, |entry| Found::Hit(FlowHandle(entry)))
    }

    /// The entry of a flow, wherever the index has it.
    pub(super) fn entry_of(&self, sought: &Sought) -> Option<u32> {
        self.index.find(sought.key.family(), sought.hash, |entry| self.entries.is(entry, &sought.key))
    }

    /// A lookup of `key` for [`Self::find_sought`] that was not made ahead of time.
    pub fn seek(&self, key: FlowKey) -> Sought {
        Sought { key, hash: self.seed.hash(&key), entry: NONE }
    }

    /// Accounts one packet of the flow and moves its state on.
    #[inline]
    pub fn on_packet(&mut self, handle: FlowHandle, facts: &PacketFacts, now: Now) -> Outcome {
        let tick = now.tick();
        match self.entries.track_mut(handle.0).2.pass_steady(facts, tick) {
            Some(state) => Outcome::Pass(state),
            None => self.on_event(handle, facts, tick),
        }
    }

    /// [`Self::find_sought`], [`Self::needs_judgement`] and [`Self::on_packet`] in one look at the entry, for the usual
    /// packet: its flow needs no judgement, is in a steady state and has not rested for long. Says whether it was one; if
    /// not, nothing has happened.
    #[inline(always)]
    pub fn pass_steady(&mut self, sought: &Sought, generation: u32, facts: &PacketFacts, now: Now) -> bool {
        let Some(track) = self.entries.track_of(sought.entry, &sought.key) else { return false };
        !track.needs_judgement(generation) && track.pass_steady(facts, now.tick()).is_some()
    }

    /// A packet that may end the flow, change its state or break a rest.
    fn on_event(&mut self, handle: FlowHandle, facts: &PacketFacts, tick: u32) -> Outcome {
        let (slot, _, track) = self.entries.track_mut(handle.0);
        let Some(before) = track.state else {
            return Outcome::Over(Over::Gone);
        };
        let class = before.class();
        let idle = elapsed(tick, track.last_seen);
        if idle > Changes::RESTING {
            self.changes.mark(handle.0);
        }
        if idle > self.pods[slot.index()].ticks[class as usize] {
            self.stats.expired += 1;
            self.release(handle.0);
            return Outcome::Over(Over::Expired);
        }
        let after = match before {
            FlowState::Revoked => return self.on_revoked(handle, facts, tick),
            FlowState::Udp
            | FlowState::UdpStream
            | FlowState::Icmp
            | FlowState::Other
            | FlowState::Untracked => before,
            _ => match state::tcp(before, &mut track.marks, facts.direction, facts.tcp_flags) {
                Some(after) => after,
                None => {
                    self.stats.reopened += 1;
                    self.release(handle.0);
                    return Outcome::Over(Over::Reopened);
                }
            },
        };
        track.count(facts.direction, facts.bytes);
        track.last_seen = tick;
        if before == FlowState::Udp {
            return Outcome::Pass(self.after_udp(handle, tick));
        }
        if after != before {
            self.set_state(handle.0, after, tick);
        }
        Outcome::Pass(after)
    }

    /// A packet of a flow whose rules are gone: only a SYN is judged as what it is, the beginning of another flow. The
    /// entry stays for as long as either end keeps trying.
    fn on_revoked(&mut self, handle: FlowHandle, facts: &PacketFacts, tick: u32) -> Outcome {
        if facts.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN {
            self.stats.reopened += 1;
            self.release(handle.0);
            return Outcome::Over(Over::Reopened);
        }
        self.entries.track_mut(handle.0).2.last_seen = tick;
        Outcome::Revoked
    }

    fn after_udp(&mut self, handle: FlowHandle, tick: u32) -> FlowState {
        if self.entries.track(handle.0).packets().iter().any(|packets| *packets < ANSWERED) {
            return FlowState::Udp;
        }
        self.set_state(handle.0, FlowState::UdpStream, tick);
        FlowState::UdpStream
    }

    /// Enters a flow that a rule has allowed, with its first packet. A flow already entered under `key` is replaced.
    ///
    /// TCP that does not begin with a SYN is entered as picked up, and counts as half-open until the other end answers.
    /// Room is made only at the same pod's expense: the oldest half-open connection when `new` is half-open and the
    /// pod has its number of those; else, for a tracked flow, an untracked, reset or closing one.
    pub fn insert(&mut self, key: &FlowKey, new: &NewFlow, now: Now) -> Result<FlowHandle, Refused> {
        let state = match new.tracked {
            true => FlowState::first(key.protocol(), new.first.tcp_flags),
            false => FlowState::Untracked,
        };
        let marks = Marks::new(new.initiator, new.revoke_on_change, state == FlowState::PickedUp);
        let mut track = Track::new(state, marks, new.rule, new.generation, now.tick());
        track.count(new.first.direction, new.first.bytes);
        let entry = self.enter(key, track, now.tick())?;
        self.stats.inserted += 1;
        Ok(FlowHandle(entry))
    }

    /// Puts `track` under `key`, making room within the pod if need be.
    pub(super) fn enter(&mut self, key: &FlowKey, track: Track, tick: u32) -> Result<u32, Refused> {
        let (slot, family) = (key.slot().index(), key.family());
        if slot >= self.pods.len() {
            return Err(Refused::PodUnknown);
        }
        let sought = self.seek(*key);
        if let Some(old) = self.entry_of(&sought) {
            self.remove(FlowHandle(old));
        }
        let class = track.state.unwrap_or(FlowState::Other).class();
        self.admit(slot, family, class, tick)?;
        let entry = self.index.insert(family, sought.hash);
        let pod = &mut self.pods[slot];
        self.pools[family as usize].take(&mut pod.used[family as usize]);
        self.links.push(&mut pod.queues[class as usize], entry, tick);
        self.entries.put(entry, key, track);
        self.changes.mark(entry);
        Ok(entry)
    }

    /// Whether a flow that is not in the table would get an entry, if need be another's of its pod.
    pub fn room_for(&self, flow: &FlowRecord, now: Now) -> Result<(), Refused> {
        let (slot, family) = (flow.key.slot().index(), flow.key.family());
        let pod = self.pods.get(slot).ok_or(Refused::PodUnknown)?;
        match self.pools[family as usize].room(pod.used[family as usize]) {
            Err(_) if self.victim(slot, family, flow.state.class(), now.tick()).is_some() => Ok(()),
            room => room,
        }
    }

    fn admit(&mut self, slot: usize, family: Family, class: Class, tick: u32) -> Result<(), Refused> {
        if class == Class::HalfOpen {
            self.bound_half_open(slot, self.half_open_per_pod - 1);
        }
        let Err(refused) = self.pools[family as usize].room(self.pods[slot].used[family as usize]) else {
            return Ok(());
        };
        if let Some((victim, reason)) = self.victim(slot, family, class, tick) {
            *reason(&mut self.stats) += 1;
            self.release(victim);
            return Ok(());
        }
        match refused {
            Refused::PodQuota => self.stats.refused_quota += 1,
            _ => self.stats.refused_full += 1,
        }
        Err(refused)
    }

    /// Gives up the oldest half-open connections of a pod until at most `most` are left.
    fn bound_half_open(&mut self, slot: usize, most: u32) {
        while self.pods[slot].half_open() > most {
            let Some(oldest) = self.pods[slot].queues[Class::HalfOpen as usize].head() else { return };
            self.release(oldest);
            self.stats.evicted_half_open += 1;
        }
    }

    /// The flow of the pod that a new one of `class` may take the place of, and the counter of such cases.
    #[expect(clippy::type_complexity, reason = "a counter chosen by the kind of victim, used once")]
    fn victim(
        &self,
        slot: usize,
        family: Family,
        class: Class,
        tick: u32,
    ) -> Option<(u32, fn(&mut FlowStats) -> &mut u64)> {
        let oldest = |class: Class| {
            let head = self.pods[slot].queues[class as usize].head();
            std::iter::successors(head, |entry| self.links.next(*entry))
                .take(VICTIM_STEPS)
                .find(|entry| self.entries.family(*entry) == family)
        };
        if let Some(expired) =
            Class::ALL.into_iter().filter_map(oldest).find(|entry| self.is_over(*entry, tick))
        {
            return Some((expired, |stats| &mut stats.expired));
        }
        if class == Class::Untracked {
            return None;
        }
        if let Some(untracked) = oldest(Class::Untracked) {
            return Some((untracked, |stats| &mut stats.evicted_untracked));
        }
        if let Some(finished) = oldest(Class::Reset).or_else(|| oldest(Class::Closing)) {
            return Some((finished, |stats| &mut stats.evicted_finished));
        }
        let half_open = if class == Class::HalfOpen { oldest(Class::HalfOpen) } else { None };
        half_open
            .map(|entry| (entry, (|stats| &mut stats.evicted_half_open) as fn(&mut FlowStats) -> &mut u64))
    }

    /// Whether `entry`, which is in use, has been idle for too long.
    pub(super) fn is_over(&self, entry: u32, tick: u32) -> bool {
        let track = self.entries.track(entry);
        let slot = self.entries.key(entry).slot().index();
        track.state.is_some_and(|state| {
            elapsed(tick, track.last_seen) > self.pods[slot].ticks[state.class() as usize]
        })
    }

    /// Changes the state, and with it the queue.
    fn set_state(&mut self, entry: u32, state: FlowState, tick: u32) {
        self.changes.mark(entry);
        let (slot, _, track) = self.entries.track_mut(entry);
        let Some(before) = track.state.replace(state) else { return };
        if before.class() != state.class() {
            let queues = &mut self.pods[slot.index()].queues;
            self.links.unlink(&mut queues[before.class() as usize], entry);
            self.links.push(&mut queues[state.class() as usize], entry, tick);
        }
    }

    /// Ends a flow.
    pub(super) fn release(&mut self, entry: u32) {
        if self.ended.is_some() {
            let last = self.last_record(entry);
            if let (Some(last), Some(ended)) = (last, &mut self.ended) {
                let seen = Now(time::to_ms(self.entries.track(entry).last_seen));
                ended.tell(EndedFlow { flow: last, last: seen });
            }
        }
        self.free(entry);
    }

    /// Frees an entry that is in use; its flow has ended, or goes on in another table.
    pub(super) fn free(&mut self, entry: u32) {
        let key = self.entries.key(entry);
        let track = self.entries.track(entry);
        let Some(state) = track.state else { return };
        self.ledger.leave(entry, track);
        self.index.remove(key.family(), self.seed.hash(&key), entry);
        self.entries.clear(entry);
        self.changes.mark(entry);
        let pod = &mut self.pods[key.slot().index()];
        self.links.unlink(&mut pod.queues[state.class() as usize], entry);
        self.pools[key.family() as usize].give_back(&mut pod.used[key.family() as usize]);
    }

    /// Ends a flow at the operator's wish, or because nothing makes state for it any more.
    pub fn remove(&mut self, handle: FlowHandle) {
        if self.is_live(handle) {
            self.stats.removed += 1;
            self.release(handle.0);
        }
    }

    fn is_live(&self, handle: FlowHandle) -> bool {
        self.entries.track(handle.0).state.is_some()
    }

    /// Whether the flow must be judged again, in its initiator's direction, before its packet passes: it is untracked,
    /// revoked or marked `revoke`, and the rules have changed since it was judged. Then call [`Self::renew`] or
    /// [`Self::revoke`]. Both end a flow that is over instead; [`Self::on_packet`] then says `Over`.
    #[inline]
    pub fn needs_judgement(&self, handle: FlowHandle, generation: u32) -> bool {
        self.entries.track(handle.0).needs_judgement(generation)
    }

    /// Stamps a flow that was judged again and is allowed. An untracked flow that must be tracked now, and a revoked one
    /// that is allowed again, is tracked from here on in the state its traffic so far shows; a tracked one stays tracked.
    pub fn renew(&mut self, handle: FlowHandle, judgement: &Judgement, now: Now) {
        if self.end_if_over(handle, now) {
            return;
        }
        self.changes.mark(handle.0);
        let (slot, protocol, track) = self.entries.track_mut(handle.0);
        self.ledger.leave(handle.0, track);
        track.rule = judgement.rule;
        track.generation = judgement.generation;
        self.ledger.come(handle.0, track);
        track.marks.set_revoke(judgement.revoke_on_change);
        let adopted = match track.state {
            Some(FlowState::Untracked | FlowState::Revoked) if judgement.tracked => {
                FlowState::adopted(protocol, track.packets(), track.marks)
            }
            Some(FlowState::Revoked) => FlowState::Untracked,
            _ => return,
        };
        if adopted.class() == Class::HalfOpen {
            self.bound_half_open(slot.index(), self.half_open_per_pod - 1);
        }
        self.set_state(handle.0, adopted, now.tick());
    }

    /// Stamps a flow that was judged again and is not allowed any more: its packets are dropped from here on.
    pub fn revoke(&mut self, handle: FlowHandle, generation: u32, now: Now) {
        if !self.end_if_over(handle, now) {
            let track = self.entries.track_mut(handle.0).2;
            self.ledger.leave(handle.0, track);
            track.generation = generation;
            self.ledger.come(handle.0, track);
            self.set_state(handle.0, FlowState::Revoked, now.tick());
        }
    }

    /// Ends a flow that has been idle for too long; whether it did, or somebody had before.
    fn end_if_over(&mut self, handle: FlowHandle, now: Now) -> bool {
        if self.is_over(handle.0, now.tick()) {
            self.stats.expired += 1;
            self.release(handle.0);
        }
        !self.is_live(handle)
    }

    /// The key of the flow.
    pub fn key(&self, handle: FlowHandle) -> FlowKey {
        self.entries.key(handle.0)
    }

    /// The rule that allowed the flow.
    pub fn rule(&self, handle: FlowHandle) -> u32 {
        self.entries.track(handle.0).rule
    }

    /// The direction of the flow's first packet.
    #[inline]
    pub fn initiator(&self, handle: FlowHandle) -> Direction {
        self.entries.track(handle.0).marks.initiator()
    }

    /// The flow's state; nothing for a stale handle.
    pub fn state(&self, handle: FlowHandle) -> Option<FlowState> {
        self.entries.track(handle.0).state
    }

    /// Bytes the table occupies, and always will.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Flows in the table, those included that are over and not yet swept.
    pub fn len(&self) -> usize {
        self.pools.iter().map(|pool| pool.taken() as usize).sum()
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows of one pod.
    pub fn len_of(&self, slot: PodSlot) -> u32 {
        self.pods.get(slot.index()).map_or(0, Pod::len)
    }

    /// Half-open TCP connections of one pod.
    pub fn half_open_of(&self, slot: PodSlot) -> u32 {
        self.pods.get(slot.index()).map_or(0, Pod::half_open)
    }

    /// What has happened so far.
    pub fn stats(&self) -> FlowStats {
        self.stats
    }
}

impl Track {
    /// Accounts a packet that surely changes nothing else: the state of the flow, if it was one.
    #[inline(always)]
    fn pass_steady(&mut self, facts: &PacketFacts, tick: u32) -> Option<FlowState> {
        let state = self.state?;
        let steady = state.is_steady(facts.tcp_flags) || self.is_one_way(state, facts.direction);
        if !steady || elapsed(tick, self.last_seen) > Changes::RESTING {
            return None;
        }
        self.count(facts.direction, facts.bytes);
        self.last_seen = tick;
        Some(state)
    }

    /// Whether it is UDP that a packet of this direction does not make a stream, for want of answers to it.
    #[inline(always)]
    fn is_one_way(&self, state: FlowState, direction: Direction) -> bool {
        state == FlowState::Udp && self.packets_of(direction.opposite()) < ANSWERED
    }

    /// See [`FlowTable::needs_judgement`].
    #[inline(always)]
    fn needs_judgement(&self, generation: u32) -> bool {
        let depends =
            matches!(self.state, Some(FlowState::Untracked | FlowState::Revoked)) || self.marks.revoke();
        depends && self.generation != generation
    }
}
