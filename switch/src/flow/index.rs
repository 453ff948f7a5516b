//! The hash index: which entries are in use, and a tag of each one's key. A tag's place is its entry's.
//!
//! Called by the table with a hash; never looks at keys itself. The tags of 31 entries share a line, their group. A group
//! that was full counts how many entries went past it to the next ones, so a miss ends at the first group nobody went
//! past. Each address family has groups of its own, IPv4 the first; there are more entries than flows: an insert always
//! finds one.

use std::ops::Range;

use espalier_api::rule::Family;
use espalier_xsk::prefetch;
use wide::u16x16;

use super::memory::filled;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

const LANES: usize = 31;
/// Flows for each group when the table is full. After flows have come and gone, 18 % of a full table's entries lie outside
/// their home group, 0.7 % of those of a table three quarters full.
const FILL: usize = 27;
/// The tag of a free entry.
const FREE: u16 = 0;

/// Tags, and last how many entries have this group between their home and their place. Beyond what 16 bits hold, which
/// only crafted hashes bring about, the count stays as it is, and lookups go on to the next group from then on.
#[derive(Clone)]
#[repr(C, align(64))]
struct Group([u16; LANES + 1]);

const _: () = assert!(size_of::<Group>() == 64);

/// The groups of one table.
pub(super) struct Index {
    groups: Vec<Group>,
    /// The first group of IPv6.
    split: usize,
}

#[inline]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(FREE + 1)
}

impl Group {
    const EMPTY: Self = Self([FREE; LANES + 1]);

    /// One bit for each lane that holds `tag`.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        let (halves, _) = self.0.as_chunks::<16>();
        let [low, high] =
            [0, 1].map(|half| u16x16::new(halves[half]).simd_eq(u16x16::splat(tag)).to_bitmask());
        (low | high << 16) & !(1 << LANES)
    }

    fn passed(&self) -> u16 {
        self.0[LANES]
    }

    fn pass(&mut self) {
        self.0[LANES] = self.0[LANES].saturating_add(1);
    }

    fn unpass(&mut self) {
        if self.0[LANES] != u16::MAX {
            self.0[LANES] -= 1;
        }
    }
}

/// The entry of the lowest bit of [`Group::matches`], of which there is one.
#[inline]
fn entry(group: usize, matches: u32) -> u32 {
    (group * LANES) as u32 + matches.trailing_zeros()
}

impl Index {
    /// How many entries there are for that many flows of one family.
    pub(super) fn entries(flows: u32) -> u32 {
        flows.div_ceil(FILL as u32) * LANES as u32
    }

    /// Bytes for that many entries.
    pub(super) fn bytes(entries: u32) -> usize {
        entries as usize / LANES * size_of::<Group>()
    }

    /// An empty index with that many entries for IPv4 and IPv6, or nothing if the memory is refused.
    pub(super) fn new([v4, v6]: [u32; 2]) -> Option<Self> {
        let [split, rest] = [v4, v6].map(|entries| entries as usize / LANES);
        Some(Self { groups: filled(split + rest, Group::EMPTY)?, split })
    }

    #[inline]
    fn groups(&self, family: Family) -> Range<usize> {
        match family {
            Family::V4 => 0..self.split,
            Family::V6 => self.split..self.groups.len(),
        }
    }

    /// The group where `hash` lives, from its upper half; the tag is the lowest 16 bits.
    #[inline]
    fn home(&self, family: Family, hash: u64) -> usize {
        let Range { start, end } = self.groups(family);
        start + (((hash >> 32) * (end - start) as u64) >> 32) as usize
    }

    fn after(&self, family: Family, group: usize) -> usize {
        let Range { start, end } = self.groups(family);
        if group + 1 == end { start } else { group + 1 }
    }

    /// Has the home group of `hash` on its way while other keys are looked at.
    #[inline]
    pub(super) fn prefetch(&self, family: Family, hash: u64) {
        prefetch(&self.groups[self.home(family, hash)]);
    }

    /// A guess from the home group of `hash` alone: the first entry whose tag fits, or else the one that [`Self::insert`]
    /// would take there.
    #[inline]
    pub(super) fn guess(&self, family: Family, hash: u64) -> u32 {
        let home = self.home(family, hash);
        let group = &self.groups[home];
        let mut matches = group.matches(tag(hash));
        if matches == 0 {
            matches = group.matches(FREE);
        }
        if matches == 0 { NONE } else { entry(home, matches) }
    }

    /// The entry under `hash` that `is` accepts.
    #[inline]
    pub(super) fn find(&self, family: Family, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let home = self.home(family, hash);
        let mut at = home;
        loop {
            let group = &self.groups[at];
            let mut left = group.matches(tag(hash));
            while left != 0 {
                if is(entry(at, left)) {
                    return Some(entry(at, left));
                }
                left &= left - 1;
            }
            at = self.after(family, at);
            if group.passed() == 0 || at == home {
                return None;
            }
        }
    }

    /// Takes an entry for `hash`. The caller never takes more of a family than the flows the index was made for.
    pub(super) fn insert(&mut self, family: Family, hash: u64) -> u32 {
        let mut at = self.home(family, hash);
        loop {
            let group = &mut self.groups[at];
            let free = group.matches(FREE);
            if free != 0 {
                group.0[free.trailing_zeros() as usize] = tag(hash);
                return entry(at, free);
            }
            group.pass();
            at = self.after(family, at);
        }
    }

