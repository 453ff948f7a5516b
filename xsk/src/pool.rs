//! Frame pools: free frames in a stack, the one used last on top (its bytes are still in the cache).
//!
//! A worker owns one and passes it to its ports. Pools are split off at start and absorbed at the end; nothing here
//! allocates after that, since every pool has room for all frames of the UMEM.

use crate::frame::{Frame, HEADROOM, Packet};
use crate::umem::{Owner, Umem};

/// Free frames of one UMEM. Dropping a pool loses its frames: absorb it into another.
#[must_use = "a dropped pool loses its frames: absorb it into another pool"]
#[derive(Debug)]
pub struct FramePool {
    umem: Umem,
    free: Vec<u32>,
}

impl FramePool {
    /// A fresh, empty frame; none when the pool is empty.
    pub fn alloc(&mut self) -> Option<Frame> {
        let index = self.pop(Owner::Worker)?;
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
        packet.into_frames().for_each(|frame| self.free(frame));
    }

    /// Number of frames in the pool.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Moves up to `count` frames into a new pool of the same UMEM.
    pub fn split_off(&mut self, count: usize) -> Self {
        let mut free = Vec::with_capacity(self.umem.chunks().len() as usize);
        let keep = self.free.len().saturating_sub(count);
        free.extend(self.free.drain(keep..));
        Self { umem: self.umem.clone(), free }
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
        Self { umem, free }
    }

    /// Takes a free chunk out for `owner`, its descriptor set to a fresh frame's.
    pub(crate) fn pop(&mut self, owner: Owner) -> Option<u32> {
        let index = self.free.pop()?;
        let chunks = self.umem.chunks();
        // SAFETY: a free chunk is held by its pool, and a home descriptor lies inside its chunk.
        unsafe { chunks.set_current(index, chunks.home(index)) };
        chunks.set_owner(index, owner);
        Some(index)
    }

    /// Takes back a chunk that its holder gives up: no token of it is left and the kernel does not have it.
    pub(crate) fn push(&mut self, index: u32) {
        self.umem.chunks().set_owner(index, Owner::Free);
        self.free.push(index);
    }
}
