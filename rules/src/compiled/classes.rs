//! Classes: addresses that the same rule targets hold, in the same order of specificity, are one class.
//!
//! A prefix's class is cumulative: its own targets, then those of every covering prefix, because the longest prefix
//! alone is not the union that EC2 asks for. Kept by the compiler; workers see only the numbers.

use std::sync::Arc;

use espalier_api::Family;
use rustc_hash::{FxHashMap, FxHashSet};

use super::interner::Interner;

/// Something rules or settings point at: a CIDR, a prefix list, a group.
pub(crate) type TargetId = u32;

/// `0.0.0.0/0`, which untracked flows depend on.
pub(crate) const WORLD_V4: TargetId = 0;
/// `::/0`.
pub(crate) const WORLD_V6: TargetId = 1;
/// Addresses of never-filtered services.
pub(crate) const SERVICE: TargetId = 2;
/// Addresses whose flows are always tracked.
pub(crate) const ALWAYS_TRACKED: TargetId = 3;
/// The first of the other targets.
pub(crate) const FIRST_TARGET: TargetId = 4;

/// Set on the first target of each rank, in a class's list.
const NEW_RANK: u32 = 1 << 31;

/// The targets that hold an address, most specific first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    pub(crate) family: Family,
    ranked: Box<[u32]>,
}

/// A class's number with what the packet path must know at once.
///
/// Zero is no class. Bit 31 stays clear in tries, which use it; bit 30: always tracked; bit 31 in host tables: service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClassRef(pub(crate) u32);

impl ClassRef {
    pub(crate) const NONE: Self = Self(0);
    const SERVICE: u32 = 1 << 31;
    const TRACKED: u32 = 1 << 30;

    /// The class's number; meaningless for [`ClassRef::NONE`].
    #[inline]
    pub(crate) fn number(self) -> u32 {
        (self.0 & !(Self::SERVICE | Self::TRACKED)).wrapping_sub(1)
    }

    /// Whether there is a class.
    #[inline]
    pub(crate) fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether the address belongs to a never-filtered service.
    #[inline]
    pub(crate) fn has_service(self) -> bool {
        self.0 & Self::SERVICE != 0
    }

    /// Whether flows with the address are always tracked.
    #[inline]
    pub(crate) fn is_tracked(self) -> bool {
        self.0 & Self::TRACKED != 0
    }
}

impl Class {
    /// The class of addresses that only `own` targets hold, all equally specific.
    fn new(family: Family, own: &[TargetId]) -> Self {
        let mut ranked: Box<[u32]> = own.into();
        if let Some(first) = ranked.first_mut() {
            *first |= NEW_RANK;
        }
        Self { family, ranked }
    }

    /// The class of a prefix with `own` targets inside a prefix of this class.
    fn within(&self, own: &[TargetId]) -> Self {
        let mut ranked = Self::new(self.family, own).ranked.into_vec();
        for rank in self.ranks() {
            let start = ranked.len();
            ranked.extend(rank.map(|(_, target)| target).filter(|target| !own.contains(target)));
            if let Some(first) = ranked.get_mut(start) {
                *first |= NEW_RANK;
            }
        }
        Self { family: self.family, ranked: ranked.into_boxed_slice() }
    }

    /// Its targets with their ranks, from zero, most specific first.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (usize, TargetId)> {
        let mut ranks = 0usize;
        self.ranked.iter().map(move |entry| {
            ranks += usize::from(entry & NEW_RANK != 0);
            (ranks - 1, entry & !NEW_RANK)
        })
    }

    fn ranks(&self) -> impl Iterator<Item = impl Iterator<Item = (usize, TargetId)>> {
        let count = self.targets().last().map_or(0, |(rank, _)| rank + 1);
        (0..count).map(|wanted| self.targets().filter(move |(rank, _)| *rank == wanted))
    }
}

/// What happened to the numbers, in order; whoever keeps something per class follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A number has a class now.
    Begun(u32),
    /// A number has none any more.
    Ended(u32),
}

/// All classes in use.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    interner: Interner<Class>,
    by_target: FxHashMap<TargetId, FxHashSet<u32>>,
    events: Vec<Event>,
    /// Classes already composed in this operation: parent's and own set's numbers to the result.
    memo: FxHashMap<(u32, u32), ClassRef>,
    sets: Interner<Vec<TargetId>>,
}

/// A set of targets that hold one prefix exactly.
pub(crate) type SetId = u32;

impl Classes {
    /// The set with `target` added or taken out; `None` is the empty set. Takes over the caller's use of `old`.
    pub(crate) fn edit_set(&mut self, old: Option<SetId>, target: TargetId, add: bool) -> Option<SetId> {
        let mut targets = old.and_then(|set| self.sets.get(set)).map(|set| set.to_vec()).unwrap_or_default();
        edit(&mut targets, target, add);
        let new = (!targets.is_empty()).then(|| self.sets.acquire(targets).0);
        if old.and_then(|old| self.sets.release(old)).is_some() {
            // The number may come back with another meaning.
            self.memo.clear();
        }
        new
    }

