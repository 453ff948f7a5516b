//! What can go wrong on the way to a result. Every message names the thing, the value and the fix.

use std::io;
use std::path::PathBuf;

use crate::frame::FrameError;
use crate::traffic::TrafficError;

/// Why there is no result. The command line ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum PktgenError {
    /// A network namespace could not be entered.
    #[error("cannot enter network namespace {path}: {source} (see `ip netns`; it takes root)")]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface could not be looked up or set.
    #[error(transparent)]
    Interface(#[from] espalier_xsk::InterfaceError),
    /// The frame memory could not be made.
    #[error(transparent)]
    Umem(#[from] espalier_xsk::UmemError),
    /// A socket could not be opened.
    #[error(transparent)]
    Port(#[from] espalier_xsk::PortError),
    /// A program could not be loaded, attached or run.
    #[error(transparent)]
    Program(#[from] espalier_xsk::TrafficError),
    /// The description makes no traffic.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// A frame cannot be built.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frames do not fit the interface.
    #[error("frames of {length} bytes do not fit {interface}, whose MTU is {mtu}: use at most {most}")]
    Mtu {
        /// The longest frame.
        length: usize,
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The longest frame it takes, Ethernet header and one tag included.
        most: usize,
    },
    /// The kernel takes no more frames.
    #[error("{interface} has taken no frame for {seconds} s: is it up, and its peer too?")]
    Stalled {
        /// The interface.
        interface: String,
        /// How long.
        seconds: u64,
    },
    /// Live frames were handed to the interface and none left it.
    #[error(
        "none of {frames} live frames left {interface}: a veth delivers them only to a peer with NAPI; attach an XDP \
         program there (pktgen sink, --receive) or turn its GRO on (ethtool -K <peer> gro on)"
    )]
    NothingLeft {
        /// Frames handed over.
        frames: u64,
        /// The interface.
        interface: String,
    },
    /// A capture file could not be read.
    #[error("cannot replay {path}: {reason}")]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Options that do not go together, or lack another.
    #[error("{0}")]
    Usage(String),
    /// A core to run on is not there.
    #[error("cannot run on core {core}: {source} (see `nproc` and the cpuset of this process)")]
    Core {
        /// Its number.
        core: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else the system refused.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl PktgenError {
    /// For `map_err`: what was tried when the system refused.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }
}
