//! Frame pools: free frames in a stack, the one used last on top (its bytes are still in the cache).
//!
//! A worker owns one and passes it to its ports. Pools are split off at start and absorbed at the end, or made to share
//! a depot ([`FramePool::share`]); nothing here allocates after that, since every pool has room for all frames.

use std::sync::Arc;

use crate::depot::{Depot, MAGAZINE};
use crate::frame::{Frame, HEADROOM, Packet};
use crate::umem::{Owner, Umem};

/// Free frames beyond which a pool that shares a depot gives a magazine away, at most.
const KEPT: usize = 4 * MAGAZINE;
/// All pools of a depot together keep at most this part of all frames from one another.
const KEPT_PART: usize = 8;

/// Free frames of one UMEM. Dropping a pool loses its frames: absorb it into another.
#[must_use = "a dropped pool loses its frames: absorb it into another pool"]
#[derive(Debug)]
pub struct FramePool {
    umem: Umem,
    free: Vec<u32>,
    depot: Option<Arc<Depot>>,
    /// Frames beyond which it gives a magazine to the depot.
    most: usize,
}

impl FramePool {
    /// A fresh, empty frame; none when the pool is empty.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let index = self.pop(Owner::Worker)?;
        let chunks = self.umem.chunks();
        // SAFETY: the chunk was free and is now this caller's, and a home descriptor lies inside its chunk.
        unsafe { chunks.set_current(index, chunks.home(index)) };
        // SAFETY: the chunk was free, so no token of it exists and the kernel does not have it; an empty frame at
        // the headroom lies inside the chunk.
        Some(unsafe { Frame::new(index, self.umem.tag(), HEADROOM as u16, 0) })
    }

    /// Takes a frame back. A frame of another UMEM is not taken: it is lost to its own.
    pub fn free(&mut self, frame: Frame) {
        let ours = self.umem.owns(&frame);
        let index = frame.retire();
        if ours {
            self.push(index);
        }
    }

    /// Takes every frame of a packet back.
    pub fn free_packet(&mut self, packet: Packet) {
        self.umem.retire(packet).into_iter().for_each(|index| self.push(index));
    }

    /// Number of frames to be had: those in the pool, and those in the depot it shares.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len() + self.depot.as_ref().map_or(0, |depot| depot.frames())
    }

    /// Makes `count` pools, at least one, that get frames from one another: a pool that runs out takes a magazine from
    /// a depot, one with more than it needs puts one there. So a worker that only sends feeds one that only receives.
    pub fn share(mut self, count: usize) -> Vec<Self> {
        let chunks = self.umem.chunks().len() as usize;
        let depot = Arc::new(Depot::new(chunks));
        let most = (chunks / (KEPT_PART * count.max(1))).clamp(MAGAZINE, KEPT);
        let mut pools = Vec::with_capacity(count.max(1));
        for _ in 1..count {
            let mut pool = self.split_off(most);
            pool.depot = Some(Arc::clone(&depot));
            pool.most = most;
            pools.push(pool);
        }
        self.depot = Some(depot);
        self.most = most;
        while self.free.len() > most {
            self.give_magazine();
        }
        pools.insert(0, self);
        pools
    }

    /// Moves up to `count` frames into a new pool of the same UMEM.
    pub fn split_off(&mut self, count: usize) -> Self {
        let mut free = Vec::with_capacity(self.umem.chunks().len() as usize);
        let keep = self.free.len().saturating_sub(count);
        free.extend(self.free.drain(keep..));
        Self { umem: self.umem.clone(), free, depot: None, most: usize::MAX }
    }

    /// Takes all frames of another pool. A pool of another UMEM is not taken: its frames are lost to their own.
    pub fn absorb(&mut self, mut other: Self) {
        let ours = other.umem.tag() == self.umem.tag();
        debug_assert!(ours, "a frame pool was given the pool of another UMEM");
        if ours {
            self.free.append(&mut other.free);
        }
    }

    /// The UMEM this pool is of.
    #[must_use]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    pub(crate) fn with_every_frame(umem: Umem) -> Self {
        // Reversed, so that frames are handed out from the region's start.
        let free = (0..umem.chunks().len()).rev().collect();
        Self { umem, free, depot: None, most: usize::MAX }
    }

    /// Takes a free chunk out for `owner`. Its descriptor is the one that it was given back with.
    #[inline]
    pub(crate) fn pop(&mut self, owner: Owner) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.take_magazine()?,
        };
        self.umem.chunks().set_owner(index, owner);
        Some(index)
    }

    /// Takes back a chunk that its holder gives up: no token of it is left and the kernel does not have it.
    pub(crate) fn push(&mut self, index: u32) {
        self.umem.chunks().set_owner(index, Owner::Free);
        if self.free.len() >= self.most {
            self.give_magazine();
        }
        self.free.push(index);
    }

    /// Refills the empty pool from the depot; the first of the frames.
    #[cold]
    fn take_magazine(&mut self) -> Option<u32> {
        self.free.extend(self.depot.as_ref()?.take()?);
        self.free.pop()
    }

    /// Gives away the frames that have rested longest, if there is a depot.
    #[cold]
    fn give_magazine(&mut self) {
        if let Some(depot) = &self.depot {
            depot.put(self.free.drain(..MAGAZINE).collect());
        }
    }
}
