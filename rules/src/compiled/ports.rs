//! Port sets: selector (destination port, ICMP type and code, or protocol number) → verdict.
//!
//! A constant needs no memory, up to eight runs are one cache line, more are found through an index of the high byte.
//! [`paint`] makes the runs out of rules in their order of attribution.

use std::sync::Arc;

use super::interner::Interner;
use super::pages::Pages;
use crate::engine::{Decision, RuleRef};

/// Runs of a small set.
const SMALL: usize = 8;
/// Sets of a page: 4 KiB.
const SETS_PER_PAGE: usize = 64;

/// Deny, or allow by a rule: a 30-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Verdict(u32);

impl Verdict {
    pub(crate) const DENY: Self = Self(0);
    /// Rules that fit a verdict. The largest input that is accepted holds fewer.
    pub(crate) const RULES_MAX: usize = 1 << 28;

    pub(crate) fn allow(rule: u32, tracked: bool) -> Self {
        Self((rule + 1) << 1 | u32::from(tracked))
    }

    /// This verdict if it is an allow, else the other; without a branch.
    #[inline]
    pub(crate) fn or(self, other: Self) -> Self {
        let denied = u32::from(self.0 == 0).wrapping_neg();
        Self(self.0 | (other.0 & denied))
    }

    /// The decision; `always_tracked` overrides untracked.
    #[inline]
    pub(crate) fn decision(self, always_tracked: bool) -> Decision {
        let rule = RuleRef((self.0 >> 1).wrapping_sub(1));
        let tracked = always_tracked | (self.0 & 1 == 1);
        if self.0 == 0 { Decision::Deny } else { Decision::Allow { rule, tracked } }
    }
}

/// A port set: tag and constant or place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct PortsRef(u32);

impl PortsRef {
    const PLACE: u32 = (1 << 30) - 1;
    const IN_SMALL: u32 = 1 << 30;
    const IN_LARGE: u32 = 2 << 30;

    /// The set that gives one verdict for every selector.
    pub(crate) fn constant(verdict: Verdict) -> Self {
        Self(verdict.0)
    }

    /// Whether it takes memory.
    pub(crate) fn has_place(self) -> bool {
        self.0 & !Self::PLACE != 0
    }
}

/// One cache line: the runs' last selectors (unused ones repeat the highest) and verdicts.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Small {
    ends: [u16; SMALL],
    verdicts: [Verdict; SMALL],
}

/// Many runs.
#[derive(Debug)]
struct Large {
    /// For each high byte, the run that its first selector is in; one more for the end.
    index: [u16; 257],
    runs: Box<[(u16, Verdict)]>,
}

/// The port sets workers read. Place 0 always exists.
#[derive(Debug, Clone)]
pub(crate) struct PortSets {
    small: Pages<Small, SETS_PER_PAGE>,
    large: Vec<Option<Arc<Large>>>,
}

impl Default for PortSets {
    fn default() -> Self {
        let unused = Small { ends: [u16::MAX; SMALL], verdicts: [Verdict::DENY; SMALL] };
        Self { small: Pages::filled(1, unused), large: Vec::new() }
    }
}

impl PortSets {
    /// The verdict of a set for a selector. Constants and small sets take the same path, because which of them comes
    /// next cannot be predicted.
    #[inline]
    pub(crate) fn find(&self, set: PortsRef, selector: u16) -> Verdict {
        let place = set.0 & PortsRef::PLACE;
        if set.0 & PortsRef::IN_LARGE != 0 {
            return self.find_large(place, selector);
        }
        let is_small = (set.0 >> PortsRef::IN_SMALL.trailing_zeros()).wrapping_neg();
        let small = self.small.at(place & is_small);
        let before = small.ends.iter().map(|end| u16::from(*end < selector)).sum::<u16>();
        // The last end is the highest selector, so at most seven are before any.
        let found = small.verdicts[usize::from(before) & (SMALL - 1)];
        Verdict((found.0 & is_small) | (place & !is_small))
    }

    fn find_large(&self, place: u32, selector: u16) -> Verdict {
        let Some(Some(large)) = self.large.get(place as usize) else { return Verdict::DENY };
        let high = usize::from(selector >> 8);
        let (first, last) = (usize::from(large.index[high]), usize::from(large.index[high + 1]));
        let near = &large.runs[first..=last];
        near[near.partition_point(|(end, _)| *end < selector)].1
    }

