//! Closing a port: every frame it held comes back, once the kernel is known to be done with the socket.
//!
//! Closing the descriptor is no proof of that: a child process between fork and exec, or a duplicate, keeps the socket
//! receiving. Without either, the close itself has waited for receivers. With one, the proof is that the queue can be
//! bound again, which the kernel allows after the socket is destroyed (linux net/xdp/xsk_buff_pool.c, xp_assign_dev).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use super::open::{Namespace, bind, control_socket, probe_settings};
use super::{Port, PortError};
use crate::frame::{Frame, HEADROOM};
use crate::interface::InterfaceRef;
use crate::umem::{Owner, Umem};

/// How long a close waits for the kernel; grace periods take it some tens of milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(20);

impl Port {
    /// Closes the socket, makes sure that the kernel is done with it, and gives back every frame it held, each as a
    /// fresh one. Takes a grace period of the kernel or a few (tens of milliseconds): not for the packet path.
    ///
    /// If something else holds the socket (a duplicate of its descriptor, a child process that has not reached its
    /// exec), this waits for up to 5 seconds, and must then be called in the namespace the port was opened in. When
    /// that time is not enough, no frame comes back: they stay counted as the dead socket's.
    #[must_use = "the frames are lost unless a pool takes them"]
    pub fn close(self) -> Vec<Frame> {
        let inode = rustix::fs::fstat(self.as_fd()).map(|stat| stat.st_ino);
        let Self {
            umem, socket, interface, namespace, queue, rx, tx, fill, completion, partial, claim, ..
        } = self;
        if let Some(packet) = partial {
            packet.retire();
        }
        drop((rx, tx, fill, completion));
        drop(claim);
        let at_rest = inode.is_ok_and(nobody_else_has);
        if !at_rest && !released(&umem, &interface, namespace, queue) {
            return Vec::new();
        }
        let chunks = umem.chunks();
        let take_back = |index| {
            // SAFETY: the port held the chunk, its socket is destroyed, and a home descriptor lies in its chunk.
            unsafe { chunks.set_current(index, chunks.home(index)) };
            chunks.set_owner(index, Owner::Worker);
            // SAFETY: the owner word said that this port held the chunk, so no token of it exists, and the kernel
            // has destroyed the port's socket.
            unsafe { Frame::new(index, umem.tag(), HEADROOM as u16, 0) }
        };
        chunks.held_by(socket).map(take_back).collect()
    }
}

/// True if no other descriptor of the socket is left, nor a process that may hold one.
fn nobody_else_has(inode: u64) -> bool {
    has_no_children() && is_not_duplicated(inode).unwrap_or(false)
}

/// A child that is gone has closed everything before it could be waited for.
fn has_no_children() -> bool {
    // __WALL of linux include/uapi/linux/wait.h: children of every kind. rustix has no name for it.
    let every_kind = WaitIdOptions::from_bits_retain(0x4000_0000);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT | every_kind;
    matches!(rustix::process::waitid(WaitId::All, options), Err(Errno::CHILD))
}

fn is_not_duplicated(inode: u64) -> std::io::Result<bool> {
    let socket = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // A descriptor closed meanwhile is not one of ours.
        if std::fs::read_link(entry?.path()).is_ok_and(|target| target.as_os_str() == socket.as_str()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until the kernel has destroyed the socket that was bound to the queue.
fn released(umem: &Umem, interface: &InterfaceRef, namespace: Namespace, queue: u32) -> bool {
    let start = Instant::now();
    let mut wait = FIRST_WAIT;
    while start.elapsed() < DEADLINE {
        if Namespace::current().is_ok_and(|current| current == namespace) && is_free(umem, interface, queue) {
            return true;
        }
        std::thread::sleep(wait);
        wait = LONGEST_WAIT.min(wait * 2);
    }
    false
}

/// True if the queue can be bound, or its interface has gone and took the binding with it.
fn is_free(umem: &Umem, interface: &InterfaceRef, queue: u32) -> bool {
    // By index: the interface may have another name by now.
    let name = control_socket().and_then(|any| rustix::net::netdevice::index_to_name(&any, interface.index));
    let name = match name {
        Ok(name) => name,
        Err(errno) => return matches!(errno, Errno::NODEV | Errno::NXIO),
    };
    let now = InterfaceRef { name, ..interface.clone() };
    match bind(umem, &now, queue, probe_settings()) {
        // The probe never has a frame, so its own end need not be waited for.
        Ok(_) => true,
        // Another thread has opened a port there: it could, so the old one is gone.
        Err(PortError::InUse { .. }) => true,
        Err(_) => false,
    }
}
