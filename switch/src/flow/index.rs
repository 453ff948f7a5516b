//! The hash index: 64-byte buckets of eight tags and eight entry numbers.
//!
//! Called by the table with a hash; never looks at keys itself. A bucket that overflowed counts how many entries went
//! past it to the next ones, so a miss ends at the first bucket nobody went past. Twice as many lanes as entries: an
//! insert always finds one.

use espalier_xsk::prefetch;
use wide::u16x8;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

const LANES: usize = 8;
/// Entries per bucket when the table is full. At four, 0.65 % of the entries lie outside their home bucket.
const FILL: usize = 4;

#[derive(Clone)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 in a free lane, but not only there.
    tags: [u16; LANES],
    entries: [u32; LANES],
    /// How many entries have this bucket between their home and their place.
    passed: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The buckets of one table.
pub(super) struct Index {
    buckets: Vec<Bucket>,
}

#[inline]
fn tag(hash: u64) -> u16 {
    hash as u16
}

impl Bucket {
    const EMPTY: Self = Self { tags: [0; LANES], entries: [NONE; LANES], passed: 0 };

    /// One bit for each lane that holds `tag`.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        u16x8::new(self.tags).simd_eq(u16x8::splat(tag)).to_bitmask()
    }

    fn set(&mut self, lane: usize, tag: u16, entry: u32) {
        self.tags[lane] = tag;
        self.entries[lane] = entry;
    }

    #[inline]
    fn find(&self, tag: u16, mut is: impl FnMut(u32) -> bool) -> Option<usize> {
        let mut left = self.matches(tag);
        while left != 0 {
            let lane = lane(left);
            if self.entries[lane] != NONE && is(self.entries[lane]) {
                return Some(lane);
            }
            left &= left - 1;
        }
        None
    }
}

/// The lane of the lowest bit of [`Bucket::matches`].
#[inline]
fn lane(matches: u32) -> usize {
    matches.trailing_zeros() as usize % LANES
}

impl Index {
    /// Bytes for `entries` entries.
    pub(super) fn bytes(entries: usize) -> usize {
        Self::buckets(entries) * size_of::<Bucket>()
    }

    fn buckets(entries: usize) -> usize {
        entries.div_ceil(FILL).max(1)
    }

    /// An empty index with room for `entries`, or nothing if the memory is refused.
    pub(super) fn new(entries: usize) -> Option<Self> {
        let count = Self::buckets(entries);
        let mut buckets = Vec::new();
        buckets.try_reserve_exact(count).ok()?;
        buckets.resize(count, Bucket::EMPTY);
        Some(Self { buckets })
    }

