//! The UMEM: one region of 4096-byte chunks shared by every socket of the process, in copy mode.
//!
//! Made once at start; a [`Umem`] is a cheap handle on it. It gives the bytes of a [`Frame`] to whoever holds the
//! token, and counts frames by owner. The region stays mapped while any handle, pool or port is alive.

mod backing;
mod chunks;

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
pub use chunks::FrameOwners;
pub(crate) use chunks::{ChunkTable, Owner, SocketId};

use crate::frame::{CHUNK_SIZE, Frame, HEADROOM, MAX_FRAME_LEN, MAX_SEGMENTS, Packet};
use crate::meta::SteerMeta;
use crate::pool::FramePool;
use crate::prefetch::prefetch_at;

/// Whether the UMEM is backed by huge pages (2 MiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hugepages {
    /// Where the machine has enough free ones and `frames` fills whole ones; normal pages otherwise.
    #[default]
    Auto,
    /// Required: an error without them.
    On,
    /// Never.
    Off,
}

/// The shape of the UMEM. Chunks are always 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UmemConfig {
    /// Number of chunks. Each socket costs the kernel about 120 bytes for each of them.
    pub frames: u32,
    /// Huge pages or not.
    pub hugepages: Hugepages,
    /// Entries of every port's fill ring, a power of two. One size for all: libxdp takes it from the UMEM.
    pub fill_ring: u32,
    /// Entries of every port's completion ring, a power of two.
    pub completion_ring: u32,
}

/// Why a UMEM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    /// The configuration asks for no frames.
    #[error("frames is 0: the UMEM needs at least one frame (16384 is a good start)")]
    NoFrames,
    /// A ring size the kernel refuses.
    #[error("{ring} ring of {value} entries: the size must be a power of two")]
    RingSize {
        /// Which ring.
        ring: &'static str,
        /// The size asked for.
        value: u32,
    },
    /// Huge pages are required but would be cut.
    #[error(
        "{frames} frames do not fill whole 2 MiB huge pages: use a multiple of 512, or set hugepages to auto"
    )]
    PartialHugepage {
        /// The number of frames asked for.
        frames: u32,
    },
    /// The memory could not be mapped or registered.
    #[error(
        "cannot make a UMEM of {frames} frames (huge pages: {hugepages}): {source}; check free memory, \
             vm.nr_hugepages and the memlock limit"
    )]
    Memory {
        /// The number of frames asked for.
        frames: u32,
        /// Whether huge pages were asked for.
        hugepages: bool,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The donor socket could not be bound to the loopback.
    #[error(
        "cannot bind the UMEM's first AF_XDP socket to lo: {source}; it needs CAP_NET_RAW and a kernel with \
             CONFIG_XDP_SOCKETS"
    )]
    Donor {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another AF_XDP socket is on the loopback and no namespace could be made.
    #[error(
        "another program has an AF_XDP socket on lo in this network namespace, and a namespace of our own \
             cannot be made: {source}; grant CAP_SYS_ADMIN or stop that program"
    )]
    LoopbackBusy {
        /// Why the namespace could not be made.
        source: io::Error,
    },
}

/// A handle on the UMEM; clones share it.
#[derive(Debug, Clone)]
pub struct Umem {
    shared: Arc<Shared>,
}

/// What all handles, pools and ports of one UMEM share. The donor goes before the memory it is bound with.
#[derive(Debug)]
struct Shared {
    _donor: Mutex<backing::Donor>,
    xsk: xsk_rs::Umem,
    chunks: ChunkTable,
    base: NonNull<u8>,
    tag: u32,
    fill_ring: u32,
    next_socket: AtomicU32,
    /// Interface index and queue of every open port.
    ports: Mutex<Vec<(u32, u32)>>,
    hugepages: bool,
    scatter_gather: bool,
}

