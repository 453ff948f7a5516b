//! Opening a port: checks, bind with a deadline, socket options.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use xsk_rs::config::{Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use super::{BATCH, Counts, Port, PortConfig, PortError, os_error};
use crate::interface::InterfaceRef;
use crate::umem::Umem;

/// What the kernel sends in one call unless told otherwise (linux net/xdp/xsk.c, TX_BATCH_SIZE).
const KERNEL_TX_BATCH: u32 = 32;

/// XDP_MAX_TX_SKB_BUDGET of linux include/uapi/linux/if_xdp.h, since 6.17; the libc crate has no name for it.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// The first wait for a busy queue; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

const PROBE_RING: u32 = 2;

/// A network namespace, by the inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Namespace {
    device: u64,
    inode: u64,
}

/// The entry of an open port in its UMEM's list.
#[derive(Debug)]
pub(super) struct Claim {
    umem: Umem,
    interface: u32,
    queue: u32,
}

pub(super) struct Rings {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

impl Namespace {
    /// The calling thread's.
    pub(super) fn current() -> rustix::io::Result<Self> {
        let file = rustix::fs::stat("/proc/thread-self/ns/net")?;
        Ok(Self { device: file.st_dev, inode: file.st_ino })
    }
}

impl Claim {
    fn new(umem: &Umem, interface: u32, queue: u32) -> Self {
        umem.ports().push((interface, queue));
        Self { umem: umem.clone(), interface, queue }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut ports = self.umem.ports();
        if let Some(at) = ports.iter().position(|port| *port == (self.interface, self.queue)) {
            ports.swap_remove(at);
        }
    }
}

impl Port {
    /// Opens a socket on `queue` of `interface`, in the calling thread's network namespace.
    ///
    /// The kernel releases a closed socket's queue some time after the close; a busy queue is tried again until
    /// [`PortConfig::bind_deadline`] has passed. The fill ring is empty: call [`Port::refill`].
    ///
    /// # Errors
    /// [`PortError`], naming the interface and the fix.
    pub fn open(
        umem: &Umem,
        interface: &InterfaceRef,
        queue: u32,
        config: &PortConfig,
    ) -> Result<Self, PortError> {
        check_target(umem, config)?;
        let settings = settings(config)?;
        check_interface(interface)?;
        let namespace = Namespace::current().map_err(|errno| PortError::Bind {
            interface: interface.name.clone(),
            queue,
            source: errno.into(),
        })?;
        let socket = umem.new_socket().ok_or(PortError::Exhausted)?;
        let rings = bind_until(umem, interface, queue, settings, config.bind_deadline)?;
        let claim = Claim::new(umem, interface.index, queue);
        let mut port = Self {
            umem: umem.clone(),
            socket,
            interface: interface.clone(),
            namespace,
            queue,
            rx: rings.rx,
            tx: rings.tx,
            fill: rings.fill,
            completion: rings.completion,
            rx_ring: config.rx_ring,
            tx_ring: config.tx_ring,
            tx_budget: KERNEL_TX_BATCH,
            keep_filled: config.keep_filled as usize,
            scratch: Box::new([FrameDesc::default(); BATCH]),
            partial: None,
            discarding: false,
            spare: Vec::with_capacity(BATCH),
            in_fill: 0,
            in_tx: 0,
            unsent: 0,
            counts: Counts::default(),
            claim,
            throttle: None,
        };
        port.set_options(config)?;
        Ok(port)
    }

    fn set_options(&mut self, config: &PortConfig) -> Result<(), PortError> {
        let failed = |option, value, source| PortError::Option {
            interface: self.interface.name.clone(),
            option,
            value,
            source,
        };
        let fd = self.as_fd();
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|errno| failed("FD_CLOEXEC", 1, errno.into()))?;
        // Without CAP_NET_ADMIN the kernel's own limit (net.core.wmem_max) holds.
        sockopt::set_socket_send_buffer_size_force(fd, config.send_buffer)
            .or_else(|_| sockopt::set_socket_send_buffer_size(fd, config.send_buffer))
            .map_err(|errno| failed("SO_SNDBUF", config.send_buffer, errno.into()))?;
        let budget = config.tx_ring.max(KERNEL_TX_BATCH);
        match set_tx_budget(fd, budget) {
            Ok(()) => self.tx_budget = budget,
            // Kernels before 6.17 do not know the option; a ring below the least budget is refused.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EACCES)) => {}
            Err(error) => return Err(failed("XDP_MAX_TX_SKB_BUDGET", budget as usize, error)),
        }
        Ok(())
    }
}

