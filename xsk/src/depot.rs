//! The depot: free frames of one UMEM on their way from the pool of one worker to that of another.
//!
//! Frames move in magazines of a fixed size, so that pools touch what they share once in many frames. Called by
//! `pool` only; lock-free, and no allocation after it is made.

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;

/// Frames in a magazine.
pub(crate) const MAGAZINE: usize = 64;

/// A magazine, always full: chunk numbers.
pub(crate) type Magazine = ArrayVec<u32, MAGAZINE>;

/// Magazines nobody uses.
#[derive(Debug)]
pub(crate) struct Depot {
    magazines: ArrayQueue<Magazine>,
}

impl Depot {
    /// With room for all of a UMEM's frames.
    pub(crate) fn new(frames: usize) -> Self {
        Self { magazines: ArrayQueue::new((frames / MAGAZINE).max(1)) }
    }

    /// Frames in it.
    pub(crate) fn frames(&self) -> usize {
        self.magazines.len() * MAGAZINE
    }

    pub(crate) fn take(&self) -> Option<Magazine> {
        self.magazines.pop()
    }

    /// Takes a full magazine in. Only as many exist as there is room for.
    pub(crate) fn put(&self, magazine: Magazine) {
        let refused = self.magazines.push(magazine);
        debug_assert!(refused.is_ok(), "more magazines than the UMEM has frames for");
    }
}
