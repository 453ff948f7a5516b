//! The chunk table: who owns each chunk and which descriptor stands for it.
//!
//! xsk-rs descriptors cannot be built from integers, so the table keeps one per chunk: its `home` (a fresh frame)
//! and its `current` (as last received, written or sent). Owners change hands only through the one who holds the
//! chunk; the table answers, exactly, how many chunks each kind of owner has. What changes of a chunk lies in a cache
//! line of its own, so that workers with neighbouring chunks do not disturb each other.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};

use xsk_rs::FrameDesc;

use crate::frame::CHUNK_SIZE;
use crate::prefetch::prefetch;

/// One bound socket for the life of the process; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketId(u32);

/// Who has a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// In a frame pool.
    Free,
    /// Given to the kernel to receive into: in the fill ring, the kernel's hands or the unread RX ring.
    Fill(SocketId),
    /// Taken off the RX ring by the port, not handed on yet (the rest of its packet is still to come).
    Rx(SocketId),
    /// A token is out with a worker.
    Worker,
    /// Given to the kernel to send: in the TX ring, in flight or in the unread completion ring.
    Tx(SocketId),
}

/// How many frames each kind of owner has. See [`crate::Umem::owners`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameOwners {
    /// In frame pools.
    pub free: usize,
    /// With the kernel to receive into, unread RX rings included.
    pub fill: usize,
    /// Held by ports: packets whose last segment has not arrived, frames on their way back to the fill ring.
    pub rx: usize,
    /// Out as tokens with workers.
    pub worker: usize,
    /// With the kernel to send, unread completion rings included.
    pub tx: usize,
    /// All frames of the UMEM.
    pub total: usize,
}

#[derive(Debug)]
pub(crate) struct ChunkTable {
    chunks: Box<[Chunk]>,
    homes: Box<[FrameDesc]>,
}

/// What changes of one chunk: written by its holder only.
#[derive(Debug)]
#[repr(align(64))]
struct Chunk {
    owner: AtomicU32,
    /// The next chunk of the packet that this one belongs to; means something while the packet says that there is one.
    next: AtomicU32,
    current: UnsafeCell<FrameDesc>,
}

// SAFETY: `current` is the only part without its own synchronisation. A cell is reached only through the unsafe
// functions below, whose contract is that the caller holds the chunk, which one thread does at a time and which
// moves between threads only with the token or the port that stands for it.
unsafe impl Sync for ChunkTable {}

impl SocketId {
    /// The largest number an owner word has room for.
    pub(crate) const MAX: u32 = u32::MAX >> Owner::KIND_BITS;

    pub(crate) fn new(number: u32) -> Option<Self> {
        (number <= Self::MAX).then_some(Self(number))
    }
}

impl Owner {
    const KIND_BITS: u32 = 3;
    const KIND_MASK: u32 = (1 << Self::KIND_BITS) - 1;
    const FREE: u32 = 0;
    const FILL: u32 = 1;
    const RX: u32 = 2;
    const WORKER: u32 = 3;
    const TX: u32 = 4;

    fn to_word(self) -> u32 {
        let with = |kind, SocketId(number)| kind | (number << Self::KIND_BITS);
        match self {
            Self::Free => Self::FREE,
            Self::Fill(socket) => with(Self::FILL, socket),
            Self::Rx(socket) => with(Self::RX, socket),
            Self::Worker => Self::WORKER,
            Self::Tx(socket) => with(Self::TX, socket),
        }
    }

    fn from_word(word: u32) -> Self {
        let socket = SocketId(word >> Self::KIND_BITS);
        match word & Self::KIND_MASK {
            Self::FILL => Self::Fill(socket),
            Self::RX => Self::Rx(socket),
            Self::WORKER => Self::Worker,
            Self::TX => Self::Tx(socket),
            _ => Self::Free,
        }
    }

    fn socket(self) -> Option<SocketId> {
        match self {
            Self::Fill(socket) | Self::Rx(socket) | Self::Tx(socket) => Some(socket),
            Self::Free | Self::Worker => None,
        }
    }
}

