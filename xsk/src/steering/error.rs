//! What can go wrong with the steering. Every message names the thing and the way out.

use std::io;
use std::path::PathBuf;

use super::XdpMode;

/// Why the steering could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The directory for the pins could not be made, or no BPF file system could be mounted for it.
    #[error(
        "cannot prepare {path} for pinned BPF objects: {source}; it must lie on a bpffs (mount -t bpf bpf /sys/fs/bpf)"
    )]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process holds the pin directory.
    #[error("{path} is in use by another switch: stop it, or choose another pin directory")]
    PinDirectoryBusy {
        /// The directory.
        path: PathBuf,
    },
    /// A pin could not be opened, written, renamed or removed.
    #[error("cannot {action} the pin {path}: {source}")]
    Pin {
        /// What was tried: `open`, `write`, `rename`, `remove`.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the object file, a map or a program.
    #[error(
        "the kernel refused the steering program: {0}; it needs Linux 5.18 and CAP_BPF with CAP_NET_ADMIN"
    )]
    Load(String),
    /// A map of the object file is missing or not of the expected kind: the object and this crate disagree.
    #[error("the steering object has no usable {0:?}: rebuild it together with this binary")]
    Object(&'static str),
    /// A map could not be read or changed.
    #[error("cannot {action} in the steering map {map:?}: {message}")]
    Map {
        /// What was tried, with the key.
        action: String,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        message: String,
    },
    /// A VLAN outside 1..=4094.
    #[error("VLAN {0} cannot be a branch's: use 1 to 4094")]
    Vlan(u16),
    /// A slot at or over `SteeringConfig::max_pods`.
    #[error("slot {slot} is out of range: the steering was opened for {max_pods} pods (slots 0 to {last})", last = .max_pods.saturating_sub(1))]
    Slot {
        /// The slot.
        slot: u16,
        /// How many there are.
        max_pods: u32,
    },
    /// Another attached pod has this slot.
    #[error("slot {slot} belongs to the pod on interface index {holder}: detach that pod first")]
    SlotTaken {
        /// The slot.
        slot: u16,
        /// The interface index of the pod that has it.
        holder: u32,
    },
    /// The pin directory's settings do not fit.
    #[error("max_pods is {0}: use 1 to 65536")]
    MaxPods(u32),
    /// Another XDP program is attached to the interface.
    #[error(
        "another XDP program is attached to {interface}: remove it (ip link set dev {interface} xdp off, or unpin its link)"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// The interface does not accept the program in the mode asked for.
    #[error("cannot attach the steering program to {interface} in {mode} mode: {reason}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried last.
        mode: XdpMode,
        /// What the kernel said, and what it usually means.
        reason: String,
    },
    /// The pinned attachment has another mode than the one asked for.
    #[error(
        "{interface} is steered in {pinned} mode since an earlier run, but {wanted} mode is asked for: detach it first, or ask for auto"
    )]
    ModeConflict {
        /// The interface.
        interface: String,
        /// The mode of the pinned link.
        pinned: XdpMode,
        /// The mode of the configuration.
        wanted: XdpMode,
    },
    /// No such attachment.
    #[error("interface index {0} is not steered")]
    NotAttached(u32),
    /// A link could not be detached.
    #[error("cannot detach the steering program from interface index {interface}: {source}")]
    Detach {
        /// The interface index.
        interface: u32,
        /// What the kernel said.
        source: io::Error,
    },
}
