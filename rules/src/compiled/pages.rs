//! A vector in pages that versions share: a clone copies the page directory, a write copies one page if it is shared.
//!
//! The storage of every compiled table. Readers hold a clone and are never disturbed; the writer pays for what it
//! changes.

use std::sync::Arc;

/// A vector in pages of `N` elements, a power of two.
#[derive(Debug, Clone)]
pub(crate) struct Pages<T, const N: usize> {
    pages: Vec<Arc<Page<T, N>>>,
    len: usize,
}

/// Aligned to cache lines, so that elements whose size divides a line never straddle two.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Page<T, const N: usize>([T; N]);

impl<T, const N: usize> Default for Pages<T, N> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

impl<T: Copy, const N: usize> Pages<T, N> {
    /// `len` times `value`, all in one shared page until written to.
    pub(crate) fn filled(len: usize, value: T) -> Self {
        let page = Arc::new(Page([value; N]));
        Self { pages: vec![page; len.div_ceil(N)], len }
    }

    /// The element at `index`, which the writer has allocated.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> &T {
        &self.pages[index as usize / N].0[index as usize % N]
    }

    /// The elements from `index` to the end of its page.
    #[inline]
    pub(crate) fn rest_of_page(&self, index: u32) -> &[T] {
        &self.pages[index as usize / N].0[index as usize % N..]
    }

    /// Overwrites one element.
    pub(crate) fn set(&mut self, index: u32, value: T) {
        self.at_mut(index)[0] = value;
    }

    /// The elements from `index` to the end of its page, for writing.
    pub(crate) fn at_mut(&mut self, index: u32) -> &mut [T] {
        &mut Arc::make_mut(&mut self.pages[index as usize / N]).0[index as usize % N..]
    }

    /// Overwrites a run, page by page; a run of whole pages shares one.
    pub(crate) fn fill(&mut self, first: usize, last: usize, value: T) {
        let mut whole: Option<Arc<Page<T, N>>> = None;
        let mut at = first;
        while at <= last {
            let end = (at | (N - 1)).min(last);
            let page = &mut self.pages[at / N];
            if at.is_multiple_of(N) && end - at == N - 1 {
                *page = whole.get_or_insert_with(|| Arc::new(Page([value; N]))).clone();
            } else {
                Arc::make_mut(page).0[at % N..=end % N].fill(value);
            }
            at = end + 1;
        }
    }

    /// Makes room for `len` elements; new ones are `value`.
    pub(crate) fn grow(&mut self, len: usize, value: T) {
        if len > self.len {
            self.pages.resize_with(len.div_ceil(N), || Arc::new(Page([value; N])));
            self.len = len;
        }
    }

    /// Appends an element that never lies across pages with its neighbours.
    pub(crate) fn push(&mut self, value: T) -> u32 {
        let index = self.len;
        self.grow(index + 1, value);
        self.set(index as u32, value);
        index as u32
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the distinct pages and the directory.
    pub(crate) fn bytes(&self) -> usize {
        let mut seen: Vec<*const Page<T, N>> = self.pages.iter().map(Arc::as_ptr).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len() * size_of::<Page<T, N>>() + self.pages.len() * size_of::<Arc<Page<T, N>>>()
    }
}

/// Free places of a [`Pages`], kept by the writer.
#[derive(Debug, Default)]
pub(crate) struct FreeList(Vec<u32>);

impl FreeList {
    /// Stores `value` in a free place, or at the end.
    pub(crate) fn insert<T: Copy, const N: usize>(&mut self, pages: &mut Pages<T, N>, value: T) -> u32 {
        match self.0.pop() {
            Some(index) => {
                pages.set(index, value);
                index
            }
            None => pages.push(value),
        }
    }

    /// Gives a place back.
    pub(crate) fn release(&mut self, index: u32) {
        self.0.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_saw() {
        let mut pages: Pages<u32, 4> = Pages::filled(10, 7);
        assert_eq!(pages.bytes(), 64 + 3 * 8);
        let before = pages.clone();
        pages.set(5, 1);
        pages.fill(0, 3, 2);
        assert_eq!((0..10).map(|i| *pages.at(i)).collect::<Vec<_>>(), [2, 2, 2, 2, 7, 1, 7, 7, 7, 7]);
        assert!((0..10).all(|i| *before.at(i) == 7));
    }

    #[test]
    fn a_fill_ends_where_it_says() {
        for (first, last) in [(0, 0), (3, 4), (1, 9), (0, 11), (4, 7), (8, 11)] {
            let mut pages: Pages<u32, 4> = Pages::filled(12, 0);
            pages.fill(first, last, 1);
            let ones: Vec<usize> = (0..12).filter(|i| *pages.at(*i as u32) == 1).collect();
            assert_eq!(ones, (first..=last).collect::<Vec<_>>());
        }
    }

    #[test]
    fn released_places_are_used_again() {
        let (mut pages, mut free) = (Pages::<u32, 4>::default(), FreeList::default());
        let first = free.insert(&mut pages, 1);
        let second = free.insert(&mut pages, 2);
        free.release(first);
        assert_eq!(free.insert(&mut pages, 3), first);
        assert_eq!((*pages.at(first), *pages.at(second), pages.len()), (3, 2, 2));
    }
}