// SAFETY: `base` is what stops the automatic impl. It is only read, it points into the region that `xsk` keeps
// mapped, and the bytes behind it are reached only by the holder of a chunk's token.
unsafe impl Send for Shared {}
// SAFETY: as above; every other field is Sync by itself.
unsafe impl Sync for Shared {}

static NEXT_TAG: AtomicU32 = AtomicU32::new(1);

impl Default for UmemConfig {
    fn default() -> Self {
        Self { frames: 16_384, hugepages: Hugepages::Auto, fill_ring: 4096, completion_ring: 4096 }
    }
}

impl Umem {
    /// Maps the memory, registers it with the kernel and gives out every frame in one pool.
    ///
    /// # Errors
    /// [`UmemError`], naming the setting to change.
    pub fn new(config: &UmemConfig) -> Result<(Self, FramePool), UmemError> {
        let whole = backing::fills_hugepages(config.frames);
        let made = match config.hugepages {
            Hugepages::On if !whole => return Err(UmemError::PartialHugepage { frames: config.frames }),
            Hugepages::On => backing::create(config, true)?,
            Hugepages::Auto if whole => match backing::create(config, true) {
                Err(UmemError::Memory { .. }) => backing::create(config, false)?,
                other => other?,
            },
            Hugepages::Auto | Hugepages::Off => backing::create(config, false)?,
        };
        let umem = Self { shared: Arc::new(Shared::new(made, config.fill_ring)) };
        let pool = FramePool::with_every_frame(umem.clone());
        Ok((umem, pool))
    }

