//! Longest-prefix match to a class, for prefixes shorter than an address.
//!
//! The first 16 bits index a table; below it, nodes of 8 bits keep only the places where the value changes and skip
//! octets that all their prefixes share. A node of few runs is one cache line, entries included; a larger one is a
//! 256-bit map with its population counts and, right behind, the entries. The writer's half is in [`build`].

use super::LANES;
use super::address::Address;
use super::classes::ClassRef;
use super::pages::Pages;

pub(crate) mod build;

/// Marks an entry that names a node instead of a class.
const CHILD: u32 = 1 << 31;
/// With [`CHILD`]: the node is a large one.
const LARGE: u32 = 1 << 30;
/// The place of a node.
const PLACE: u32 = LARGE - 1;
/// Entries of a page of the first table: 4 KiB.
const ENTRIES_PER_PAGE: usize = 1024;
/// Small nodes of a page: 16 KiB, so that directories stay in the nearest caches.
const SMALL_PER_PAGE: usize = 256;
/// Words of a page of large nodes: 16 KiB.
const WORDS_PER_PAGE: usize = 4096;
/// Slots of the first table.
const ROOT_SLOTS: usize = 1 << 16;
/// Most octets a node can skip: what fits its key.
const SKIP_MAX: u8 = 8;
/// Runs of a small node.
const SMALL_RUNS: usize = 8;

/// Octets that all prefixes of a node share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Skipped {
    octets: u8,
    key: u64,
    /// The value where they differ.
    otherwise: u32,
}

/// Up to eight runs of equal slots.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Small {
    /// First slots of the runs; unused ones are 255 and lead to copies of the last entry.
    starts: [u8; SMALL_RUNS],
    octets: u8,
    key: u64,
    entries: [u32; SMALL_RUNS],
    otherwise: u32,
}

/// Layout of a large node in words.
mod large {
    /// Bit s of the map: slot s begins a run. Bit 0 always is set.
    pub(super) const MAP: usize = 0;
    /// For each word of the map, the runs that begin before it, a byte each.
    pub(super) const BEFORE: usize = 8;
    pub(super) const OCTETS: usize = 10;
    pub(super) const OTHERWISE: usize = 11;
    pub(super) const KEY: usize = 12;
    pub(super) const ENTRIES: usize = 14;
    /// Records begin at multiples of this: a header is one cache line.
    pub(super) const UNIT: usize = 16;
}

/// The reader's half: immutable, cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trie<A> {
    root: Pages<u32, ENTRIES_PER_PAGE>,
    small: Pages<Small, SMALL_PER_PAGE>,
    large: Pages<u32, WORDS_PER_PAGE>,
    family: std::marker::PhantomData<A>,
}

/// Where a walk stands.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    entry: u32,
    depth: u8,
}

impl Cursor {
    #[inline]
    fn is_done(self) -> bool {
        self.entry & CHILD == 0
    }

    #[inline]
    fn is_at_large(self) -> bool {
        self.entry & LARGE != 0
    }
}

/// Lanes of a batch that have something in common.
struct Selection {
    lanes: [u8; LANES],
    count: usize,
}

impl Selection {
    /// The lanes among `from` whose cursor fulfils `wanted`. Without a branch: what comes next cannot be predicted.
    #[inline]
    fn of(
        from: impl Iterator<Item = u8>,
        cursors: &[Cursor; LANES],
        wanted: impl Fn(Cursor) -> bool,
    ) -> Self {
        let (mut lanes, mut count) = ([0; LANES], 0);
        for lane in from {
            lanes[count % LANES] = lane;
            count += usize::from(wanted(cursors[usize::from(lane) % LANES]));
        }
        Self { lanes, count }
    }

    #[inline]
    fn iter(&self) -> impl Iterator<Item = u8> {
        self.lanes[..self.count].iter().copied()
    }
}

impl<A: Address> Trie<A> {
    fn new(value: u32) -> Self {
        Self {
            root: Pages::filled(ROOT_SLOTS, value),
            small: Pages::default(),
            large: Pages::default(),
            family: std::marker::PhantomData,
        }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    pub(crate) fn get(&self, address: A) -> u32 {
        let mut cursor = self.start(address);
        while !cursor.is_done() {
            cursor = match cursor.is_at_large() {
                false => self.step_small(address, cursor),
                true => self.step_large(address, cursor),
            };
        }
        cursor.entry
    }

    /// The values of up to [`LANES`] addresses, all one node down a round, so that their cache misses overlap.
    #[inline]
    pub(crate) fn get_batch(&self, addresses: &[A], classes: &mut [ClassRef; LANES]) {
        let mut cursors = [Cursor::default(); LANES];
        for (cursor, address) in cursors.iter_mut().zip(addresses) {
            *cursor = self.start(*address);
        }
        let mut walking = Selection::of(0..addresses.len() as u8, &cursors, |cursor| !cursor.is_done());
        while walking.count > 0 {
            let small = Selection::of(walking.iter(), &cursors, |cursor| !cursor.is_at_large());
            let large = Selection::of(walking.iter(), &cursors, Cursor::is_at_large);
            for lane in small.iter().map(usize::from) {
                cursors[lane] = self.step_small(addresses[lane], cursors[lane]);
            }
            for lane in large.iter().map(usize::from) {
                cursors[lane] = self.step_large(addresses[lane], cursors[lane]);
            }
            walking = Selection::of(walking.iter(), &cursors, |cursor| !cursor.is_done());
        }
        for (class, cursor) in classes.iter_mut().zip(cursors) {
            *class = ClassRef(cursor.entry);
        }
    }

    #[inline]
    fn start(&self, address: A) -> Cursor {
        Cursor { entry: *self.root.at(address.top16()), depth: 2 }
    }

    #[inline]
    fn step_small(&self, address: A, Cursor { entry, mut depth }: Cursor) -> Cursor {
        let node = self.small.at(entry & PLACE);
        if node.octets > 0 {
            if address.octets(depth, node.octets) != node.key {
                return Cursor { entry: node.otherwise, depth };
            }
            depth += node.octets;
        }
        let octet = address.octet(depth);
        // The first run starts at 0, so at least one is counted.
        let run = node.starts.iter().map(|start| u8::from(*start <= octet)).sum::<u8>().wrapping_sub(1);
        Cursor { entry: node.entries[usize::from(run) & (SMALL_RUNS - 1)], depth: depth + 1 }
    }

    #[inline]
    fn step_large(&self, address: A, Cursor { entry, mut depth }: Cursor) -> Cursor {
        let node = self.large.rest_of_page(entry & PLACE);
        let octets = node[large::OCTETS] as u8;
        if octets > 0 {
            if address.octets(depth, octets) != key_of(node) {
                return Cursor { entry: node[large::OTHERWISE], depth };
            }
            depth += octets;
        }
        let slot = address.octet(depth);
        let word = usize::from(slot >> 5);
        let up_to = node[large::MAP + word] & (u32::MAX >> (31 - (slot & 31)));
        let before = node[large::BEFORE + word / 4] >> (word % 4 * 8) & 0xff;
        let run = before + up_to.count_ones() - 1;
        Cursor { entry: node[large::ENTRIES + run as usize], depth: depth + 1 }
    }

    /// Bytes of the tables.
    pub(crate) fn bytes(&self) -> usize {
        self.root.bytes() + self.small.bytes() + self.large.bytes()
    }
}

fn key_of(node: &[u32]) -> u64 {
    u64::from(node[large::KEY]) | u64::from(node[large::KEY + 1]) << 32
}