impl ChunkTable {
    /// Takes the descriptors of a new UMEM, in chunk order; every chunk is free.
    pub(crate) fn new(homes: Vec<FrameDesc>) -> Self {
        Self {
            chunks: homes
                .iter()
                .map(|home| Chunk {
                    owner: AtomicU32::new(Owner::Free.to_word()),
                    next: AtomicU32::new(0),
                    current: UnsafeCell::new(*home),
                })
                .collect(),
            homes: homes.into_boxed_slice(),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.chunks.len()).expect("UmemConfig::frames is a u32")
    }

    /// The chunk an address of the UMEM lies in, if it lies in the UMEM.
    pub(crate) fn index_of(&self, address: usize) -> Option<u32> {
        let index = address / CHUNK_SIZE;
        if index < self.chunks.len() { u32::try_from(index).ok() } else { None }
    }

    /// Has what changes of a chunk on its way to the caller's cache.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32) {
        prefetch(&self.chunks[index as usize]);
    }

    pub(crate) fn owner(&self, index: u32) -> Owner {
        Owner::from_word(self.chunks[index as usize].owner.load(Ordering::Relaxed))
    }

    /// Hands a chunk on. Only its present holder calls this, so a plain store is enough.
    pub(crate) fn set_owner(&self, index: u32, owner: Owner) {
        self.chunks[index as usize].owner.store(owner.to_word(), Ordering::Relaxed);
    }

    /// Hands a chunk on if `from` has it, and says whether it did.
    pub(crate) fn pass(&self, index: u32, from: Owner, to: Owner) -> bool {
        let held = self.owner(index) == from;
        if held {
            self.set_owner(index, to);
        }
        held
    }

    /// Chains two chunks of a packet. Only the packet's holder calls this, as with owners.
    pub(crate) fn set_next(&self, index: u32, next: u32) {
        self.chunks[index as usize].next.store(next, Ordering::Relaxed);
    }

    /// So many chunks of a packet, from its first. One that was given on is not looked at again.
    #[inline]
    pub(crate) fn chain(&self, head: u32, count: usize) -> impl Iterator<Item = u32> + '_ {
        let next = |index: &u32| Some(self.chunks[*index as usize].next.load(Ordering::Relaxed));
        std::iter::successors(Some(head), next).take(count)
    }

    /// Every chunk that `socket` has in any state.
    pub(crate) fn held_by(&self, socket: SocketId) -> impl Iterator<Item = u32> + '_ {
        (0..self.len()).filter(move |index| self.owner(*index).socket() == Some(socket))
    }

    pub(crate) fn home(&self, index: u32) -> FrameDesc {
        self.homes[index as usize]
    }

    /// The chunk's descriptor.
    ///
    /// # Safety
    /// The caller must hold the chunk: its token, or the port that owns it.
    pub(crate) unsafe fn current(&self, index: u32) -> FrameDesc {
        let cell = self.chunks[index as usize].current.get();
        // SAFETY: the pointer comes from a live cell, and the contract rules out a writer at the same time.
        unsafe { *cell }
    }

    /// Replaces the chunk's descriptor.
    ///
    /// # Safety
    /// As for [`ChunkTable::current`], and `desc` must describe bytes inside this chunk.
    pub(crate) unsafe fn set_current(&self, index: u32, desc: FrameDesc) {
        let cell = self.chunks[index as usize].current.get();
        // SAFETY: the pointer comes from a live cell, and the contract rules out any other access.
        unsafe { *cell = desc };
    }

    pub(crate) fn count(&self) -> FrameOwners {
        let mut owners = FrameOwners { total: self.chunks.len(), ..FrameOwners::default() };
        for index in 0..self.len() {
            match self.owner(index) {
                Owner::Free => owners.free += 1,
                Owner::Fill(_) => owners.fill += 1,
                Owner::Rx(_) => owners.rx += 1,
                Owner::Worker => owners.worker += 1,
                Owner::Tx(_) => owners.tx += 1,
            }
        }
        owners
    }
}

impl FrameOwners {
    /// The frames of all owners added up; equals `total` always, since each chunk has one owner word.
    #[must_use]
    pub fn sum(&self) -> usize {
        self.free + self.fill + self.rx + self.worker + self.tx
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_of_a_chunk_fills_a_cache_line() {
        assert_eq!((size_of::<Chunk>(), align_of::<Chunk>()), (64, 64));
    }
}