    /// The set of these sorted targets, with one more user.
    pub(crate) fn acquire_set(&mut self, targets: &[TargetId]) -> SetId {
        self.sets.acquire(targets.to_vec()).0
    }

    /// The class of a prefix with the targets of `own` inside a prefix of class `parent`, with one more user.
    pub(crate) fn within(&mut self, parent: ClassRef, own: SetId) -> ClassRef {
        let key = (parent.number(), own);
        if let Some(class) = self.memo.get(&key).copied() {
            self.interner.retain(class.number());
            return class;
        }
        let (Some(outer), Some(targets)) = (self.interner.get(parent.number()), self.sets.get(own)) else {
            return ClassRef::NONE;
        };
        let class = self.acquire(outer.within(&targets));
        self.memo.insert(key, class);
        class
    }

    /// The class of a prefix or host that nothing covers, with one more user.
    pub(crate) fn alone(&mut self, family: Family, targets: &[TargetId]) -> ClassRef {
        self.acquire(Class::new(family, targets))
    }

    /// [`alone`](Self::alone) for a set.
    pub(crate) fn alone_of_set(&mut self, family: Family, own: SetId) -> ClassRef {
        match self.sets.get(own) {
            Some(targets) => self.alone(family, &targets),
            None => ClassRef::NONE,
        }
    }

    /// The class of a host of class `old` with `target` added or taken out. Takes over the caller's use of `old`.
    pub(crate) fn edit_host(
        &mut self,
        family: Family,
        old: ClassRef,
        target: TargetId,
        add: bool,
    ) -> ClassRef {
        let mut targets: Vec<TargetId> = self
            .get(old)
            .map(|class| class.targets().map(|(_, target)| target).collect())
            .unwrap_or_default();
        edit(&mut targets, target, add);
        let new = if targets.is_empty() { ClassRef::NONE } else { self.alone(family, &targets) };
        self.release(old);
        new
    }

    /// One user less.
    pub(crate) fn release(&mut self, class: ClassRef) {
        if !class.is_some() {
            return;
        }
        let number = class.number();
        if let Some(ended) = self.interner.release(number) {
            for (_, target) in ended.targets() {
                if let Some(classes) = self.by_target.get_mut(&target) {
                    classes.remove(&number);
                }
            }
            self.events.push(Event::Ended(number));
            self.memo.clear();
        }
    }

    /// The class itself.
    pub(crate) fn get(&self, class: ClassRef) -> Option<Arc<Class>> {
        if class.is_some() { self.interner.get(class.number()) } else { None }
    }

    /// The class with this number.
    pub(crate) fn by_number(&self, number: u32) -> Option<Arc<Class>> {
        self.interner.get(number)
    }

    /// Numbers of the classes that `target` is part of.
    pub(crate) fn with_target(&self, target: TargetId) -> Vec<u32> {
        self.by_target.get(&target).map(|classes| classes.iter().copied().collect()).unwrap_or_default()
    }

    /// Numbers of all classes.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.interner.numbers().collect()
    }

    /// What happened since the last call. Also ends the life of what was remembered for one operation.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        self.memo.clear();
        std::mem::take(&mut self.events)
    }

    fn acquire(&mut self, class: Class) -> ClassRef {
        let mut flags = 0;
        for (_, target) in class.targets() {
            flags |= match target {
                SERVICE => ClassRef::SERVICE,
                ALWAYS_TRACKED => ClassRef::TRACKED,
                _ => 0,
            };
        }
        let (number, new) = self.interner.acquire(class);
        if new && let Some(class) = self.interner.get(number) {
            for (_, target) in class.targets() {
                self.by_target.entry(target).or_default().insert(number);
            }
            self.events.push(Event::Begun(number));
        }
        ClassRef((number + 1) | flags)
    }
}

/// Adds to or takes from a sorted list.
fn edit(targets: &mut Vec<TargetId>, target: TargetId, add: bool) {
    match (targets.binary_search(&target), add) {
        (Err(at), true) => targets.insert(at, target),
        (Ok(at), false) => drop(targets.remove(at)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_targets_come_first_and_hide_their_outer_selves() {
        let outer = Class::new(Family::V4, &[0, 5, 6]);
        let inner = outer.within(&[6, 7]).within(&[8]);
        assert_eq!(inner.targets().collect::<Vec<_>>(), [(0, 8), (1, 6), (1, 7), (2, 0), (2, 5)]);
        let hidden = Class::new(Family::V4, &[6]).within(&[6]);
        assert_eq!(hidden.targets().collect::<Vec<_>>(), [(0, 6)]);
    }

    #[test]
    fn a_class_ends_with_its_last_user() {
        let mut classes = Classes::default();
        let first = classes.alone(Family::V4, &[9]);
        let again = classes.edit_host(Family::V4, ClassRef::NONE, 9, true);
        assert_eq!(first, again);
        let both = classes.edit_host(Family::V4, again, SERVICE, true);
        assert!(both.has_service() && !first.has_service());
        classes.release(first);
        assert_eq!(classes.take_events(), [Event::Begun(0), Event::Begun(1), Event::Ended(0)]);
        assert_eq!(classes.with_target(9), [1]);
    }
}