    /// The data of this frame. Empty if the frame is of another UMEM.
    #[must_use]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        if !self.owns(frame) {
            return &[];
        }
        let start = self.data_start(frame);
        // SAFETY: the token says `len` bytes from `start` lie in one chunk of the mapped region, and borrowing the
        // only token of the chunk for 'a keeps every writer away, the kernel included.
        unsafe { std::slice::from_raw_parts(start, frame.len()) }
    }

    /// The data of this frame, to be changed in place. Empty if the frame is of another UMEM.
    #[must_use]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        if !self.owns(frame) {
            return &mut [];
        }
        let start = self.data_start(frame);
        // SAFETY: as in `bytes`; the exclusive borrow of the only token makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(start, frame.len()) }
    }

    /// Replaces the frame's contents, starting where a fresh frame starts. Returns false, with the frame as it was,
    /// if `data` is longer than [`MAX_FRAME_LEN`] or the frame is of another UMEM.
    #[must_use]
    pub fn write(&self, frame: &mut Frame, data: &[u8]) -> bool {
        if !self.set_len(frame, data.len()) {
            return false;
        }
        self.bytes_mut(frame).copy_from_slice(data);
        true
    }

    /// Makes the frame `len` bytes long, starting where a fresh frame starts; the bytes are whatever the chunk holds.
    /// Returns false, with the frame as it was, if that is more than [`MAX_FRAME_LEN`].
    #[must_use]
    pub fn set_len(&self, frame: &mut Frame, len: usize) -> bool {
        if len > MAX_FRAME_LEN || !self.owns(frame) {
            return false;
        }
        self.set_extent(frame, self.shared.chunks.home(frame.index()), len);
        true
    }

    /// Cuts the frame's data down to its first `len` bytes; longer values change nothing.
    pub fn truncate(&self, frame: &mut Frame, len: usize) {
        if len < frame.len() && self.owns(frame) {
            // SAFETY: the caller holds the frame's token.
            let desc = unsafe { self.shared.chunks.current(frame.index()) };
            self.set_extent(frame, desc, len);
        }
    }

    /// Adds a frame behind those of the packet.
    ///
    /// # Errors
    /// Gives the frame back when the packet already has [`MAX_SEGMENTS`], or when one of the two is of another UMEM.
    pub fn append(&self, packet: &mut Packet, frame: Frame) -> Result<(), Frame> {
        let full = packet.segment_count() == MAX_SEGMENTS;
        if full || !self.owns(packet.head()) || !self.owns(&frame) {
            return Err(frame);
        }
        if let Some(last) = self.chain(packet).last() {
            self.shared.chunks.set_next(last, frame.index());
        }
        packet.adopt(frame);
        Ok(())
    }

    /// The data of the packet's frames, in order. Nothing if the packet is of another UMEM.
    pub fn segments<'a>(&'a self, packet: &'a Packet) -> impl Iterator<Item = &'a [u8]> {
        self.chain(packet).map(|index| {
            // SAFETY: the borrowed packet stands for the chunk's token, so its holder is our caller.
            let desc = unsafe { self.shared.chunks.current(index) };
            // SAFETY: a chunk's descriptor lies inside the chunk, so the start stays inside the mapped region.
            let start = unsafe { self.shared.base.as_ptr().add(desc.addr()) };
            // SAFETY: so do its bytes, and borrowing the packet for 'a keeps every writer away.
            unsafe { std::slice::from_raw_parts(start, desc.lengths().data()) }
        })
    }

    /// What the steering program wrote before this frame. Meaningful for the head of a received packet only.
    #[must_use]
    pub fn steer_meta(&self, frame: &Frame) -> SteerMeta {
        if !self.owns(frame) || frame.offset() < SteerMeta::LEN {
            return SteerMeta::default();
        }
        // SAFETY: the data starts at least 4 bytes into the chunk, so the result stays inside it.
        let start = unsafe { self.data_start(frame).sub(SteerMeta::LEN) };
        // SAFETY: the 4 bytes lie in the chunk whose only token is borrowed, so nobody writes them meanwhile.
        let bytes = unsafe { start.cast::<[u8; SteerMeta::LEN]>().read_unaligned() };
        SteerMeta::from_bytes(bytes)
    }

    /// Has the frame's headers on their way to the caller's cache: the line that it begins in.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        prefetch_at(self.data_start(frame));
    }

    /// The same, and of what the steering program wrote before the frame. A received frame begins with a line, so that
    /// this lies in another.
    #[inline]
    pub fn prefetch_with_meta(&self, frame: &Frame) {
        prefetch_at(self.data_start(frame).wrapping_sub(SteerMeta::LEN));
        self.prefetch(frame);
    }

    /// The same of a frame that another thread handed over, and its entry in the chunk table, which that one wrote last.
    #[inline]
    pub fn prefetch_handed(&self, frame: &Frame) {
        self.prefetch_with_meta(frame);
        self.shared.chunks.prefetch(frame.index());
    }

    /// How many frames each kind of owner has right now. Each chunk is counted once, so the sum is always the
    /// total; the split is a consistent picture when the workers are quiet. Reads one word a chunk.
    #[must_use]
    pub fn owners(&self) -> FrameOwners {
        self.shared.chunks.count()
    }

    /// True if huge pages back the memory.
    #[must_use]
    pub fn hugepages(&self) -> bool {
        self.shared.hugepages
    }

    /// True if the kernel moves packets of several frames (XDP_USE_SG, since 6.6).
    #[must_use]
    pub fn scatter_gather(&self) -> bool {
        self.shared.scatter_gather
    }

    /// The longest packet that can be received and sent, Ethernet header included.
    #[must_use]
    pub fn max_packet_len(&self) -> usize {
        if self.shared.scatter_gather { MAX_FRAME_LEN * MAX_SEGMENTS } else { MAX_FRAME_LEN }
    }

    pub(crate) fn chunks(&self) -> &ChunkTable {
        &self.shared.chunks
    }

    /// The chunks of the packet's frames, in order; none if it is of another UMEM.
    #[inline]
    pub(crate) fn chain<'a>(&'a self, packet: &Packet) -> impl Iterator<Item = u32> + use<'a> {
        let count = if self.owns(packet.head()) { packet.segment_count() } else { 0 };
        self.shared.chunks.chain(packet.head().index(), count)
    }

    /// The same of a packet whose tokens end here: the caller gives the chunks their next owners.
    pub(crate) fn retire(&self, packet: Packet) -> ArrayVec<u32, MAX_SEGMENTS> {
        let chunks = self.chain(&packet).collect();
        packet.retire();
        chunks
    }

    pub(crate) fn xsk(&self) -> &xsk_rs::Umem {
        &self.shared.xsk
    }

    /// Entries of every port's fill ring.
    pub(crate) fn fill_ring(&self) -> u32 {
        self.shared.fill_ring
    }

    pub(crate) fn tag(&self) -> u32 {
        self.shared.tag
    }

    /// True if `frame` is a token of this UMEM; anything else is a mix-up of the caller's.
    pub(crate) fn owns(&self, frame: &Frame) -> bool {
        let owns = frame.umem_tag() == self.shared.tag;
        debug_assert!(owns, "frame of UMEM {} used with UMEM {}", frame.umem_tag(), self.shared.tag);
        owns
    }

    /// A number for a new socket, none after 2^29 of them.
    pub(crate) fn new_socket(&self) -> Option<SocketId> {
        let next = |number: u32| SocketId::new(number).map(|_| number + 1);
        let taken = self.shared.next_socket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.ok().and_then(SocketId::new)
    }

    /// The open ports: interface index and queue.
    pub(crate) fn ports(&self) -> MutexGuard<'_, Vec<(u32, u32)>> {
        self.shared.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_port(&self, interface: u32, queue: u32) -> bool {
        self.ports().contains(&(interface, queue))
    }

    fn data_start(&self, frame: &Frame) -> *mut u8 {
        let at = frame.index() as usize * CHUNK_SIZE + frame.offset();
        // SAFETY: tokens are made with an index below the chunk count and an offset inside the chunk, so the
        // result stays inside the mapped region.
        unsafe { self.shared.base.as_ptr().add(at) }
    }

    /// Records that the frame's data is the first `len` bytes from where `desc` starts. The caller has checked
    /// that they lie in the chunk.
    fn set_extent(&self, frame: &mut Frame, mut desc: xsk_rs::FrameDesc, len: usize) {
        // SAFETY: `desc` is of this UMEM, and the caller's exclusive borrow of the token keeps everybody else away.
        let mut data = unsafe { self.shared.xsk.data_mut(&mut desc) };
        data.cursor().set_pos(len);
        let offset = (desc.addr() % CHUNK_SIZE) as u16;
        // SAFETY: the caller holds the token, and `desc` stays inside the chunk.
        unsafe { self.shared.chunks.set_current(frame.index(), desc) };
        // SAFETY: the descriptor says the same, and `set_pos` stops at the chunk's end.
        unsafe { frame.set_extent(offset, desc.lengths().data() as u16) };
    }
}

impl Shared {
    fn new(made: backing::Backing, fill_ring: u32) -> Self {
        let first = made.homes.first().expect("backing::create refuses a UMEM without frames");
        // SAFETY: the descriptor is of this UMEM, and nobody else knows of the UMEM yet.
        let data = unsafe { made.xsk.data(first) };
        let address = data.contents().as_ptr().addr() - HEADROOM;
        // The region's pointer went to libxdp (foreign code) when it was registered: its provenance is exposed.
        let base = std::ptr::with_exposed_provenance_mut(address);
        Self {
            base: NonNull::new(base).expect("a mapping never starts at address 0"),
            _donor: Mutex::new(made.donor),
            xsk: made.xsk,
            chunks: ChunkTable::new(made.homes),
            tag: NEXT_TAG.fetch_add(1, Ordering::Relaxed),
            fill_ring,
            next_socket: AtomicU32::new(0),
            ports: Mutex::new(Vec::new()),
            hugepages: made.hugepages,
            scatter_gather: made.scatter_gather,
        }
    }
}
