//! Exact addresses → class: group members, /32 and /128 rules, and the never-filtered services.
//!
//! Buckets of one cache line, the next bucket on overflow. A lookup reads one line, rarely two; joining or leaving
//! copies one page. At most half full, so runs stay short.

use super::LANES;
use super::address::Address;
use super::classes::ClassRef;
use super::pages::Pages;

/// Buckets of a page: 16 KiB.
const BUCKETS_PER_PAGE: usize = 256;
/// Fewest buckets of a table.
const BUCKETS_MIN: usize = 1;

/// `N` addresses with their classes; free places have the class [`ABSENT`].
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Bucket<A, const N: usize> {
    keys: [A; N],
    classes: [u32; N],
}

/// No class: the address is not in the table.
pub(crate) const ABSENT: u32 = 0;

/// A hash table of addresses. `N` is what fits a cache line: 8 for IPv4, 3 for IPv6.
#[derive(Debug, Clone)]
pub(crate) struct Hosts<A, const N: usize> {
    buckets: Pages<Bucket<A, N>, BUCKETS_PER_PAGE>,
    mask: u32,
    len: usize,
}

/// The table of IPv4 hosts.
pub(crate) type Hosts4 = Hosts<u32, 8>;
/// The table of IPv6 hosts.
pub(crate) type Hosts6 = Hosts<u128, 3>;

impl<A: Address, const N: usize> Hosts<A, N> {
    /// An empty table with room for `capacity` addresses.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let buckets = (capacity * 2).div_ceil(N).next_power_of_two().max(BUCKETS_MIN);
        let empty = Bucket { keys: [A::default(); N], classes: [ABSENT; N] };
        Self { buckets: Pages::filled(buckets, empty), mask: (buckets - 1) as u32, len: 0 }
    }

    /// The bucket an address is looked for in first.
    #[inline]
    pub(crate) fn home(&self, address: A) -> u32 {
        (address.hash64() >> 32) as u32 & self.mask
    }

    /// The class of an address, or [`ABSENT`].
    #[inline]
    pub(crate) fn get(&self, address: A) -> u32 {
        self.get_from(address, self.home(address))
    }

    /// [`get`](Self::get) with the home bucket computed before.
    #[inline]
    pub(crate) fn get_from(&self, address: A, home: u32) -> u32 {
        let mut at = home;
        loop {
            let bucket = self.buckets.at(at);
            let mut found = ABSENT;
            for (key, class) in bucket.keys.iter().zip(bucket.classes) {
                // Free places carry ABSENT, so a stale key there gives nothing.
                if *key == address {
                    found |= class;
                }
            }
            // One branch, nearly always taken; whether something was found cannot be predicted.
            if (found != ABSENT) | (bucket.classes[N - 1] == ABSENT) {
                return found;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// The classes of up to [`LANES`] addresses, whose buckets are read side by side.
    #[inline]
    pub(crate) fn get_batch(&self, addresses: &[A], classes: &mut [ClassRef; LANES]) {
        let mut homes = [0; LANES];
        for (home, address) in homes.iter_mut().zip(addresses) {
            *home = self.home(*address);
        }
        for ((class, address), home) in classes.iter_mut().zip(addresses).zip(homes) {
            *class = ClassRef(self.get_from(*address, home));
        }
    }

    /// Puts an address in a class, or takes it out with [`ABSENT`].
    pub(crate) fn set(&mut self, address: A, class: u32) {
        if class == ABSENT {
            return self.remove(address);
        }
        let mut at = self.home(address);
        loop {
            let bucket = self.buckets.at(at);
            let used = bucket.classes.iter().take_while(|class| **class != ABSENT).count();
            if let Some(place) = bucket.keys[..used].iter().position(|key| *key == address) {
                self.buckets.at_mut(at)[0].classes[place] = class;
                return;
            }
            if used < N {
                let bucket = &mut self.buckets.at_mut(at)[0];
                bucket.keys[used] = address;
                bucket.classes[used] = class;
                self.len += 1;
                break;
            }
            at = (at + 1) & self.mask;
        }
        if self.len * 2 > self.buckets.len() * N {
            self.rehash();
        }
    }

    /// Number of addresses.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the table.
    pub(crate) fn bytes(&self) -> usize {
        self.buckets.bytes()
    }

    fn remove(&mut self, address: A) {
        let mut at = self.home(address);
        loop {
            let bucket = self.buckets.at(at);
            let used = bucket.classes.iter().take_while(|class| **class != ABSENT).count();
            if let Some(place) = bucket.keys[..used].iter().position(|key| *key == address) {
                self.take(at, place, used);
                if used == N {
                    self.pull_back((at + 1) & self.mask);
                }
                return;
            }
            if used < N {
                return;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Removes a place; the last used one moves there.
    fn take(&mut self, at: u32, place: usize, used: usize) {
        let bucket = &mut self.buckets.at_mut(at)[0];
        bucket.keys[place] = bucket.keys[used - 1];
        bucket.classes[place] = bucket.classes[used - 1];
        bucket.keys[used - 1] = A::default();
        bucket.classes[used - 1] = ABSENT;
        self.len -= 1;
    }

    /// A bucket ahead is no longer full: what overflowed it may be unreachable now and is put in again.
    fn pull_back(&mut self, first: u32) {
        let mut moved = Vec::new();
        let mut at = first;
        loop {
            let bucket = *self.buckets.at(at);
            let used = bucket.classes.iter().take_while(|class| **class != ABSENT).count();
            for place in (0..used).rev() {
                if self.home(bucket.keys[place]) != at {
                    moved.push((bucket.keys[place], bucket.classes[place]));
                    let left =
                        self.buckets.at(at).classes.iter().take_while(|class| **class != ABSENT).count();
                    self.take(at, place, left);
                }
            }
            at = (at + 1) & self.mask;
            if used < N || at == first {
                break;
            }
        }
        for (address, class) in moved {
            self.set(address, class);
        }
    }

    fn rehash(&mut self) {
        let mut larger = Self::with_capacity(self.len * 2);
        for index in 0..self.buckets.len() as u32 {
            let bucket = self.buckets.at(index);
            for (key, class) in bucket.keys.iter().zip(bucket.classes) {
                if class != ABSENT {
                    larger.set(*key, class);
                }
            }
        }
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Against a map, with few distinct addresses so that buckets overflow and are emptied again.
        #[test]
        fn it_is_a_map(operations in prop::collection::vec((0u32..60, 0u32..4), 0..300)) {
            let mut hosts = Hosts::<u32, 2>::with_capacity(0);
            let mut map = HashMap::new();
            for (address, class) in operations {
                hosts.set(address, class);
                if class == ABSENT { map.remove(&address); } else { map.insert(address, class); }
                prop_assert_eq!(hosts.len(), map.len());
                for address in 0..60 {
                    prop_assert_eq!(hosts.get(address), map.get(&address).copied().unwrap_or(ABSENT));
                }
            }
        }
    }

    #[test]
    fn buckets_are_cache_lines() {
        assert_eq!(size_of::<Bucket<u32, 8>>(), 64);
        assert_eq!(size_of::<Bucket<u128, 3>>(), 64);
    }
}