    /// The bucket where `hash` lives, from its upper half; the tag is the lowest 16 bits.
    #[inline]
    pub(super) fn home(&self, hash: u64) -> u32 {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as u32
    }

    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    /// Has the home bucket of `hash` on its way while other keys are looked at.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash) as usize]);
    }

    /// A guess without a branch on memory: the entry of the first lane whose tag fits in the home bucket of `hash`.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        let home = self.home(hash);
        let bucket = &self.buckets[home as usize];
        let matches = bucket.matches(tag(hash));
        let entry = bucket.entries[lane(matches)];
        if matches == 0 { NONE } else { entry }
    }

    /// The entry under `hash` that `is` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash) as usize;
        loop {
            let bucket = &self.buckets[at];
            if let Some(lane) = bucket.find(tag(hash), &mut is) {
                return Some(bucket.entries[lane]);
            }
            if bucket.passed == 0 {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Adds `entry`. The caller never adds more entries than the index was made for.
    pub(super) fn insert(&mut self, hash: u64, entry: u32) {
        let mut at = self.home(hash) as usize;
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(lane) = bucket.entries.iter().position(|held| *held == NONE) {
                bucket.set(lane, tag(hash), entry);
                return;
            }
            bucket.passed += 1;
            at = self.after(at);
        }
    }

    /// Takes out `entry`, which is in the index under `hash`.
    pub(super) fn remove(&mut self, hash: u64, entry: u32) {
        let mut at = self.home(hash) as usize;
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(lane) = bucket.find(tag(hash), |held| held == entry) {
                bucket.set(lane, 0, NONE);
                return;
            }
            bucket.passed -= 1;
            at = self.after(at);
        }
    }

    /// How many entries lie outside their home bucket, counted once for each bucket they passed.
    #[cfg(test)]
    pub(super) fn overflow(&self) -> u64 {
        self.buckets.iter().map(|bucket| u64::from(bucket.passed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_found_by_its_tag() {
        let mut bucket = Bucket::EMPTY;
        for lane in 0..LANES {
            bucket.set(lane, 100 + lane as u16, lane as u32);
        }
        for lane in 0..LANES {
            assert_eq!(bucket.find(100 + lane as u16, |_| true), Some(lane));
        }
        assert_eq!(bucket.find(99, |_| true), None);
        bucket.set(5, 0, NONE);
        assert_eq!(bucket.find(105, |_| true), None);
    }

    #[test]
    fn entries_of_one_hash_spill_over_and_come_back_out() {
        let mut index = Index::new(64).unwrap();
        let hash = 0xffff_ffff_0000_1234;
        for entry in 0..64 {
            index.insert(hash, entry);
        }
        for entry in 0..64 {
            assert_eq!(index.find(hash, |held| held == entry), Some(entry));
        }
        for entry in (0..64).rev().step_by(2) {
            index.remove(hash, entry);
            assert_eq!(index.find(hash, |held| held == entry), None);
        }
        for entry in (0..64).step_by(2) {
            assert_eq!(index.find(hash, |held| held == entry), Some(entry), "{entry}");
            index.remove(hash, entry);
        }
        assert_eq!(index.overflow(), 0);
        assert_eq!(index.guess(hash), NONE);
    }

    /// An attacker who knows everything but the seed: keys that all fall into a few buckets under a seed of their own.
    #[test]
    fn keys_crafted_for_another_seed_do_not_collide() {
        use crate::flow::key::{FlowKey, PodSlot, Seed};
        use std::net::Ipv4Addr;
        const ENTRIES: usize = 4096;
        let overflow = |seed: &Seed, keys: &[FlowKey]| {
            let mut index = Index::new(ENTRIES).unwrap();
            for (entry, key) in keys.iter().enumerate() {
                index.insert(seed.hash(key), entry as u32);
            }
            index.overflow()
        };
        let (guessed, real) = (Seed::new([1, 2]), Seed::new([3, 4]));
        let crafted: Vec<_> = (0..1 << 20)
            .map(|remote| {
                let (local, remote) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::from_bits(remote));
                FlowKey::tcp_udp(PodSlot(0), local, remote, 6, 80, 1000)
            })
            .filter(|key| guessed.hash(key) >> 56 == 0)
            .take(ENTRIES)
            .collect();
        assert_eq!(crafted.len(), ENTRIES);
        assert!(overflow(&guessed, &crafted) > 100_000, "they do collide under the seed they were made for");
        let expected_at_random = ENTRIES as u64 / 100;
        assert!(overflow(&real, &crafted) < 2 * expected_at_random, "{}", overflow(&real, &crafted));
    }

    /// Keys as a port scan or an address scan makes them.
    #[test]
    fn keys_in_sequence_spread_like_random_ones() {
        use crate::flow::key::{FlowKey, PodSlot, Seed};
        use std::net::{Ipv4Addr, Ipv6Addr};
        const ENTRIES: u32 = 16_384;
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
            let mut index = Index::new(ENTRIES as usize).unwrap();
            for entry in 0..ENTRIES {
                index.insert(seed.hash(&key(entry)), entry);
            }
            let overflow = index.overflow();
            assert!(overflow < u64::from(ENTRIES) / 50, "{overflow}");
        }
    }
}
