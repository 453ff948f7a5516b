//! The few bpf(2) commands the steering needs on links, made directly. aya makes links too, but falls back to a
//! netlink attachment when the kernel answers EINVAL, which cannot be pinned, and hides a link's interface.
//! Called by `links.rs`, and by the load generator's intake. Promises owned, close-on-exec descriptors and plain `io::Error`s.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the kernel says about an XDP link. Layout of `struct bpf_link_info` (linux/bpf.h), XDP member.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    pub(super) program_id: u32,
    padding: u32,
    /// 0 once the interface is gone.
    pub(super) interface: u32,
    rest: [u32; 11],
}

const LINK_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;

const CMD_OBJ_PIN: libc::c_int = 6;
const CMD_OBJ_GET: libc::c_int = 7;
const CMD_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const CMD_LINK_CREATE: libc::c_int = 28;
const CMD_LINK_UPDATE: libc::c_int = 29;
const CMD_LINK_DETACH: libc::c_int = 34;

/// The flag that asks for a native (driver) attachment.
pub(crate) const FLAG_NATIVE: u32 = 1 << 2;
/// The flag that asks for a generic (socket buffer) attachment.
pub(crate) const FLAG_GENERIC: u32 = 1 << 1;

/// Attaches `program` to the interface of the calling thread's network namespace.
pub(crate) fn link_create(program: impl AsFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let attr = [program.as_fd().as_raw_fd().cast_unsigned(), interface, ATTACH_TYPE_XDP, flags];
    bpf_fd(CMD_LINK_CREATE, &attr)
}

/// Replaces the program of `link` in one step.
pub(super) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let attr = [link.as_fd().as_raw_fd().cast_unsigned(), program.as_fd().as_raw_fd().cast_unsigned(), 0, 0];
    bpf(CMD_LINK_UPDATE, &attr).map(drop)
}

/// Detaches `link` from its interface at once; closing the last descriptor would do it some time later.
pub(crate) fn link_detach(link: impl AsFd) -> io::Result<()> {
    bpf(CMD_LINK_DETACH, &[link.as_fd().as_raw_fd().cast_unsigned()]).map(drop)
}

/// What `link` is attached to; an error when it is not an XDP link.
pub(super) fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = LinkInfo::default();
    let len = size_of::<LinkInfo>() as u32;
    let address = (&raw mut info).expose_provenance() as u64;
    let attr = Attr { fd: link.as_fd().as_raw_fd().cast_unsigned(), len, info: address };
    bpf(CMD_OBJ_GET_INFO_BY_FD, &attr)?;
    if info.kind == LINK_TYPE_XDP {
        Ok(info)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not an XDP link"))
    }
}

/// Pins `object` at `path`, which must not exist.
pub(super) fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    with_path(path, object.as_fd().as_raw_fd().cast_unsigned(), |attr| bpf(CMD_OBJ_PIN, attr).map(drop))
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    with_path(path, 0, |attr| bpf_fd(CMD_OBJ_GET, attr))
}

/// The attributes of the two pin commands.
#[repr(C)]
struct PathAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn with_path<T>(path: &Path, fd: u32, run: impl FnOnce(&PathAttr) -> io::Result<T>) -> io::Result<T> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    run(&PathAttr { path: path.as_ptr().expose_provenance() as u64, fd, flags: 0 })
}

fn bpf_fd<A>(command: libc::c_int, attr: &A) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(bpf(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: the command just made this descriptor for us, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<A>(command: libc::c_int, attr: &A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes from a live reference and takes the missing rest of
    // `union bpf_attr` as zero. Addresses inside `attr` point at a path or an info buffer that the caller keeps
    // alive, exposed and unaliased until this returns; the one the kernel writes is at most as long as announced.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
