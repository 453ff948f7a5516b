//! Ports: one AF_XDP socket on one queue of one interface, with its own four rings.
//!
//! Opened and closed on the management thread, run by the one worker that owns it. Frames come and go as tokens;
//! whatever the kernel holds for the port is accounted to it, and [`Port::close`] gives every one of them back.

mod close;
mod error;
mod open;
mod receive;
mod send;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

pub use error::PortError;
pub(crate) use error::os_error;
use open::Namespace;

use crate::frame::Packet;
use crate::interface::InterfaceRef;
use crate::steering::Throttle;
use crate::umem::{Owner, SocketId, Umem};

/// Descriptors moved between a ring and the port at a time.
const BATCH: usize = 64;

/// Ring sizes and targets of one port. Fill and completion ring sizes are the UMEM's
/// ([`crate::UmemConfig::fill_ring`]), one for all ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Entries of the RX ring, a power of two.
    pub rx_ring: u32,
    /// Entries of the TX ring, a power of two.
    pub tx_ring: u32,
    /// Frames to keep with the kernel for receiving; at most the fill ring's size.
    pub keep_filled: u32,
    /// Bytes of socket send buffer: in copy mode, the most that may be in flight.
    pub send_buffer: usize,
    /// How long [`Port::open`] waits for a closed socket to let go of the queue (EBUSY).
    pub bind_deadline: Duration,
}

/// What the kernel and the port counted since the port was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStatistics {
    /// Packets the kernel dropped for want of room or because they were too long for this socket.
    pub rx_dropped: u64,
    /// Fill ring entries the kernel found invalid.
    pub rx_invalid_descs: u64,
    /// TX ring entries the kernel found invalid.
    pub tx_invalid_descs: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub rx_fill_ring_empty: u64,
    /// Times the kernel found the TX ring empty.
    pub tx_ring_empty: u64,
    /// RX and completion entries that named no chunk this port had given to the kernel, or bytes outside it.
    pub bad_descriptors: u64,
    /// Received packets of more than [`crate::MAX_SEGMENTS`] frames, dropped.
    pub rx_oversized: u64,
    /// Packets given to [`Port::send`] that cannot be sent: an empty frame, or several frames without
    /// scatter-gather. Their frames came back with the completions.
    pub tx_refused: u64,
}

/// One AF_XDP socket and its rings. Close it with [`Port::close`]: dropping it loses the frames it holds.
#[must_use = "a dropped port loses the frames it holds: close it"]
#[derive(Debug)]
pub struct Port {
    umem: Umem,
    socket: SocketId,
    interface: InterfaceRef,
    namespace: Namespace,
    queue: u32,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    rx_ring: u32,
    tx_ring: u32,
    tx_budget: u32,
    keep_filled: usize,
    scratch: Box<[FrameDesc; BATCH]>,
    /// The packet whose last segment has not arrived.
    partial: Option<Packet>,
    /// Segments are thrown away up to the end of the packet.
    discarding: bool,
    /// Chunks the port holds with no token: on their way to the fill ring or a pool.
    spare: Vec<u32>,
    in_fill: usize,
    in_tx: usize,
    unsent: usize,
    counts: Counts,
    claim: open::Claim,
    throttle: Option<Throttle>,
}

/// What only the port itself can count.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    bad_descriptors: u64,
    rx_oversized: u64,
    tx_refused: u64,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_ring: 2048,
            tx_ring: 2048,
            keep_filled: 1024,
            send_buffer: 8 << 20,
            bind_deadline: Duration::from_secs(5),
        }
    }
}

impl Port {
    /// The interface this port was opened on.
    #[must_use]
    pub fn interface(&self) -> &InterfaceRef {
        &self.interface
    }

    /// The interface's queue.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Descriptors the kernel sends in one system call: 32, or the TX ring's size since 6.17.
    #[must_use]
    pub fn tx_budget(&self) -> u32 {
        self.tx_budget
    }

    /// TX ring entries the kernel had not taken at the last [`Port::send`] or [`Port::flush`].
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Entries of the TX ring.
    #[must_use]
    pub fn tx_ring(&self) -> usize {
        self.tx_ring as usize
    }

    /// Descriptors the TX ring has room for now.
    pub fn tx_room(&mut self) -> usize {
        self.tx.nb_free_exact() as usize
    }

    /// Frames with the kernel for receiving, those in the unread RX ring included.
    #[must_use]
    pub fn in_fill(&self) -> usize {
        self.in_fill
    }

    /// Changes [`PortConfig::keep_filled`], to the fill ring's size at most. Frames beyond it go back as packets come.
    pub fn set_keep_filled(&mut self, frames: u32) {
        self.keep_filled = frames.min(self.umem.fill_ring()) as usize;
    }

    /// Has the steering hold the branches to their shares while this port, a queue of the trunk, is behind.
    pub fn set_throttle(&mut self, throttle: Throttle) {
        self.throttle = Some(throttle);
    }

    /// Frames with the kernel for sending, those in the unread completion ring included.
    #[must_use]
    pub fn in_tx(&self) -> usize {
        self.in_tx
    }

    /// The kernel's counters (XDP_STATISTICS; zero if it does not answer) and the port's own.
    #[must_use]
    pub fn statistics(&self) -> PortStatistics {
        let kernel = self.tx.fd().xdp_statistics().unwrap_or_default();
        PortStatistics {
            rx_dropped: kernel.rx_dropped(),
            rx_invalid_descs: kernel.rx_invalid_descs(),
            tx_invalid_descs: kernel.tx_invalid_descs(),
            rx_ring_full: kernel.rx_ring_full(),
            rx_fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
            tx_ring_empty: kernel.tx_ring_empty_descs(),
            bad_descriptors: self.counts.bad_descriptors,
            rx_oversized: self.counts.rx_oversized,
            tx_refused: self.counts.tx_refused,
        }
    }

    /// Holds a chunk without a token until it goes back to the fill ring or a pool.
    fn keep_spare(&mut self, index: u32) {
        self.umem.chunks().set_owner(index, Owner::Rx(self.socket));
        self.spare.push(index);
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the port's rings keep the socket open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) }
    }
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.tx.fd().as_raw_fd()
    }
}
