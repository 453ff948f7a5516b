//! Builds and changes a [`Trie`] from a sorted list of prefixes with their values.
//!
//! Owned by the compiler. A change rebuilds the slots its prefix covers and the nodes on the way there, nothing else.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{
    CHILD, LARGE, PLACE, ROOT_SLOTS, Runs, SKIP_MAX, SMALL, SMALL_RUNS, Skipped, TINY_RUNS, Trie,
    WORDS_PER_PAGE, large, skipped_of,
};
use crate::compiled::address::Address;
use crate::compiled::pages::FreeList;

/// What a prefix list holds for each prefix: the value to find, in the order of (address, length), so that a prefix
/// stands before the prefixes it holds.
pub(crate) type Values<A, V> = BTreeMap<(A, u8), V>;

/// A value that names what the trie is to return.
pub(crate) trait Leaf {
    /// The value: below 2³¹.
    fn leaf(&self) -> u32;
}

/// A trie with the writer's notes on its free places.
#[derive(Debug)]
pub(crate) struct Builder<A> {
    trie: Arc<Trie<A>>,
    free_tiny: FreeList,
    free_small: FreeList,
    free_large: FreeRecords,
}

/// One prefix of a sorted list.
type Item<A> = (A, u8, u32);

impl<A: Address> Builder<A> {
    /// A trie of these prefixes; `fallback` is found where none of them is.
    pub(crate) fn new<V: Leaf>(values: &Values<A, V>, fallback: u32) -> Self {
        let mut builder = Self {
            trie: Arc::new(Trie::new(fallback)),
            free_tiny: FreeList::default(),
            free_small: FreeList::default(),
            free_large: FreeRecords::default(),
        };
        let items: Vec<Item<A>> = values.iter().map(|((a, len), value)| (*a, *len, value.leaf())).collect();
        builder.build_root(&items, 0, ROOT_SLOTS - 1, fallback);
        builder
    }

    /// The reader's half as it stands.
    pub(crate) fn trie(&self) -> &Arc<Trie<A>> {
        &self.trie
    }

    /// Brings everything under `prefix` in line with `values`, after values there have changed. `above` gives the
    /// value of the longest prefix shorter than a length that holds `prefix`.
    pub(crate) fn refresh<V: Leaf>(
        &mut self,
        values: &Values<A, V>,
        (address, len): (A, u8),
        above: impl Fn(u8) -> u32,
    ) {
        if len <= 16 {
            let items = items_within(values, address, len);
            let (first, last) = (address.top16() as usize, address.extended(len).top16() as usize);
            for slot in first..=last {
                self.release(*self.trie.root.at(slot as u32));
            }
            self.build_root(&items, first, last, above(len));
            return;
        }
        let slot = address.top16();
        let old = *self.trie.root.at(slot);
        let change = Change { values, address, len, above: &above };
        let new = self.refresh_entry(&change, old, 2, address.truncated(16));
        if new != old {
            Arc::make_mut(&mut self.trie).root.set(slot, new);
        }
    }

    /// Fills the slots `first..=last` of the first table from `items`, which all lie there.
    fn build_root(&mut self, items: &[Item<A>], first: usize, last: usize, fallback: u32) {
        Arc::make_mut(&mut self.trie).root.fill(first, last, fallback);
        let mut at = 0;
        while let Some((address, len, value)) = items.get(at).copied() {
            let slot = address.top16();
            if len <= 16 {
                let end = address.extended(len).top16();
                Arc::make_mut(&mut self.trie).root.fill(slot as usize, end as usize, value);
                at += 1;
                continue;
            }
            let count = items[at..].partition_point(|(address, _, _)| address.top16() == slot);
            let inherited = *self.trie.root.at(slot);
            let entry = self.build(&items[at..at + count], 2, inherited);
            Arc::make_mut(&mut self.trie).root.set(slot, entry);
            at += count;
        }
    }

    /// The entry for prefixes that share their first `depth` octets and are all longer.
    fn build(&mut self, items: &[Item<A>], depth: u8, inherited: u32) -> u32 {
        let (Some((first, _, _)), Some((last, _, _))) = (items.first(), items.last()) else {
            return inherited;
        };
        let shortest = items.iter().map(|(_, len, _)| *len).min().unwrap_or(0);
        let shared =
            |skip: u8| shortest > (depth + skip) * 8 && first.octets(depth, skip) == last.octets(depth, skip);
        let skip = (1..=SKIP_MAX).take_while(|skip| shared(*skip)).last().unwrap_or(0);
        let mut slots = [inherited; 256];
        self.paint(items, depth + skip, &mut slots);
        let key = if skip == 0 { 0 } else { first.octets(depth, skip) };
        self.encode(&slots, Skipped::new(skip, key, inherited))
    }