fn check_target(umem: &Umem, config: &PortConfig) -> Result<(), PortError> {
    if config.keep_filled > umem.fill_ring() {
        return Err(PortError::KeepFilled { keep_filled: config.keep_filled, fill_ring: umem.fill_ring() });
    }
    Ok(())
}

fn settings(config: &PortConfig) -> Result<SocketConfig, PortError> {
    let ring =
        |name, size: u32| QueueSize::new(size).map_err(|_| PortError::RingSize { ring: name, value: size });
    // No bind flags: the donor set them for every socket of the UMEM, and the kernel refuses them a second time.
    Ok(SocketConfig::builder()
        .rx_queue_size(ring("RX", config.rx_ring)?)
        .tx_queue_size(ring("TX", config.tx_ring)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .build())
}

/// The smallest socket there is, to see whether a queue is free.
pub(super) fn probe_settings() -> SocketConfig {
    let ring = QueueSize::new(PROBE_RING).expect("2 is a power of two");
    SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .build()
}

/// A socket to ask about interfaces of the calling thread's namespace.
pub(super) fn control_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

/// libxdp binds by name: make sure that the name still stands for the interface that is meant.
fn check_interface(interface: &InterfaceRef) -> Result<(), PortError> {
    let changed =
        |found| PortError::InterfaceChanged { name: interface.name.clone(), index: interface.index, found };
    let any = control_socket().map_err(|errno| changed(format!("cannot ask: {errno}")))?;
    match rustix::net::netdevice::name_to_index(&any, &interface.name) {
        Ok(index) if index == interface.index => Ok(()),
        Ok(index) => Err(changed(format!("the name has index {index} now"))),
        Err(errno) => Err(changed(errno.to_string())),
    }
}

fn bind_until(
    umem: &Umem,
    interface: &InterfaceRef,
    queue: u32,
    settings: SocketConfig,
    deadline: Duration,
) -> Result<Rings, PortError> {
    let start = Instant::now();
    let mut wait = FIRST_WAIT;
    loop {
        match bind(umem, interface, queue, settings) {
            Err(PortError::Bind { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
            other => return other,
        }
        let waited = start.elapsed();
        if waited >= deadline {
            return Err(PortError::Busy { interface: interface.name.clone(), queue, waited });
        }
        std::thread::sleep(wait.min(deadline - waited));
        wait = LONGEST_WAIT.min(wait * 2);
    }
}

pub(super) fn bind(
    umem: &Umem,
    interface: &InterfaceRef,
    queue: u32,
    settings: SocketConfig,
) -> Result<Rings, PortError> {
    let refused = |source| PortError::Bind { interface: interface.name.clone(), queue, source };
    let name: Interface = interface
        .name
        .parse()
        .map_err(|_| refused(io::Error::new(io::ErrorKind::InvalidInput, "the name holds a NUL byte")))?;
    // SAFETY: program loading is inhibited, which is the only condition of `Socket::new`.
    let socket = unsafe { Socket::new(settings, umem.xsk(), &name, queue) };
    let in_use = || PortError::InUse { interface: interface.name.clone(), queue };
    let (tx, rx, fill_and_completion) = socket.map_err(|error| match os_error(&error) {
        // libxdp makes no second pair of fill and completion rings, and the kernel wants one.
        error if error.raw_os_error() == Some(libc::EINVAL) && umem.has_port(interface.index, queue) => {
            in_use()
        }
        error => refused(error),
    })?;
    let (fill, completion) = fill_and_completion.ok_or_else(in_use)?;
    Ok(Rings { rx, tx, fill, completion })
}

fn set_tx_budget(fd: BorrowedFd<'_>, budget: u32) -> io::Result<()> {
    let raw: RawFd = fd.as_raw_fd();
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed, and the pointer and length describe a live u32.
    let result = unsafe {
        libc::setsockopt(raw, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, (&raw const budget).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