    /// Bytes of the sets.
    pub(crate) fn bytes(&self) -> usize {
        let large = |set: &Arc<Large>| size_of::<Large>() + set.runs.len() * size_of::<(u16, Verdict)>();
        self.small.bytes() + self.large.iter().flatten().map(large).sum::<usize>()
    }
}

/// Keeps port sets once each, for the compiler.
#[derive(Debug, Default)]
pub(crate) struct PortSetWriter {
    small: Interner<Vec<(u16, Verdict)>>,
    large: Interner<Vec<(u16, Verdict)>>,
}

impl PortSetWriter {
    /// The set of these runs, with one more user. The last run ends at the highest selector.
    pub(crate) fn acquire(&mut self, sets: &mut Arc<PortSets>, runs: Vec<(u16, Verdict)>) -> PortsRef {
        match runs.len() {
            0 => PortsRef::constant(Verdict::DENY),
            1 => PortsRef::constant(runs[0].1),
            2..=SMALL => {
                let mut small = Small { ends: [u16::MAX; SMALL], verdicts: [Verdict::DENY; SMALL] };
                for (place, (end, verdict)) in runs.iter().enumerate() {
                    (small.ends[place], small.verdicts[place]) = (*end, *verdict);
                }
                let (place, new) = self.small.acquire(runs);
                if new {
                    let sets = Arc::make_mut(sets);
                    sets.small.grow(place as usize + 1, small);
                    sets.small.set(place, small);
                }
                PortsRef(place | PortsRef::IN_SMALL)
            }
            _ => {
                let large = Arc::new(Large { index: index(&runs), runs: runs.clone().into() });
                let (place, new) = self.large.acquire(runs);
                if new {
                    let sets = Arc::make_mut(sets);
                    sets.large.resize(sets.large.len().max(place as usize + 1), None);
                    sets.large[place as usize] = Some(large);
                }
                PortsRef(place | PortsRef::IN_LARGE)
            }
        }
    }

    /// One user less.
    pub(crate) fn release(&mut self, sets: &mut Arc<PortSets>, set: PortsRef) {
        let place = set.0 & PortsRef::PLACE;
        match set.0 & !PortsRef::PLACE {
            0 => {}
            PortsRef::IN_SMALL => drop(self.small.release(place)),
            _ => {
                if self.large.release(place).is_some() {
                    Arc::make_mut(sets).large[place as usize] = None;
                }
            }
        }
    }
}

fn index(runs: &[(u16, Verdict)]) -> [u16; 257] {
    let mut index = [0; 257];
    for (high, first) in index.iter_mut().enumerate() {
        let selector = (high << 8).min(usize::from(u16::MAX)) as u16;
        *first = runs.partition_point(|(end, _)| *end < selector) as u16;
    }
    index
}

/// A rule's selectors, first and last.
pub(crate) type Span = (u16, u16);

/// The runs of `rules`, which stand in order of attribution. A selector in one of `untracked` leaves the flow untracked.
pub(crate) fn paint(rules: &[(Span, u32)], untracked: &[Span]) -> Vec<(u16, Verdict)> {
    const ALL: Span = (0, u16::MAX);
    if let Some((ALL, rule)) = rules.first().copied()
        && untracked.iter().all(|span| *span == ALL)
    {
        return vec![(u16::MAX, Verdict::allow(rule, untracked.is_empty()))];
    }
    let spans = || rules.iter().map(|(span, _)| *span).chain(untracked.iter().copied());
    let mut starts: Vec<u16> =
        spans().flat_map(|(first, last)| [Some(first), last.checked_add(1)]).flatten().chain([0]).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut winners: Vec<Option<u32>> = vec![None; starts.len()];
    let mut loose = vec![false; starts.len()];
    let mut canvas = Canvas::new(&starts);
    for (span, rule) in rules {
        canvas.cover(*span, |at| winners[at] = Some(*rule));
    }
    let mut canvas = Canvas::new(&starts);
    for span in untracked {
        canvas.cover(*span, |at| loose[at] = true);
    }
    let mut runs: Vec<(u16, Verdict)> = Vec::new();
    for (at, winner) in winners.iter().enumerate() {
        let end = starts.get(at + 1).map_or(u16::MAX, |next| next - 1);
        let verdict = winner.map_or(Verdict::DENY, |rule| Verdict::allow(rule, !loose[at]));
        match runs.last_mut() {
            Some((last_end, last)) if *last == verdict => *last_end = end,
            _ => runs.push((end, verdict)),
        }
    }
    runs
}

