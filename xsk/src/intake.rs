//! The intake: an XDP program that hands every frame of one interface to the AF_XDP socket of the queue it came on.
//! For the load generator's sink and reflector, and for benches; the switch steers instead. Promises that nothing
//! stays behind: the attachment goes with the value, and with the process when that dies.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::{MapData, XskMap};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use crate::steering::{FLAG_GENERIC, FLAG_NATIVE, chain, explain_attach, link_create, link_detach};
use crate::{InterfaceRef, Port, XdpMode};

/// The object with the intake and the live-frame program.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.bpf.o"));

/// Why frames could not be taken in or sent as live frames.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The kernel refused the object file, a map or a program.
    #[error(
        "the kernel refused the traffic programs: {0}; they need Linux 5.18 and CAP_BPF with CAP_NET_ADMIN"
    )]
    Load(String),
    /// Another XDP program is attached to the interface.
    #[error(
        "another XDP program is attached to {interface}: remove it (ip link set dev {interface} xdp off)"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// The interface does not accept the program.
    #[error("cannot attach the intake to {interface} in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried last.
        mode: XdpMode,
        /// What the kernel said, and what it usually means.
        reason: String,
    },
    /// The socket could not be put into the map.
    #[error("cannot give queue {queue} of {interface} its socket: {reason}")]
    Socket {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        reason: String,
    },
    /// The templates are none, too many, too long or have their stamp outside.
    #[error("live frames: {0}")]
    Template(String),
    /// The kernel did not run the program.
    #[error("cannot send live frames out of {interface}: {reason}")]
    Run {
        /// The interface.
        interface: String,
        /// What the kernel said, and what it usually means.
        reason: String,
    },
}

/// The program on one interface. Dropping it takes the program off.
pub struct Intake {
    interface: String,
    mode: XdpMode,
    link: OwnedFd,
    _sockets: XskMap<MapData>,
    _ebpf: Ebpf,
}

impl Intake {
    /// Loads the program and attaches it to an interface of the calling thread's network namespace. Frames go to the
    /// port of their queue from the first one on; those of a queue without a port are dropped. `Auto` takes native
    /// mode where the driver has it.
    pub fn attach(interface: &InterfaceRef, wanted: XdpMode, ports: &[Port]) -> Result<Self, TrafficError> {
        let load = |error: &dyn std::error::Error| TrafficError::Load(chain(error));
        let missing = |what| TrafficError::Load(format!("the object has no {what}"));
        let mut loader = EbpfLoader::new();
        loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
        let mut ebpf = loader.load(OBJECT).map_err(|e| load(&e))?;
        let sockets = ebpf.take_map("sockets").and_then(|map| XskMap::try_from(map).ok());
        let mut sockets: XskMap<MapData> = sockets.ok_or_else(|| missing("map `sockets`"))?;
        for port in ports {
            sockets.set(port.queue(), port.as_raw_fd(), 0).map_err(|error| TrafficError::Socket {
                interface: interface.name.clone(),
                queue: port.queue(),
                reason: chain(&error),
            })?;
        }
        let program: Option<&mut Xdp> =
            ebpf.program_mut("intake").and_then(|program| program.try_into().ok());
        let program = program.ok_or_else(|| missing("program `intake`"))?;
        program.load().map_err(|e| load(&e))?;
        let (link, mode) = create(program.fd().map_err(|e| load(&e))?, interface, wanted)?;
        Ok(Self { interface: interface.name.clone(), mode, link, _sockets: sockets, _ebpf: ebpf })
    }

    /// `Native` or `Generic`.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Closing the descriptor detaches as well, some time later; an interface that is gone has nothing to detach.
        let _ = link_detach(&self.link);
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake")
            .field("interface", &self.interface)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

fn create(
    program: impl AsFd,
    interface: &InterfaceRef,
    wanted: XdpMode,
) -> Result<(OwnedFd, XdpMode), TrafficError> {
    if wanted != XdpMode::Generic {
        match link_create(program.as_fd(), interface.index, FLAG_NATIVE) {
            Ok(link) => return Ok((link, XdpMode::Native)),
            Err(error) if wanted == XdpMode::Auto && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => return Err(refused(interface, XdpMode::Native, &error)),
        }
    }
    link_create(program.as_fd(), interface.index, FLAG_GENERIC)
        .map(|link| (link, XdpMode::Generic))
        .map_err(|error| refused(interface, XdpMode::Generic, &error))
}

fn refused(interface: &InterfaceRef, mode: XdpMode, error: &std::io::Error) -> TrafficError {
    let interface = interface.name.clone();
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => TrafficError::Occupied { interface },
        _ => TrafficError::Attach { interface, mode, reason: explain_attach(error) },
    }
}
