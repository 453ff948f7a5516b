//! Longest-prefix match to a class, for prefixes shorter than an address.
//!
//! The first 16 bits index a table; below it, nodes of 8 bits keep only the places where the value changes and skip
//! octets that all their prefixes share. A node of few runs is half a cache line or a whole one, entries included; a
//! larger one is a 256-bit map with its population counts and, right behind, the entries. The writer's half is in
//! [`build`].

use super::LANES;
use super::address::Address;
use super::classes::ClassRef;
use super::pages::Pages;

pub(crate) mod build;

/// Marks an entry that names a node instead of a class.
const CHILD: u32 = 1 << 31;
/// With [`CHILD`]: the kind of the node. None of both is a tiny one.
const LARGE: u32 = 1 << 30;
const SMALL: u32 = 1 << 29;
/// The place of a node.
const PLACE: u32 = SMALL - 1;
/// Entries of a page of the first table: 4 KiB.
const ENTRIES_PER_PAGE: usize = 1024;
/// Tiny and small nodes of a page: 16 KiB, so that directories stay in the nearest caches.
const TINY_PER_PAGE: usize = 512;
const SMALL_PER_PAGE: usize = 256;
/// Words of a page of large nodes: 16 KiB.
const WORDS_PER_PAGE: usize = 4096;
/// Slots of the first table.
const ROOT_SLOTS: usize = 1 << 16;
/// Most octets a node can skip: what fits its key beside their number.
const SKIP_MAX: u8 = 7;
/// Runs of tiny and small nodes.
const TINY_RUNS: usize = 4;
const SMALL_RUNS: usize = 8;

/// Octets that all prefixes of a node share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Skipped {
    /// The octets as a number, and how many they are in the low byte.
    packed: u64,
    /// The value where an address has others.
    otherwise: u32,
}

impl Skipped {
    fn new(octets: u8, key: u64, otherwise: u32) -> Self {
        Self { packed: key << 8 | u64::from(octets), otherwise }
    }

    #[inline]
    fn octets(self) -> u8 {
        self.packed as u8
    }

    /// Whether the address has these octets at `depth`.
    #[inline]
    fn matches<A: Address>(self, address: A, depth: u8) -> bool {
        self.octets() == 0 || address.octets(depth, self.octets()) == self.packed >> 8
    }
}

/// Up to `N` runs of equal slots; `PAD` words fill the size up to a part of a cache line.
#[derive(Debug, Clone, Copy)]
struct Runs<const N: usize, const PAD: usize> {
    /// [`Skipped`], without the gap that the struct would have here.
    packed: u64,
    otherwise: u32,
    /// First slots of the runs; unused ones are 255 and lead to copies of the last entry.
    starts: [u8; N],
    entries: [u32; N],
    _pad: [u32; PAD],
}

/// Half a cache line.
type Tiny = Runs<TINY_RUNS, 0>;
/// A cache line.
type Small = Runs<SMALL_RUNS, 2>;

/// Layout of a large node in words.
mod large {
    /// Bit s of the map: slot s begins a run. Bit 0 always is set.
    pub(super) const MAP: usize = 0;
    /// For each word of the map, the runs that begin before it, a byte each.
    pub(super) const BEFORE: usize = 8;
    /// What is skipped: two words, then the value where an address has other octets.
    pub(super) const SKIPPED: usize = 10;
    pub(super) const ENTRIES: usize = 13;
    /// Records begin at multiples of this: a header is one cache line.
    pub(super) const UNIT: usize = 16;
}

/// The reader's half: immutable, cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trie<A> {
    root: Pages<u32, ENTRIES_PER_PAGE>,
    tiny: Pages<Tiny, TINY_PER_PAGE>,
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

    /// None for a tiny node, [`SMALL`] or [`LARGE`].
    #[inline]
    fn kind(self) -> u32 {
        self.entry & (SMALL | LARGE)
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
            tiny: Pages::default(),
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
            cursor = match cursor.kind() {
                LARGE => self.step_large(address, cursor),
                SMALL => self.small.at(cursor.entry & PLACE).step(address, cursor.depth),
                _ => self.tiny.at(cursor.entry & PLACE).step(address, cursor.depth),
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
            // Tiny and small nodes seldom mix: telling them apart by a branch costs less than another selection.
            let inline = Selection::of(walking.iter(), &cursors, |cursor| cursor.kind() != LARGE);
            let large = Selection::of(walking.iter(), &cursors, |cursor| cursor.kind() == LARGE);
            for lane in inline.iter().map(usize::from) {
                let Cursor { entry, depth } = cursors[lane];
                cursors[lane] = match entry & SMALL {
                    0 => self.tiny.at(entry & PLACE).step(addresses[lane], depth),
                    _ => self.small.at(entry & PLACE).step(addresses[lane], depth),
                };
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
    fn step_large(&self, address: A, Cursor { entry, mut depth }: Cursor) -> Cursor {
        let node = self.large.rest_of_page(entry & PLACE);
        let skipped = skipped_of(node);
        if !skipped.matches(address, depth) {
            return Cursor { entry: skipped.otherwise, depth };
        }
        depth += skipped.octets();
        let slot = address.octet(depth);
        let word = usize::from(slot >> 5);
        let up_to = node[large::MAP + word] & (u32::MAX >> (31 - (slot & 31)));
        let before = node[large::BEFORE + word / 4] >> (word % 4 * 8) & 0xff;
        let run = before + up_to.count_ones() - 1;
        Cursor { entry: node[large::ENTRIES + run as usize], depth: depth + 1 }
    }

    /// Bytes of the tables.
    pub(crate) fn bytes(&self) -> usize {
        self.root.bytes() + self.tiny.bytes() + self.small.bytes() + self.large.bytes()
    }
}

impl<const N: usize, const PAD: usize> Runs<N, PAD> {
    #[inline]
    fn step<A: Address>(&self, address: A, mut depth: u8) -> Cursor {
        let skipped = self.skipped();
        if !skipped.matches(address, depth) {
            return Cursor { entry: skipped.otherwise, depth };
        }
        depth += skipped.octets();
        Cursor { entry: self.entry(address.octet(depth)), depth: depth + 1 }
    }

    #[inline]
    fn skipped(&self) -> Skipped {
        Skipped { packed: self.packed, otherwise: self.otherwise }
    }

    /// The first run starts at 0, so at least one is counted; `N` is a power of two.
    #[inline]
    fn entry(&self, slot: u8) -> u32 {
        let run = self.starts.iter().map(|start| u8::from(*start <= slot)).sum::<u8>().wrapping_sub(1);
        self.entries[usize::from(run) & (N - 1)]
    }
}

/// What a large node skips.
#[inline]
fn skipped_of(node: &[u32]) -> Skipped {
    let [low, high, otherwise] = [0, 1, 2].map(|word| node[large::SKIPPED + word]);
    Skipped { packed: u64::from(low) | u64::from(high) << 32, otherwise }
}
