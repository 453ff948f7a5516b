//! The lookups of a batch, in stages over all of them, so that their cache misses overlap.
//!
//! A lookup reads two lines, the tags and then the entry; each is asked for a stage before it is read. The stages are
//! short loops on purpose: a line whose address the processor has yet to translate holds up what comes after it, so that
//! of anything longer too few misses are under way at once.

use super::index::NONE;
use super::key::FlowKey;
use super::table::FlowTable;

/// Lookups that go through the stages together.
const STRETCH: usize = 64;

/// A flow that is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Sought {
    pub(super) key: FlowKey,
    pub(super) hash: u64,
    /// The entry that the flow was found in. It is compared again when it is used: the table may have changed.
    pub(super) entry: u32,
}

impl Sought {
    /// The flow.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }
}

/// The lookups of one batch; kept for its memory.
#[derive(Debug, Default)]
pub struct Lookups(Vec<Sought>);

impl Lookups {
    /// Adds the lookup of `key`. Returns its place.
    #[inline(always)]
    pub fn add(&mut self, key: FlowKey) -> u32 {
        self.0.push(Sought { key, hash: 0, entry: NONE });
        (self.0.len() - 1) as u32
    }

    /// Looks for all of them.
    pub fn look(&mut self, table: &FlowTable) {
        for stretch in self.0.chunks_mut(STRETCH) {
            for sought in &mut *stretch {
                sought.hash = table.seed.hash(&sought.key);
                table.index.prefetch(sought.key.family(), sought.hash);
            }
            for sought in &mut *stretch {
                sought.entry = table.index.guess(sought.key.family(), sought.hash);
                table.entries.prefetch(sought.entry);
            }
            for sought in stretch {
                if !table.entries.is(sought.entry, &sought.key) {
                    // A new flow will be entered there, if it is one.
                    table.links.prefetch(sought.entry);
                    sought.entry = table.entry_of(sought).unwrap_or(NONE);
                }
            }
        }
    }

    /// The lookup in a place; worth something after [`Self::look`].
    #[inline(always)]
    pub fn get(&self, place: u32) -> Option<&Sought> {
        self.0.get(place as usize)
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