    /// Overlays `items` on the slots of a node at `depth`; what is longer than a slot becomes a child.
    fn paint(&mut self, items: &[Item<A>], depth: u8, slots: &mut [u32; 256]) {
        let slot_len = (depth + 1) * 8;
        let mut at = 0;
        while let Some((address, len, value)) = items.get(at).copied() {
            let slot = address.octet(depth);
            if len <= slot_len {
                let end = address.extended(len).octet(depth);
                slots[usize::from(slot)..=usize::from(end)].fill(value);
                at += 1;
                continue;
            }
            let count = items[at..].partition_point(|(address, _, _)| address.octet(depth) == slot);
            let place = &mut slots[usize::from(slot)];
            *place = self.build(&items[at..at + count], depth + 1, *place);
            at += count;
        }
    }

    fn refresh_entry<V: Leaf, F: Fn(u8) -> u32>(
        &mut self,
        change: &Change<'_, A, V, F>,
        old: u32,
        depth: u8,
        base: A,
    ) -> u32 {
        let node = (old & CHILD != 0).then(|| self.decode(old));
        let on_path = |(skipped, _): &(Skipped, [u32; 256])| {
            change.len > (depth + skipped.octets()) * 8 && skipped.matches(change.address, depth)
        };
        let Some((skipped, mut slots)) = node.filter(on_path) else {
            self.release(old);
            let items = items_below(change.values, base, depth * 8);
            return self.build(&items, depth, (change.above)(depth * 8 + 1));
        };
        let at = depth + skipped.octets();
        let slot = change.address.octet(at);
        if change.len > (at + 1) * 8 {
            let below = change.address.truncated((at + 1) * 8);
            let place = usize::from(slot);
            let child = self.refresh_entry(change, slots[place], at + 1, below);
            if child == slots[place] {
                return old;
            }
            slots[place] = child;
        } else {
            let range = usize::from(slot)..=usize::from(change.address.extended(change.len).octet(at));
            self.release_slots(&slots, range.clone());
            slots[range].fill((change.above)(change.len));
            let items = items_within(change.values, change.address, change.len);
            self.paint(&items, at, &mut slots);
        }
        self.release_node(old);
        self.encode(&slots, skipped)
    }

    /// A node for these slots, or the one value they all have.
    fn encode(&mut self, slots: &[u32; 256], skipped: Skipped) -> u32 {
        let uniform = slots.iter().all(|slot| *slot == slots[0]);
        if uniform && (skipped.octets() == 0 || slots[0] == skipped.otherwise) {
            return slots[0];
        }
        let mut starts = [0u8; 256];
        let mut runs = [0; 256];
        let mut count = 0;
        for (slot, value) in slots.iter().enumerate() {
            if slot == 0 || *value != slots[slot - 1] {
                (starts[count], runs[count]) = (slot as u8, *value);
                count += 1;
            }
        }
        let (starts, runs) = (&starts[..count], &runs[..count]);
        let trie = Arc::make_mut(&mut self.trie);
        match count {
            0..=TINY_RUNS => {
                let node = Runs::new(starts, runs, skipped);
                self.free_tiny.insert(&mut trie.tiny, node) | CHILD
            }
            _ if count <= SMALL_RUNS => {
                let node = Runs::new(starts, runs, skipped);
                self.free_small.insert(&mut trie.small, node) | CHILD | SMALL
            }
            _ => self.encode_large(starts, runs, skipped),
        }
    }

    fn encode_large(&mut self, starts: &[u8], runs: &[u32], skipped: Skipped) -> u32 {
        let mut record = [0u32; large::ENTRIES + 256];
        for start in starts {
            record[large::MAP + usize::from(start >> 5)] |= 1 << (start & 31);
        }
        let mut before = 0;
        for word in 0..8 {
            record[large::BEFORE + word / 4] |= before << (word % 4 * 8);
            before += record[large::MAP + word].count_ones();
        }
        let Skipped { packed, otherwise } = skipped;
        record[large::SKIPPED..large::ENTRIES].copy_from_slice(&[
            packed as u32,
            (packed >> 32) as u32,
            otherwise,
        ]);
        record[large::ENTRIES..large::ENTRIES + runs.len()].copy_from_slice(runs);
        let words = &mut Arc::make_mut(&mut self.trie).large;
        let place = self.free_large.insert(words, &record[..large::ENTRIES + runs.len()]);
        place | CHILD | LARGE
    }