/// Elementary spans, each coloured once: what was coloured is skipped from then on.
struct Canvas<'a> {
    starts: &'a [u16],
    next_free: Vec<usize>,
}

impl<'a> Canvas<'a> {
    fn new(starts: &'a [u16]) -> Self {
        Self { starts, next_free: (0..=starts.len()).collect() }
    }

    fn cover(&mut self, (first, last): Span, mut colour: impl FnMut(usize)) {
        let mut at = self.free_from(self.starts.partition_point(|start| *start < first));
        while at < self.starts.len() && self.starts[at] <= last {
            colour(at);
            self.next_free[at] = at + 1;
            at = self.free_from(at + 1);
        }
    }

    fn free_from(&mut self, at: usize) -> usize {
        let mut root = at;
        while self.next_free[root] != root {
            root = self.next_free[root];
        }
        let mut place = at;
        while self.next_free[place] != root && place != root {
            place = std::mem::replace(&mut self.next_free[place], root);
        }
        root
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = Span> {
        let edge = || {
            prop_oneof![
                Just(0u16),
                Just(u16::MAX),
                250u16..260,
                510u16..515,
                any::<u16>(),
                65530u16..=u16::MAX
            ]
        };
        (edge(), edge()).prop_map(|(a, b)| (a.min(b), a.max(b)))
    }

    fn wanted(rules: &[(Span, u32)], untracked: &[Span], selector: u16) -> Verdict {
        let holds = |(first, last): &Span| *first <= selector && selector <= *last;
        let rule = rules.iter().find(|(span, _)| holds(span));
        rule.map_or(Verdict::DENY, |(_, rule)| Verdict::allow(*rule, !untracked.iter().any(holds)))
    }

    proptest! {
        #[test]
        fn every_selector_finds_the_first_rule_that_holds_it(
            spans in prop::collection::vec(span(), 0..20),
            untracked in prop::collection::vec(span(), 0..4),
        ) {
            let rules: Vec<(Span, u32)> = spans.into_iter().zip(0..).collect();
            let runs = paint(&rules, &untracked);
            prop_assert_eq!(runs.last().unwrap().0, u16::MAX);
            let (mut writer, mut sets) = (PortSetWriter::default(), Arc::new(PortSets::default()));
            let set = writer.acquire(&mut sets, runs);
            let edges = rules.iter().map(|rule| rule.0).chain(untracked.iter().copied());
            let near = edges.flat_map(|(a, b)| [a.saturating_sub(1), a, b, b.saturating_add(1)]);
            for selector in near.chain([0, 255, 256, 65535]) {
                prop_assert_eq!(sets.find(set, selector), wanted(&rules, &untracked, selector), "{}", selector);
            }
        }
    }

    #[test]
    fn a_set_without_users_is_gone() {
        let (mut writer, mut sets) = (PortSetWriter::default(), Arc::new(PortSets::default()));
        let many: Vec<(Span, u32)> = (0..100).map(|i| ((i * 10, i * 10 + 1), u32::from(i))).collect();
        let set = writer.acquire(&mut sets, paint(&many, &[]));
        assert_eq!(writer.acquire(&mut sets, paint(&many, &[])), set);
        writer.release(&mut sets, set);
        assert_eq!(sets.find(set, 11), Verdict::allow(1, true));
        writer.release(&mut sets, set);
        assert_eq!(sets.find(set, 11), Verdict::DENY);
    }

    #[test]
    fn a_constant_takes_no_memory() {
        let (mut writer, mut sets) = (PortSetWriter::default(), Arc::new(PortSets::default()));
        let set = writer.acquire(&mut sets, paint(&[((0, 65535), 3), ((5, 9), 4)], &[(0, 65535)]));
        assert_eq!(sets.find(set, 7), Verdict::allow(3, false));
        assert_eq!(sets.small.len(), 1);
    }
}
