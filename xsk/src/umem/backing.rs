//! The UMEM's memory and the donor socket that keeps it bound.
//!
//! libxdp gives the UMEM's own descriptor to the first socket, never closes it before the UMEM itself, and every
//! later bind refers to it (linux net/xdp/xsk.c: EBADF once it is unbound). A port in that place could not come and
//! go, so the first socket is a donor bound to a loopback, which outlives everything and never carries a packet.

use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::UnshareFlags;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use super::{UmemConfig, UmemError};
use crate::frame::CHUNK_SIZE;
use crate::port::os_error;

/// Bytes of a huge page on the machines we run on; `mmap` wants whole ones.
const HUGEPAGE: usize = 2 << 20;

/// The donor's rings carry nothing; the kernel wants them to exist.
const DONOR_RING: u32 = 8;

pub(super) struct Backing {
    pub(super) xsk: xsk_rs::Umem,
    pub(super) homes: Vec<FrameDesc>,
    pub(super) donor: Donor,
    pub(super) hugepages: bool,
    pub(super) scatter_gather: bool,
}

/// The donor's rings, which keep it open. Never read.
#[derive(Debug)]
pub(super) struct Donor {
    _tx: TxQueue,
    _rx: RxQueue,
    _fill_and_completion: Option<(FillQueue, CompQueue)>,
}

/// True if `frames` fill whole huge pages.
pub(super) fn fills_hugepages(frames: u32) -> bool {
    (frames as usize * CHUNK_SIZE).is_multiple_of(HUGEPAGE)
}

/// Maps the memory, registers it and binds the donor: to this namespace's loopback, or, if somebody else's AF_XDP
/// socket is there, to the loopback of a namespace made for it.
pub(super) fn create(config: &UmemConfig, hugepages: bool) -> Result<Backing, UmemError> {
    match build(config, hugepages) {
        Err(UmemError::Donor { source }) if source.raw_os_error() == Some(libc::EBUSY) => {
            create_apart(config, hugepages)
        }
        other => other,
    }
}

fn create_apart(config: &UmemConfig, hugepages: bool) -> Result<Backing, UmemError> {
    let config = config.clone();
    let thread = std::thread::Builder::new().name("umem-donor".into()).spawn(move || {
        // SAFETY: the flags hold no FILES, the one flag the function's contract is about.
        let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
        unshared.map_err(|errno| UmemError::LoopbackBusy { source: errno.into() })?;
        build(&config, hugepages)
    });
    let thread = thread.map_err(|source| UmemError::LoopbackBusy { source })?;
    match thread.join() {
        Ok(result) => result,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

fn build(config: &UmemConfig, hugepages: bool) -> Result<Backing, UmemError> {
    let (frames, settings) = settings(config)?;
    let (xsk, homes) = xsk_rs::Umem::new(settings, frames, hugepages).map_err(|error| UmemError::Memory {
        frames: config.frames,
        hugepages,
        source: os_error(&error),
    })?;
    let with_sg = BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG;
    let (donor, scatter_gather) = match bind_donor(&xsk, with_sg) {
        // Kernels before 6.6 do not know XDP_USE_SG.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let without_sg = BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP;
            (bind_donor(&xsk, without_sg).map_err(|source| UmemError::Donor { source })?, false)
        }
        other => (other.map_err(|source| UmemError::Donor { source })?, true),
    };
    Ok(Backing { xsk, homes, donor, hugepages, scatter_gather })
}

fn settings(config: &UmemConfig) -> Result<(NonZeroU32, xsk_rs::config::UmemConfig), UmemError> {
    let frames = NonZeroU32::new(config.frames).ok_or(UmemError::NoFrames)?;
    let ring =
        |name, size: u32| QueueSize::new(size).map_err(|_| UmemError::RingSize { ring: name, value: size });
    let size = FrameSize::new(CHUNK_SIZE as u32).expect("4096 is above the kernel's least chunk of 2048");
    let settings = xsk_rs::config::UmemConfig::builder()
        .frame_size(size)
        .frame_headroom(0)
        .fill_queue_size(ring("fill", config.fill_ring)?)
        .comp_queue_size(ring("completion", config.completion_ring)?)
        .build()
        .expect("4096-byte chunks have room for the kernel's 256 bytes of headroom");
    Ok((frames, settings))
}

fn bind_donor(xsk: &xsk_rs::Umem, flags: BindFlags) -> Result<Donor, std::io::Error> {
    let ring = QueueSize::new(DONOR_RING).expect("8 is a power of two");
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let loopback: Interface = "lo".parse().expect("the name holds no NUL byte");
    // SAFETY: program loading is inhibited, which is the only condition of `Socket::new`.
    let socket = unsafe { Socket::new(config, xsk, &loopback, 0) };
    let (tx, rx, fill_and_completion) = socket.map_err(|error| os_error(&error))?;
    // SAFETY: `tx` owns the socket and outlives this borrow of its descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(tx.fd().as_raw_fd()) };
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Donor { _tx: tx, _rx: rx, _fill_and_completion: fill_and_completion })
}
