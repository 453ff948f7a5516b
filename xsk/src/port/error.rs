//! Why a port could not be opened, and how xsk-rs errors become system errors.

use std::error::Error;
use std::io;
use std::time::Duration;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A ring size the kernel refuses.
    #[error("{ring} ring of {value} entries: the size must be a power of two")]
    RingSize {
        /// Which ring.
        ring: &'static str,
        /// The size asked for.
        value: u32,
    },
    /// The fill ring cannot hold what should be kept in it.
    #[error(
        "keep_filled is {keep_filled}, but the UMEM's fill rings have {fill_ring} entries: lower the one or \
             raise the other"
    )]
    KeepFilled {
        /// The target asked for.
        keep_filled: u32,
        /// The size of every fill ring of this UMEM.
        fill_ring: u32,
    },
    /// The interface is gone, or the name now belongs to another one.
    #[error("interface {name} (index {index}) is not in this network namespace any more: {found}")]
    InterfaceChanged {
        /// The interface's name.
        name: String,
        /// The index it had.
        index: u32,
        /// What the name stands for now.
        found: String,
    },
    /// Another socket holds the queue.
    #[error(
        "queue {queue} of {interface} is still held by another AF_XDP socket after {waited:?}: close that \
             socket, or find the program with `ss --xdp -p`"
    )]
    Busy {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// How long the port waited.
        waited: Duration,
    },
    /// This process already has a socket on the queue.
    #[error("queue {queue} of {interface} already has a port in this process: close it first")]
    InUse {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
    },
    /// The kernel refused to make or bind the socket.
    #[error(
        "cannot open an AF_XDP socket on queue {queue} of {interface}: {source}; it needs CAP_NET_RAW and a \
             queue below the interface's queue count"
    )]
    Bind {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket option was refused.
    #[error("cannot set {option} to {value} on the socket of {interface}: {source}")]
    Option {
        /// The interface's name.
        interface: String,
        /// The option's name.
        option: &'static str,
        /// The value asked for.
        value: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More sockets than one process can number.
    #[error("this process has opened 2^29 ports: restart it")]
    Exhausted,
}

/// The system error behind an xsk-rs error.
pub(crate) fn os_error(error: &(dyn Error + 'static)) -> io::Error {
    let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match system.and_then(io::Error::raw_os_error) {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(error.to_string()),
    }
}
