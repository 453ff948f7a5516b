//! Which bytes of a fragmented packet have been seen.
//!
//! A small sorted list of separate ranges: fragments in order keep it at one, so a packet that needs more than the list
//! holds comes in no order a network makes.

use super::{FragmentDrop, Part};

/// Separate ranges at one time. A 64 kB packet in 1500-byte fragments has 45 in all.
const MOST: usize = 16;

/// The seen bytes of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    /// First byte and byte after the last, ascending, with gaps between.
    list: [(u32, u32); MOST],
    len: usize,
    /// Length of the whole payload, once the last fragment was seen.
    end: Option<u32>,
}

/// What adding a fragment found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// New bytes; there are more to come.
    More,
    /// New bytes, and now all of them.
    Complete,
}

impl Ranges {
    pub(super) const EMPTY: Self = Self { list: [(0, 0); MOST], len: 0, end: None };

    /// Adds a part whose own fields are sound. `Duplicate` adds nothing; after `Overlap` the packet is lost.
    pub(super) fn add(&mut self, part: &Part) -> Result<Added, FragmentDrop> {
        let (first, after) = (u32::from(part.offset), u32::from(part.offset) + part.len);
        let seen = &self.list[..self.len];
        if seen.iter().any(|range| range.0 <= first && after <= range.1) {
            return Err(FragmentDrop::Duplicate);
        }
        if seen.iter().any(|range| first < range.1 && range.0 < after) {
            return Err(FragmentDrop::Overlap);
        }
        let furthest = seen.last().map_or(0, |range| range.1);
        let contradicts = match (self.end, part.more) {
            (Some(end), true) => after > end,
            (Some(_), false) => true,
            (None, false) => furthest > after,
            (None, true) => false,
        };
        if contradicts {
            return Err(FragmentDrop::Overlap);
        }
        self.insert(first, after)?;
        if !part.more {
            self.end = Some(after);
        }
        Ok(if self.is_complete() { Added::Complete } else { Added::More })
    }

    /// Whether every byte was seen.
    pub(super) fn is_complete(&self) -> bool {
        self.len == 1 && self.list[0].0 == 0 && Some(self.list[0].1) == self.end
    }

    /// Puts in a range that touches no byte of another, and joins it to its neighbours.
    fn insert(&mut self, first: u32, after: u32) -> Result<(), FragmentDrop> {
        let at = self.list[..self.len].partition_point(|range| range.0 < first);
        let joins_before = at > 0 && self.list[at - 1].1 == first;
        let joins_behind = at < self.len && self.list[at].0 == after;
        match (joins_before, joins_behind) {
            (true, true) => {
                self.list[at - 1].1 = self.list[at].1;
                self.list.copy_within(at + 1..self.len, at);
                self.len -= 1;
            }
            (true, false) => self.list[at - 1].1 = after,
            (false, true) => self.list[at].0 = first,
            (false, false) if self.len == MOST => return Err(FragmentDrop::Scattered),
            (false, false) => {
                self.list.copy_within(at..self.len, at + 1);
                self.list[at] = (first, after);
                self.len += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(offset: u16, len: u32, more: bool) -> Part {
        Part { offset, len, more }
    }

    #[test]
    fn parts_in_any_order_complete_the_packet_once() {
        let mut ranges = Ranges::EMPTY;
        assert_eq!(ranges.add(&part(16, 4, false)), Ok(Added::More));
        assert_eq!(ranges.add(&part(0, 8, true)), Ok(Added::More));
        assert_eq!(ranges.add(&part(0, 8, true)), Err(FragmentDrop::Duplicate));
        assert_eq!(ranges.add(&part(8, 8, true)), Ok(Added::Complete));
    }

    #[test]
    fn parts_that_contradict_each_other_are_overlaps() {
        let mut ranges = Ranges::EMPTY;
        assert_eq!(ranges.add(&part(8, 16, true)), Ok(Added::More));
        assert_eq!(ranges.add(&part(0, 16, true)), Err(FragmentDrop::Overlap));
        assert_eq!(ranges.add(&part(16, 16, true)), Err(FragmentDrop::Overlap));
        assert_eq!(
            ranges.add(&part(0, 8, false)),
            Err(FragmentDrop::Overlap),
            "the end lies before a seen byte"
        );
        assert_eq!(ranges.add(&part(32, 8, false)), Ok(Added::More));
        assert_eq!(ranges.add(&part(40, 8, true)), Err(FragmentDrop::Overlap), "beyond the end");
        assert_eq!(ranges.add(&part(48, 8, false)), Err(FragmentDrop::Overlap), "a second end");
    }

    #[test]
    fn too_many_gaps_are_refused() {
        let mut ranges = Ranges::EMPTY;
        for gap in 0..MOST as u16 {
            assert_eq!(ranges.add(&part(gap * 16, 8, true)), Ok(Added::More));
        }
        assert_eq!(ranges.add(&part(MOST as u16 * 16, 8, true)), Err(FragmentDrop::Scattered));
        assert_eq!(ranges.add(&part(8, 8, true)), Ok(Added::More), "filling a gap is possible");
    }

    proptest! {
        /// Against a map of single 8-byte units.
        #[test]
        fn the_list_is_as_good_as_a_map(parts in prop::collection::vec((0_u16..24, 1_u32..4, any::<bool>()), 1..40)) {
            let mut ranges = Ranges::EMPTY;
            let mut units = [false; 32];
            let mut end = None;
            for (offset, len, more) in parts {
                let span = offset as usize..offset as usize + len as usize;
                let (seen, all) = (units[span.clone()].iter().filter(|unit| **unit).count(), span.len());
                let beyond = units[span.end..].contains(&true);
                let contradicts = if more { end.is_some_and(|end| span.end > end) } else { end.is_some() || beyond };
                let expected = if seen == all {
                    Err(FragmentDrop::Duplicate)
                } else if seen > 0 || contradicts {
                    Err(FragmentDrop::Overlap)
                } else {
                    units[span.clone()].fill(true);
                    end = if more { end } else { Some(span.end) };
                    let complete = end.is_some_and(|end| units[..end].iter().all(|unit| *unit));
                    Ok(if complete { Added::Complete } else { Added::More })
                };
                prop_assert_eq!(ranges.add(&part(offset * 8, len * 8, more)), expected);
            }
        }
    }
}
