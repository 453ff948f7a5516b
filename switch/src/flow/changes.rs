//! Which entries the state file does not have as they are, one bit each.
//!
//! The worker takes pages of them, a bounded number a time, and hands them to the thread that writes the file. A packet
//! of a busy flow marks nothing: a flow is marked when it begins, ends, changes state or wakes after some rest, and busy
//! ones come round in a slow refresh. So what the file says of a live flow's last packet is at most [`REFRESH_MS`] old.

use super::FlowHandle;
use super::listing::FlowRecord;
use super::memory::filled;
use super::table::FlowTable;
use super::time::{self, Now, elapsed};

/// Time in which the refresh passes all entries once.
pub(super) const REFRESH_MS: u64 = 16_000;
/// The same in ticks.
const REFRESH: u64 = REFRESH_MS / 64;
/// Entries the refresh passes in one call, at most.
const REFRESH_STEP: u64 = 4096;
/// Words of 64 entries looked at in one call, at most.
const WORDS: usize = 8192;

/// The marks of one table.
pub(super) struct Changes {
    marks: Vec<u64>,
    /// Word to look at next, and words left in this round.
    at: usize,
    left: usize,
    /// Entry the refresh comes to next, when it last ran, and what it owes, in entries times ticks.
    refresh_at: u32,
    refreshed: u32,
    owed: u64,
}

/// The present state of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The entry's number.
    pub entry: u32,
    /// The flow in it, if any.
    pub record: Option<FlowRecord>,
}

/// Changes taken at one moment; room for as many as it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangePage {
    /// When they were taken.
    pub now: Now,
    /// What was taken, by ascending entry but for one turn from the end of the table to its beginning.
    pub changes: Vec<Change>,
}

impl ChangePage {
    /// A page for `room` changes.
    pub fn with_room(room: usize) -> Self {
        Self { now: Now(0), changes: Vec::with_capacity(room) }
    }
}

impl Changes {
    /// Ticks after which a flow's next packet marks it: 4 s.
    pub(super) const RESTING: u32 = 64;

    pub(super) fn bytes(entries: usize) -> usize {
        entries.div_ceil(64) * size_of::<u64>()
    }

    /// No marks, or nothing if the memory is refused.
    pub(super) fn new(entries: usize) -> Option<Self> {
        let marks = filled(entries.div_ceil(64), 0)?;
        Some(Self { marks, at: 0, left: 0, refresh_at: 0, refreshed: 0, owed: 0 })
    }

    #[inline]
    pub(super) fn mark(&mut self, entry: u32) {
        self.marks[entry as usize / 64] |= 1 << (entry % 64);
    }
}

impl FlowTable {
    /// Fills `page` anew with entries that changed since they were last taken. Returns whether there is more to be had
    /// at once: each call does a bounded part. Have all of it several times a second. Allocates nothing.
    pub fn take_changes(&mut self, now: Now, page: &mut ChangePage) -> bool {
        let behind = self.refresh(now.tick());
        page.now = now;
        page.changes.clear();
        let mut room = page.changes.capacity();
        let words = self.changes.marks.len();
        if self.changes.left == 0 {
            self.changes.left = words;
        }
        for _ in 0..WORDS.min(self.changes.left) {
            let word = self.changes.at;
            while self.changes.marks[word] != 0 {
                if room == 0 {
                    return true;
                }
                let bit = self.changes.marks[word].trailing_zeros();
                self.changes.marks[word] &= self.changes.marks[word] - 1;
                let entry = word as u32 * 64 + bit;
                page.changes.push(Change { entry, record: self.record(FlowHandle(entry), now) });
                room -= 1;
            }
            self.changes.at = (word + 1) % words;
            self.changes.left -= 1;
        }
        behind || self.changes.left > 0
    }

    /// Marks the busy flows among the entries that are due; whether more are due.
    fn refresh(&mut self, tick: u32) -> bool {
        let entries = self.entries.len() as u64;
        let passed = u64::from(elapsed(tick, self.changes.refreshed)).min(REFRESH);
        self.changes.refreshed = tick;
        self.changes.owed = (self.changes.owed + entries * passed).min(entries * REFRESH);
        let due = self.changes.owed / REFRESH;
        let step = due.min(REFRESH_STEP);
        self.changes.owed -= step * REFRESH;
        for _ in 0..step {
            let entry = self.changes.refresh_at;
            self.changes.refresh_at = (entry + 1) % self.entries.len() as u32;
            let track = self.entries.track(entry);
            if track.state.is_some() && elapsed(tick, track.last_seen) <= 2 * time::from_ms(REFRESH_MS) {
                self.changes.mark(entry);
            }
        }
        step < due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowConfig, FlowKey, FlowState, NewFlow, Outcome, PacketFacts, PodSlot, tcp_flag};
    use espalier_api::rule::Direction::{Egress, Ingress};
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    /// A large table in small pages: every change once, every busy flow within the refresh, no call without end.
    #[test]
    fn each_change_is_taken_once_and_busy_flows_come_round() {
        const FLOWS: u32 = 600_000;
        let mut config = FlowConfig::sized(FLOWS, 1, [1, 2]);
        config.half_open_per_pod = 1000;
        let mut table = FlowTable::new(&config).unwrap();
        let mut page = ChangePage::with_room(100);
        let mut take = |table: &mut FlowTable, now| {
            let (mut taken, mut calls) = (Vec::new(), 0);
            while table.take_changes(now, &mut page) {
                taken.append(&mut page.changes);
                calls += 1;
                assert!(calls < 1000, "it comes to no end");
            }
            taken.append(&mut page.changes);
            taken.into_iter().map(|change| change.entry).collect::<Vec<_>>()
        };
        assert_eq!(take(&mut table, Now(5_000_000)), [0; 0]);
        let key = |port| {
            let (local, remote) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
            FlowKey::tcp_udp(PodSlot(0), local, remote, 6, port, 80)
        };
        let first = PacketFacts { direction: Egress, tcp_flags: tcp_flag::ACK, bytes: 1 };
        let flow = NewFlow {
            initiator: Egress,
            rule: 0,
            generation: 0,
            tracked: true,
            revoke_on_change: false,
            first,
        };
        let now = Now(5_000_000);
        let handles: Vec<_> = (0..500).map(|port| table.insert(&key(port), &flow, now).unwrap()).collect();
        let reply = PacketFacts { direction: Ingress, ..first };
        for handle in &handles {
            assert_eq!(table.on_packet(*handle, &reply, now), Outcome::Pass(FlowState::Established));
        }
        let mut entries: Vec<_> = handles.iter().map(|handle| handle.0).collect();
        entries.sort_unstable();
        assert_eq!(take(&mut table, now), entries);
        assert_eq!(take(&mut table, now), [0; 0]);
        let mut refreshed = HashMap::new();
        for quarter in 1..=64 {
            let now = Now(5_000_000 + quarter * 250);
            for handle in &handles {
                table.on_packet(*handle, &first, now);
            }
            take(&mut table, now).into_iter().for_each(|entry| *refreshed.entry(entry).or_default() += 1);
        }
        assert_eq!(refreshed, entries.into_iter().map(|entry| (entry, 1)).collect(), "once in 16 s");
    }
}