    /// What a node skips, and its slots.
    fn decode(&self, entry: u32) -> (Skipped, [u32; 256]) {
        let place = entry & PLACE;
        match entry & (SMALL | LARGE) {
            0 => return self.trie.tiny.at(place).decode(),
            SMALL => return self.trie.small.at(place).decode(),
            _ => {}
        }
        let node = self.trie.large.rest_of_page(place);
        let mut slots = [0; 256];
        let mut next = large::ENTRIES;
        for slot in 0..256 {
            slots[slot] = if node[large::MAP + slot / 32] >> (slot % 32) & 1 == 1 {
                next += 1;
                node[next - 1]
            } else {
                slots[slot - 1]
            };
        }
        (skipped_of(node), slots)
    }

    /// Gives back an entry's node and all below it.
    fn release(&mut self, entry: u32) {
        if entry & CHILD != 0 {
            let (_, slots) = self.decode(entry);
            self.release_slots(&slots, 0..=255);
            self.release_node(entry);
        }
    }

    /// A node fills its slot alone, so equal neighbours are never nodes.
    fn release_slots(&mut self, slots: &[u32; 256], range: RangeInclusive<usize>) {
        for entry in &slots[range] {
            self.release(*entry);
        }
    }

    fn release_node(&mut self, entry: u32) {
        let place = entry & PLACE;
        match entry & (SMALL | LARGE) {
            0 => return self.free_tiny.release(place),
            SMALL => return self.free_small.release(place),
            _ => {}
        }
        let node = self.trie.large.rest_of_page(place);
        let runs: u32 = node[large::MAP..large::BEFORE].iter().map(|word| word.count_ones()).sum();
        self.free_large.release(place, large::ENTRIES + runs as usize);
    }
}

impl<const N: usize, const PAD: usize> Runs<N, PAD> {
    fn new(starts: &[u8], runs: &[u32], skipped: Skipped) -> Self {
        let mut node = Self {
            packed: skipped.packed,
            otherwise: skipped.otherwise,
            starts: [u8::MAX; N],
            entries: [runs[runs.len() - 1]; N],
            _pad: [0; PAD],
        };
        node.starts[..starts.len()].copy_from_slice(starts);
        node.entries[..runs.len()].copy_from_slice(runs);
        node
    }

    fn decode(&self) -> (Skipped, [u32; 256]) {
        let mut slots = [0; 256];
        for (slot, value) in (0..=u8::MAX).zip(&mut slots) {
            *value = self.entry(slot);
        }
        (self.skipped(), slots)
    }
}

/// A prefix whose surroundings changed.
struct Change<'a, A, V, F> {
    values: &'a Values<A, V>,
    address: A,
    len: u8,
    above: &'a F,
}

/// The prefix itself and those it holds.
fn items_within<A: Address, V: Leaf>(values: &Values<A, V>, address: A, len: u8) -> Vec<Item<A>> {
    let range = values.range((address, len)..=(address.extended(len), A::BITS));
    range.map(|((a, own), value)| (*a, *own, value.leaf())).collect()
}

/// The prefixes it holds, without itself.
fn items_below<A: Address, V: Leaf>(values: &Values<A, V>, address: A, len: u8) -> Vec<Item<A>> {
    let mut items = items_within(values, address, len);
    items.retain(|(_, own, _)| *own > len);
    items
}

/// Free records of large nodes, by units of a cache line. A record never crosses a page.
#[derive(Debug, Default)]
struct FreeRecords {
    by_units: [Vec<u32>; FreeRecords::UNITS_MAX + 1],
}

type Words = super::Pages<u32, WORDS_PER_PAGE>;

impl FreeRecords {
    /// Units of a node whose slots all differ.
    const UNITS_MAX: usize = (large::ENTRIES + 256).div_ceil(large::UNIT);

    fn insert(&mut self, words: &mut Words, record: &[u32]) -> u32 {
        let units = record.len().div_ceil(large::UNIT);
        let place = self.by_units[units].pop().unwrap_or_else(|| self.append(words, units));
        words.at_mut(place)[..record.len()].copy_from_slice(record);
        place
    }