    /// Frees `entry`, which was taken for `hash`.
    pub(super) fn remove(&mut self, family: Family, hash: u64, entry: u32) {
        let place = entry as usize / LANES;
        let mut at = self.home(family, hash);
        while at != place {
            self.groups[at].unpass();
            at = self.after(family, at);
        }
        self.groups[place].0[entry as usize % LANES] = FREE;
    }

    /// How many entries lie outside their home group, counted once for each group they passed.
    #[cfg(test)]
    pub(super) fn overflow(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.passed())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Family::{V4, V6};

    #[test]
    fn an_entry_is_found_by_its_tag() {
        let mut group = Group::EMPTY;
        for lane in 0..LANES {
            group.0[lane] = 100 + lane as u16;
        }
        for lane in 0..LANES {
            assert_eq!(group.matches(100 + lane as u16), 1 << lane);
        }
        assert_eq!(group.matches(99), 0);
        group.0[5] = FREE;
        assert_eq!((group.matches(105), group.matches(FREE)), (0, 1 << 5));
        group.pass();
        assert_eq!(group.matches(1), 0, "how many went past is no tag");
    }

    /// As many entries as there are for that many flows of each family.
    fn index(flows: u32) -> Index {
        Index::new([Index::entries(flows); 2]).unwrap()
    }

    #[test]
    fn entries_of_one_hash_spill_over_and_come_back_out() {
        for family in [V4, V6] {
            let mut index = index(128);
            let hash = 0xffff_ffff_0000_1234;
            let mut taken: Vec<_> = (0..128).map(|_| index.insert(family, hash)).collect();
            taken.sort_unstable();
            taken.dedup();
            assert_eq!(taken.len(), 128);
            let known = |index: &Index, entry| index.find(family, hash, |held| held == entry) == Some(entry);
            assert!(taken.iter().all(|entry| known(&index, *entry)));
            let other = if family == V4 { V6 } else { V4 };
            assert_eq!(index.find(other, hash, |_| true), None);
            for (n, entry) in taken.iter().enumerate().filter(|(n, _)| n % 2 == 1) {
                index.remove(family, hash, *entry);
                assert!(!known(&index, *entry), "{n}");
            }
            for entry in taken.iter().step_by(2) {
                assert!(known(&index, *entry));
                index.remove(family, hash, *entry);
            }
            assert_eq!(index.overflow(), 0);
            assert_eq!(index.guess(family, hash), index.insert(family, hash));
        }
    }

    /// In a small table every group can have been passed at some time; a search for what is not there must end.
    #[test]
    fn a_search_ends_where_every_group_was_passed() {
        let mut index = index(2 * FILL as u32);
        let (first, second) = (0, 1 << 63);
        let in_first: Vec<_> = (0..=LANES).map(|_| index.insert(V4, first)).collect();
        in_first[..LANES].iter().for_each(|entry| index.remove(V4, first, *entry));
        (0..LANES).for_each(|_| _ = index.insert(V4, second));
        assert_eq!(index.overflow(), 2);
        assert_eq!(index.find(V4, 0x1234, |_| true), None);
    }

    /// An attacker who knows everything but the seed: keys that all fall into a few groups under a seed of their own.
    #[test]
    fn keys_crafted_for_another_seed_do_not_collide() {
        use crate::flow::key::{FlowKey, PodSlot, Seed};
        use std::net::Ipv4Addr;
        const FLOWS: u32 = 4096;
        let overflow = |seed: &Seed, keys: &[FlowKey]| {
            let mut index = index(2 * FLOWS);
            keys.iter().for_each(|key| _ = index.insert(V4, seed.hash(key)));
            index.overflow()
        };
        let (guessed, real) = (Seed::new([1, 2]), Seed::new([3, 4]));
        let crafted: Vec<_> = (0..1 << 20)
            .map(|remote| {
                let (local, remote) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::from_bits(remote));
                FlowKey::tcp_udp(PodSlot(0), local, remote, 6, 80, 1000)
            })
            .filter(|key| guessed.hash(key) >> 56 == 0)
            .take(FLOWS as usize)
            .collect();
        assert_eq!(crafted.len(), FLOWS as usize);
        assert!(overflow(&guessed, &crafted) > 100_000, "they do collide under the seed they were made for");
        assert!(overflow(&real, &crafted) < u64::from(FLOWS) / 100, "{}", overflow(&real, &crafted));
    }

    /// Keys as a port scan or an address scan makes them.
    #[test]
    fn keys_in_sequence_spread_like_random_ones() {
        use crate::flow::key::{FlowKey, PodSlot, Seed};
        use std::net::{Ipv4Addr, Ipv6Addr};
        const FLOWS: u32 = 16_384;
        let seed = Seed::new([5, 6]);
        let scans: [fn(u32) -> FlowKey; 3] = [
            |n| {
                let (local, remote) = (Ipv4Addr::from_bits(n), Ipv4Addr::LOCALHOST);
                FlowKey::tcp_udp(PodSlot(0), local, remote, 6, 80, 1000)
            },
            |n| {
                let (local, remote) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
                FlowKey::tcp_udp(PodSlot(0), local, remote, 6, n as u16, 1000)
            },
            |n| {
                let (local, remote) = (Ipv6Addr::from_bits(n.into()), Ipv6Addr::LOCALHOST);
                FlowKey::addresses_only(PodSlot(0), local, remote, 47)
            },
        ];
        for key in scans {
            let mut index = index(FLOWS);
            (0..FLOWS).map(key).for_each(|key| _ = index.insert(key.family(), seed.hash(&key)));
            let expected_at_random = u64::from(FLOWS) / 18;
            assert!(index.overflow() < 2 * expected_at_random, "{}", index.overflow());
        }
    }
}
