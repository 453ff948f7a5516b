//! Attaching, adopting and detaching: the pinned XDP links of the trunk and of the pods.
//! Used by `steering.rs`. Promises that an interface that is steered stays steered: programs are replaced inside
//! the link, a link is given up only by a detach or when its interface is gone, and every link is pinned.

use std::io;
use std::os::fd::OwnedFd;

use super::object::Object;
use super::pins::{LinkName, PinDirectory, Program};
use super::{Attachment, SteeringError, XdpMode, kernel};
use crate::InterfaceRef;

/// Puts the programs of `object` into every pinned link. Links whose interface is gone are given up; returns the rest.
pub(super) fn adopt(pins: &PinDirectory, object: &Object) -> Result<Vec<LinkName>, SteeringError> {
    let mut kept = Vec::new();
    for name in pins.links()? {
        let path = pins.link(&name);
        let link = open(pins, &name)?;
        let alive = kernel::link_info(&link).is_ok_and(|info| info.interface == name.interface);
        let updated = match alive {
            true => kernel::link_update(&link, object.program_fd(name.program)?),
            false => Err(io::Error::from_raw_os_error(libc::ENOLINK)),
        };
        match updated {
            Ok(()) => kept.push(name),
            Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => PinDirectory::remove(&path)?,
            Err(e) => {
                return Err(SteeringError::Attach {
                    interface: format!("interface index {}", name.interface),
                    mode: name.mode,
                    reason: format!("the program of the pinned link cannot be replaced: {e}"),
                });
            }
        }
    }
    Ok(kept)
}

/// Attaches `program` to `interface` under a pin, or takes over `pinned`, the link an earlier run left there.
pub(super) fn attach(
    pins: &PinDirectory,
    object: &Object,
    interface: &InterfaceRef,
    program: Program,
    wanted: XdpMode,
    pinned: Option<LinkName>,
) -> Result<(LinkName, Attachment), SteeringError> {
    // Asking the kernel first tells a link on this very interface from one on an interface of another network
    // namespace that happens to have the same index.
    match create(object, interface, program, wanted) {
        Ok((link, mode, fallback)) => {
            if let Some(old) = pinned {
                PinDirectory::remove(&pins.link(&old))?;
            }
            let name = LinkName { program, interface: interface.index, mode };
            let path = pins.link(&name);
            kernel::pin(&link, &path).map_err(|source| SteeringError::Pin {
                action: "write",
                path,
                source,
            })?;
            Ok((name, Attachment { mode, fallback, adopted: false }))
        }
        Err(SteeringError::Occupied { interface: occupied }) => {
            let Some(old) = pinned.filter(|old| holds(pins, old, interface)) else {
                return Err(SteeringError::Occupied { interface: occupied });
            };
            if wanted != XdpMode::Auto && wanted != old.mode {
                return Err(SteeringError::ModeConflict { interface: occupied, pinned: old.mode, wanted });
            }
            let name = LinkName { program, ..old };
            if name != old {
                pins.rename(&old, &name)?;
            }
            let fallback = (wanted == XdpMode::Auto && name.mode == XdpMode::Generic)
                .then(|| "kept from an earlier run, which had to fall back".to_owned());
            Ok((name, Attachment { mode: name.mode, fallback, adopted: true }))
        }
        Err(e) => Err(e),
    }
}

/// Detaches the link at once and removes its pin. A link whose interface is gone only loses its pin.
pub(super) fn detach(pins: &PinDirectory, name: &LinkName) -> Result<(), SteeringError> {
    let link = open(pins, name)?;
    let fail = |source| SteeringError::Detach { interface: name.interface, source };
    if kernel::link_info(&link).map_err(fail)?.interface != 0 {
        kernel::link_detach(&link).map_err(fail)?;
    }
    PinDirectory::remove(&pins.link(name))
}

fn open(pins: &PinDirectory, name: &LinkName) -> Result<OwnedFd, SteeringError> {
    let path = pins.link(name);
    kernel::open_pin(&path).map_err(|source| SteeringError::Pin { action: "open", path, source })
}

fn holds(pins: &PinDirectory, name: &LinkName, interface: &InterfaceRef) -> bool {
    let info = open(pins, name).ok().and_then(|link| kernel::link_info(&link).ok());
    info.is_some_and(|info| info.interface == interface.index)
}

/// A new link, with the mode it got and why it did not get native.
fn create(
    object: &Object,
    interface: &InterfaceRef,
    program: Program,
    wanted: XdpMode,
) -> Result<(OwnedFd, XdpMode, Option<String>), SteeringError> {
    let program = object.program_fd(program)?;
    let refused = match wanted {
        XdpMode::Generic => None,
        XdpMode::Auto | XdpMode::Native => {
            match kernel::link_create(program, interface.index, kernel::FLAG_NATIVE) {
                Ok(link) => return Ok((link, XdpMode::Native, None)),
                Err(e) if is_final(&e) || wanted == XdpMode::Native => {
                    return Err(attach_error(interface, XdpMode::Native, &e));
                }
                Err(e) => Some(explain(&e)),
            }
        }
    };
    kernel::link_create(program, interface.index, kernel::FLAG_GENERIC)
        .map(|link| (link, XdpMode::Generic, refused))
        .map_err(|e| attach_error(interface, XdpMode::Generic, &e))
}

/// Whether generic mode would be refused for the same reason.
fn is_final(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::EACCES | libc::ENODEV)
    )
}

fn attach_error(interface: &InterfaceRef, mode: XdpMode, error: &io::Error) -> SteeringError {
    let interface = interface.name.clone();
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => SteeringError::Occupied { interface },
        _ => SteeringError::Attach { interface, mode, reason: explain(error) },
    }
}

/// The error with what it means on an XDP attachment (net/core/dev.c, drivers/net/veth.c, ena_xdp.c).
pub(crate) fn explain(error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP",
        Some(libc::ERANGE) => "the MTU of the peer is too large for it; lower the MTU",
        Some(libc::ENOSPC) => "fewer receive queues here than transmit queues at the peer",
        Some(libc::ENOTCONN) => "the veth has lost its peer",
        Some(libc::EINVAL) => {
            "no such interface in this network namespace, or the driver refuses its MTU or number of queues (see dmesg)"
        }
        Some(libc::EPERM | libc::EACCES) => "it takes CAP_NET_ADMIN and CAP_BPF",
        _ => return error.to_string(),
    };
    format!("{meaning} ({error})")
}
