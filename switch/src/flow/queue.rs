//! First-in first-out queues of entries, threaded through one array of links.
//!
//! The table keeps one queue for each pod and aging class. Pushing and unlinking are constant time; nothing is allocated
//! after `new`.

use espalier_xsk::prefetch;

use super::index::NONE;
use super::memory::filled;

/// Where an entry stands in the one queue it is in.
#[derive(Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    /// Tick at which it was queued.
    queued: u32,
}

/// The links of every entry.
pub(super) struct Links(Vec<Link>);

/// The ends of one queue.
#[derive(Clone, Copy)]
pub(super) struct Fifo {
    head: u32,
    tail: u32,
    len: u32,
}

impl Fifo {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };

    pub(super) fn head(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }
}

impl Links {
    pub(super) const BYTES_EACH: usize = size_of::<Link>();

    /// Links for `entries` entries, or nothing if the memory is refused.
    pub(super) fn new(entries: usize) -> Option<Self> {
        filled(entries, Link { next: NONE, previous: NONE, queued: 0 }).map(Self)
    }

    /// Has the link of `entry` on its way, if there is such an entry.
    pub(super) fn prefetch(&self, entry: u32) {
        if let Some(link) = self.0.get(entry as usize) {
            prefetch(link);
        }
    }

    /// Adds `entry`, which is in no queue, at the tail of `fifo`.
    pub(super) fn push(&mut self, fifo: &mut Fifo, entry: u32, tick: u32) {
        self.0[entry as usize] = Link { next: NONE, previous: fifo.tail, queued: tick };
        match fifo.tail {
            NONE => fifo.head = entry,
            tail => self.0[tail as usize].next = entry,
        }
        fifo.tail = entry;
        fifo.len += 1;
    }

    /// Takes `entry` out of `fifo`, in which it is.
    pub(super) fn unlink(&mut self, fifo: &mut Fifo, entry: u32) {
        let Link { next, previous, .. } = self.0[entry as usize];
        match previous {
            NONE => fifo.head = next,
            previous => self.0[previous as usize].next = next,
        }
        match next {
            NONE => fifo.tail = previous,
            next => self.0[next as usize].previous = previous,
        }
        fifo.len -= 1;
    }

    /// The entry behind `entry`.
    pub(super) fn next(&self, entry: u32) -> Option<u32> {
        let next = self.0[entry as usize].next;
        (next != NONE).then_some(next)
    }

    /// When `entry` was queued.
    pub(super) fn queued(&self, entry: u32) -> u32 {
        self.0[entry as usize].queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(links: &Links, fifo: &Fifo) -> Vec<u32> {
        std::iter::successors(fifo.head(), |entry| links.next(*entry)).collect()
    }

    #[test]
    fn entries_leave_from_anywhere_and_keep_their_order() {
        let mut links = Links::new(5).unwrap();
        let mut fifo = Fifo::EMPTY;
        for entry in 0..5 {
            links.push(&mut fifo, entry, entry * 10);
        }
        assert_eq!(order(&links, &fifo), [0, 1, 2, 3, 4]);
        assert_eq!(links.queued(3), 30);
        links.unlink(&mut fifo, 2);
        links.unlink(&mut fifo, 0);
        links.unlink(&mut fifo, 4);
        assert_eq!(order(&links, &fifo), [1, 3]);
        assert_eq!(fifo.len(), 2);
        links.push(&mut fifo, 0, 50);
        links.unlink(&mut fifo, 1);
        links.unlink(&mut fifo, 3);
        links.unlink(&mut fifo, 0);
        assert_eq!((fifo.head(), fifo.len()), (None, 0));
    }
}