    fn append(&mut self, words: &mut Words, units: usize) -> u32 {
        let (end, size) = (words.len(), units * large::UNIT);
        let left = WORDS_PER_PAGE - end % WORDS_PER_PAGE;
        let place = if left < size { end + left } else { end };
        if place > end {
            // What is left of the page serves smaller nodes.
            self.by_units[left / large::UNIT].push(end as u32);
        }
        words.grow(place + size, 0);
        place as u32
    }

    fn release(&mut self, place: u32, len: usize) {
        self.by_units[len.div_ceil(large::UNIT)].push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Leaf for u32 {
        fn leaf(&self) -> u32 {
            *self
        }
    }

    fn longest<A: Address>(values: &Values<A, u32>, address: A, below: u8) -> u32 {
        (0..below).rev().find_map(|len| values.get(&(address.truncated(len), len)).copied()).unwrap_or(9)
    }

    /// Every address where a value may change: the edges of all prefixes.
    fn edges<A: Address>(prefixes: &[(A, u8)]) -> Vec<A> {
        prefixes.iter().flat_map(|(address, len)| [address.truncated(*len), address.extended(*len)]).collect()
    }

    fn check<A: Address>(steps: &[((A, u8), Option<u32>)]) {
        let mut values = Values::new();
        let prefixes: Vec<(A, u8)> =
            steps.iter().map(|((address, len), _)| (address.truncated(*len), *len)).collect();
        let mut changed = Builder::new(&values, 9);
        for ((address, len), value) in prefixes.iter().zip(steps.iter().map(|step| step.1)) {
            match value {
                Some(value) => drop(values.insert((*address, *len), value)),
                None => drop(values.remove(&(*address, *len))),
            }
            changed.refresh(&values, (*address, *len), |below| longest(&values, *address, below));
        }
        let fresh = Builder::new(&values, 9);
        for address in edges(&prefixes) {
            let wanted = longest(&values, address, A::BITS + 1);
            assert_eq!(fresh.trie().get(address), wanted, "built {address:x?}");
            assert_eq!(changed.trie().get(address), wanted, "changed {address:x?}");
        }
    }

    prop_compose! {
        /// Addresses from few bits, so that prefixes nest and meet.
        fn near4()(a in prop::sample::select(vec![0x0a00_0000u32, 0x0a01_0000, 0xffff_0000]), b in 0u32..4, c in 0u32..3, d in any::<u8>(), len in prop_oneof![0u8..=32, 14u8..=26]) -> (u32, u8) {
            (a | b << 14 | c << 7 | u32::from(d), len)
        }
    }

    prop_compose! {
        fn near6()(high in prop::sample::select(vec![0x2001_0db8_0000_0000u64, 0x2001_0db8_0001_0000, 0xfd00_0000_0000_0001]), low in prop::sample::select(vec![0u64, 1, 1 << 63, 0xff00]), len in prop_oneof![0u8..=128, 30u8..=66]) -> (u128, u8) {
            (u128::from(high) << 64 | u128::from(low), len)
        }
    }

    proptest! {
        #[test]
        fn ipv4_is_a_longest_prefix_match(steps in prop::collection::vec((near4(), prop::option::weighted(0.7, 1u32..6)), 1..60)) {
            check(&steps);
        }

        #[test]
        fn ipv6_is_a_longest_prefix_match(steps in prop::collection::vec((near6(), prop::option::weighted(0.7, 1u32..6)), 1..60)) {
            check(&steps);
        }
    }

    #[test]
    fn what_is_removed_is_given_back() {
        let mut values: Values<u32, u32> = Values::new();
        let mut builder = Builder::new(&values, 9);
        let mut after_first_round = (0, 0, 0);
        for round in 0..5 {
            for i in 0..400u32 {
                let prefix = (0x0a00_0000 | (i * 0x91) << 8, 24);
                values.insert(prefix, i % 3);
                builder.refresh(&values, prefix, |_| 9);
            }
            for prefix in values.keys().copied().collect::<Vec<_>>() {
                values.remove(&prefix);
                builder.refresh(&values, prefix, |_| 9);
            }
            let trie = builder.trie();
            let used = (trie.tiny.len(), trie.small.len(), trie.large.len());
            if round == 0 {
                after_first_round = used;
            }
            assert_eq!(used, after_first_round, "round {round}");
        }
    }

    #[test]
    fn nodes_are_parts_of_cache_lines() {
        assert_eq!(size_of::<super::super::Tiny>(), 32);
        assert_eq!(size_of::<super::super::Small>(), 64);
        const { assert!(large::ENTRIES <= large::UNIT) };
    }
}
