//! Reading the table in pages: for `espalier flows`, for flow records and for the state file.
//!
//! A page looks at a bounded number of entries, so that a million flows never stall a worker.

use espalier_api::rule::Direction;

use super::entry::Track;
use super::key::FlowKey;
use super::state::{FlowState, Marks};
use super::table::FlowTable;
use super::time::{self, Now, elapsed};
use super::{FlowHandle, NotRestored, RuleKey};

/// A flow, copied out of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRecord {
    /// Ends, protocol and pod.
    pub key: FlowKey,
    /// What is known of it.
    pub state: FlowState,
    /// The rest, see the methods.
    pub(super) marks: Marks,
    /// The rule that allowed it.
    pub rule: u32,
    /// The generation it was judged by.
    pub generation: u32,
    /// Packets, by `Direction as usize`; modulo 2^40.
    pub packets: [u64; 2],
    /// Bytes, by `Direction as usize`.
    pub bytes: [u64; 2],
    /// Milliseconds since it was entered, to 64.
    pub age_ms: u64,
    /// Milliseconds since its last packet, to 64.
    pub idle_ms: u64,
}

impl FlowRecord {
    /// The direction of its first packet.
    pub fn initiator(&self) -> Direction {
        self.marks.initiator()
    }

    /// The rule it is under.
    pub fn account(&self) -> RuleKey {
        RuleKey { rule: self.rule, generation: self.generation }
    }

    /// Whether it is judged again when the rules change, although tracked.
    pub fn revoke_on_change(&self) -> bool {
        self.marks.revoke()
    }

    /// Whether it was first seen in mid-stream.
    pub fn picked_up(&self) -> bool {
        self.marks.picked_up()
    }

    /// Whether a FIN went in this direction.
    pub fn has_fin(&self, direction: Direction) -> bool {
        self.marks.has_fin(direction)
    }
}

impl FlowTable {
    /// Shows `each` the flows among the next `limit` entries from `cursor` on (0 to begin with). Returns the cursor to
    /// go on from, or nothing at the end. Flows that are over are left out. A flow that lives through the whole listing
    /// is shown exactly once.
    pub fn page(
        &self,
        cursor: u32,
        limit: u32,
        now: Now,
        mut each: impl FnMut(FlowHandle, FlowRecord),
    ) -> Option<u32> {
        let end = cursor.saturating_add(limit).min(self.entries.len() as u32);
        for entry in cursor..end {
            if let Some(record) = self.record(FlowHandle(entry), now) {
                each(FlowHandle(entry), record);
            }
        }
        ((end as usize) < self.entries.len()).then_some(end)
    }

    /// The flow under `handle`; nothing if it is over.
    pub fn record(&self, handle: FlowHandle, now: Now) -> Option<FlowRecord> {
        let live = self.entries.track(handle.0).state.is_some() && !self.is_over(handle.0, now.tick());
        if live { self.copy(handle.0, now.tick()) } else { None }
    }

    /// A flow that is about to end, as it was with its last packet.
    pub(super) fn last_record(&self, entry: u32) -> Option<FlowRecord> {
        self.copy(entry, self.entries.track(entry).last_seen)
    }

    fn copy(&self, entry: u32, tick: u32) -> Option<FlowRecord> {
        let track = self.entries.track(entry);
        let state = track.state?;
        Some(FlowRecord {
            key: self.entries.key(entry),
            state,
            marks: track.marks,
            rule: track.rule,
            generation: track.generation,
            packets: track.packets(),
            bytes: track.bytes(),
            age_ms: time::to_ms(elapsed(tick, track.created)),
            idle_ms: time::to_ms(elapsed(tick, track.last_seen)),
        })
    }

    /// Enters a flow from an earlier life of the switch, under the timeouts and quotas of this one.
    pub fn restore(&mut self, record: &FlowRecord, now: Now) -> Result<FlowHandle, NotRestored> {
        let tick = now.tick();
        let idle = time::from_ms(record.idle_ms);
        let class = record.state.class();
        if self.pods.get(record.key.slot().index()).is_some_and(|pod| idle > pod.ticks[class as usize]) {
            return Err(NotRestored::Over);
        }
        let created = tick.wrapping_sub(time::from_ms(record.age_ms));
        let mut track = Track::new(record.state, record.marks, record.rule, record.generation, created);
        track.last_seen = tick.wrapping_sub(idle);
        track.set_counts(record.packets, record.bytes);
        let entry = self.enter(&record.key, track.clone(), tick).map_err(NotRestored::Refused)?;
        self.ledger.come(entry, &track);
        Ok(FlowHandle(entry))
    }
}
