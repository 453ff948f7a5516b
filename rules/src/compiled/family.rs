//! Everything of one address family: the prefixes with their targets, and the trie and host table made from them.
//!
//! Owned by the compiler. Adding a target to a prefix or taking it away changes the class of what that prefix holds,
//! and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use espalier_api::Family;

use super::address::Address;
use super::classes::{ClassRef, Classes, SetId, TargetId};
use super::hosts::Hosts;
use super::trie::Trie;
use super::trie::build::{Builder, Leaf, Values};

/// A prefix's own targets, and the class of its addresses.
#[derive(Debug, Clone, Copy)]
struct Held {
    own: SetId,
    class: ClassRef,
}

impl Leaf for Held {
    fn leaf(&self) -> u32 {
        self.class.0
    }
}

/// The tables of one family with the writer's notes.
#[derive(Debug)]
pub(crate) struct FamilyTable<A, const N: usize> {
    family: Family,
    values: Values<A, Held>,
    /// How many prefixes there are of each length: most lengths need not be tried.
    lengths: Vec<u32>,
    trie: Builder<A>,
    hosts: Arc<Hosts<A, N>>,
}

impl<A: Address, const N: usize> FamilyTable<A, N> {
    /// Compiles the table. `world` is the target of the prefix of length zero; `given` need not be sorted.
    pub(crate) fn new(
        family: Family,
        world: TargetId,
        mut given: Vec<(A, u8, TargetId)>,
        classes: &mut Classes,
    ) -> Self {
        given.push((A::default(), 0, world));
        given.sort_unstable();
        given.dedup();
        let host_count = given.chunk_by(same_prefix).filter(|chunk| chunk[0].1 == A::BITS).count();
        let mut hosts = Hosts::with_capacity(host_count);
        let mut lengths = vec![0; usize::from(A::BITS) + 1];
        let mut sorted = Vec::with_capacity(given.len());
        let mut around: Vec<(A, ClassRef)> = Vec::new();
        let mut targets = Vec::new();
        for chunk in given.chunk_by(same_prefix) {
            let (address, len, _) = chunk[0];
            targets.clear();
            targets.extend(chunk.iter().map(|(_, _, target)| *target));
            if len == A::BITS {
                hosts.set(address, classes.alone(family, &targets).0);
                continue;
            }
            around.retain(|(end, _)| *end >= address);
            let own = classes.acquire_set(&targets);
            let class = match around.last() {
                Some((_, parent)) => classes.within(*parent, own),
                None => classes.alone(family, &targets),
            };
            around.push((address.extended(len), class));
            lengths[usize::from(len)] += 1;
            sorted.push(((address, len), Held { own, class }));
        }
        let values = BTreeMap::from_iter(sorted);
        let trie = Builder::new(&values, ClassRef::NONE.0);
        Self { family, values, lengths, trie, hosts: Arc::new(hosts) }
    }

    /// The reader's trie.
    pub(crate) fn trie(&self) -> &Arc<Trie<A>> {
        self.trie.trie()
    }

    /// The reader's host table.
    pub(crate) fn hosts(&self) -> &Arc<Hosts<A, N>> {
        &self.hosts
    }

    /// Number of prefixes and hosts.
    pub(crate) fn len(&self) -> usize {
        self.values.len() + self.hosts.len()
    }

    /// Makes `target` hold a prefix, or not hold it any more. The world's own prefix must stay.
    pub(crate) fn edit(&mut self, address: A, len: u8, target: TargetId, add: bool, classes: &mut Classes) {
        if len == A::BITS {
            let old = ClassRef(self.hosts.get(address));
            let new = classes.edit_host(self.family, old, target, add);
            if new != old {
                Arc::make_mut(&mut self.hosts).set(address, new.0);
            }
            return;
        }
        let held = self.values.get(&(address, len)).copied();
        let old = held.map(|held| held.own);
        let new = classes.edit_set(old, target, add);
        if new == old {
            return;
        }
        match (new, held) {
            (Some(own), held) => {
                let class = held.map_or(ClassRef::NONE, |held| held.class);
                self.values.insert((address, len), Held { own, class });
                self.lengths[usize::from(len)] += u32::from(held.is_none());
            }
            (None, Some(held)) => {
                self.values.remove(&(address, len));
                self.lengths[usize::from(len)] -= 1;
                classes.release(held.class);
            }
            (None, None) => return,
        }
        self.reclass(address, len, classes);
        let (values, lengths) = (&self.values, &self.lengths);
        self.trie.refresh(values, (address, len), |below| above(values, lengths, address, below).0);
    }

    /// Gives every prefix inside this one (itself included) the class it has now.
    fn reclass(&mut self, address: A, len: u8, classes: &mut Classes) {
        let outer = if len == 0 { ClassRef::NONE } else { above(&self.values, &self.lengths, address, len) };
        let mut around = vec![(address.extended(len), outer)];
        for ((at, own_len), held) in self.values.range_mut((address, len)..=(address.extended(len), A::BITS))
        {
            while around.len() > 1 && around.last().is_some_and(|(end, _)| end < at) {
                around.pop();
            }
            let parent = around.last().map_or(ClassRef::NONE, |(_, class)| *class);
            let class = match parent.is_some() {
                true => classes.within(parent, held.own),
                false => classes.alone_of_set(self.family, held.own),
            };
            // The old one is let go after the new one is taken, so that an unchanged class never ends in between.
            classes.release(std::mem::replace(&mut held.class, class));
            around.push((at.extended(*own_len), class));
        }
    }
}

/// The class of the longest prefix shorter than `below` that holds `address`.
fn above<A: Address>(values: &Values<A, Held>, lengths: &[u32], address: A, below: u8) -> ClassRef {
    let present = (0..below).rev().filter(|len| lengths[usize::from(*len)] > 0);
    let mut held = present.filter_map(|len| values.get(&(address.truncated(len), len)));
    held.next().map_or(ClassRef::NONE, |held| held.class)
}

fn same_prefix<A: Address>(a: &(A, u8, TargetId), b: &(A, u8, TargetId)) -> bool {
    (a.0, a.1) == (b.0, b.1)
}
