//! Longest-prefix match to a class, for prefixes shorter than an address.
//!
//! The first 16 bits index a table; below it, nodes of 8 bits keep only the places where the value changes (a 256-bit
//! map and its population count) and skip octets that all their prefixes share. The writer's half is in [`build`].

use super::address::Address;
use super::pages::Pages;

pub(crate) mod build;

/// Marks an entry that names a node instead of a class.
const CHILD: u32 = 1 << 31;
/// Entries of a page of the first table and of the nodes' entries: 4 KiB.
const ENTRIES_PER_PAGE: usize = 1024;
/// Nodes of a page: 4 KiB.
const NODES_PER_PAGE: usize = 64;
/// Slots of the first table.
const ROOT_SLOTS: usize = 1 << 16;
/// Most octets a node can skip: what fits its key.
const SKIP_MAX: u8 = 8;

/// 256 slots in runs of equal entries.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Node {
    /// Bit s is set where slot s begins a run; bit 0 always is.
    starts: [u64; 4],
    /// The skipped octets.
    key: u64,
    /// First of the runs' entries.
    base: u32,
    /// The value where the skipped octets differ.
    otherwise: u32,
    /// Runs that begin in the words before.
    before: [u8; 4],
    /// Skipped octets.
    skip: u8,
}

/// The reader's half: immutable, cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trie<A> {
    root: Pages<u32, ENTRIES_PER_PAGE>,
    nodes: Pages<Node, NODES_PER_PAGE>,
    entries: Pages<u32, ENTRIES_PER_PAGE>,
    family: std::marker::PhantomData<A>,
}

/// Where a walk stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cursor {
    entry: u32,
    depth: u8,
}

impl Cursor {
    /// Whether the walk has ended.
    #[inline]
    pub(crate) fn is_done(self) -> bool {
        self.entry & CHILD == 0
    }

    /// The value, when done.
    #[inline]
    pub(crate) fn value(self) -> u32 {
        self.entry
    }
}

impl<A: Address> Trie<A> {
    fn new(value: u32) -> Self {
        Self {
            root: Pages::filled(ROOT_SLOTS, value),
            nodes: Pages::default(),
            entries: Pages::default(),
            family: std::marker::PhantomData,
        }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    pub(crate) fn get(&self, address: A) -> u32 {
        let mut cursor = self.start(address);
        while !cursor.is_done() {
            cursor = self.step(address, cursor);
        }
        cursor.value()
    }

    /// Begins a walk; several walks at once hide each other's memory latency.
    #[inline]
    pub(crate) fn start(&self, address: A) -> Cursor {
        Cursor { entry: *self.root.at(address.top16()), depth: 2 }
    }

    /// Goes one node down. Only for a walk that is not done.
    #[inline]
    pub(crate) fn step(&self, address: A, cursor: Cursor) -> Cursor {
        let node = self.nodes.at(cursor.entry & !CHILD);
        let mut depth = cursor.depth;
        if node.skip > 0 {
            if address.octets(depth, node.skip) != node.key {
                return Cursor { entry: node.otherwise, depth };
            }
            depth += node.skip;
        }
        Cursor { entry: *self.entries.at(node.base + node.run_of(address.octet(depth))), depth: depth + 1 }
    }

    /// Bytes of the tables.
    pub(crate) fn bytes(&self) -> usize {
        self.root.bytes() + self.nodes.bytes() + self.entries.bytes()
    }
}

impl Node {
    /// Which run slot `slot` is in.
    #[inline]
    fn run_of(&self, slot: u8) -> u32 {
        let word = usize::from(slot >> 6);
        let up_to = self.starts[word] & (u64::MAX >> (63 - (slot & 63)));
        u32::from(self.before[word]) + up_to.count_ones() - 1
    }

    /// Number of runs.
    fn runs(&self) -> u32 {
        self.starts.iter().map(|word| word.count_ones()).sum()
    }
}
