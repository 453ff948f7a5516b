//! The pin directory: `maps/` and `links/` under a directory on a bpffs, one switch at a time.
//! Owns the mount, the lock and the names. The names of the link pins are the record of what is attached where,
//! so that a restarted switch needs nothing else to know it. Used by `steering.rs`, `object.rs` and `links.rs`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{SteeringError, XdpMode, kernel};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where systemd and most container hosts mount the bpffs.
const USUAL_MOUNT: &str = "/sys/fs/bpf";

/// A locked pin directory. The lock goes with the value, or with the process.
#[derive(Debug)]
pub(super) struct PinDirectory {
    path: PathBuf,
    lock: Lock,
}

/// An exclusive lock on a directory.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would do, were it not for children just forked, which hold a copy until they exec.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl PinDirectory {
    /// Makes the directory, mounting a bpffs where there is none, and locks it.
    pub(super) fn open(path: &Path) -> Result<PinDirectory, SteeringError> {
        let fail = |source| SteeringError::PinDirectory { path: path.to_owned(), source };
        ensure_bpffs(path).map_err(fail)?;
        for folder in [path.to_owned(), path.join("maps"), path.join("links")] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
        }
        let directory = File::open(path).map_err(fail)?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(PinDirectory { path: path.to_owned(), lock: Lock(directory) }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(SteeringError::PinDirectoryBusy { path: path.to_owned() })
            }
            Err(e) => Err(fail(e.into())),
        }
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join("maps").join(name)
    }

    pub(super) fn link(&self, name: &LinkName) -> PathBuf {
        self.path.join("links").join(name.encode())
    }

    /// The link pins; files with other names are left alone.
    pub(super) fn links(&self) -> Result<Vec<LinkName>, SteeringError> {
        let names = entries(&self.path.join("links"))?;
        Ok(names.iter().filter_map(|path| LinkName::decode(path.file_name()?.to_str()?)).collect())
    }

    pub(super) fn remove(path: &Path) -> Result<(), SteeringError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SteeringError::Pin { action: "remove", path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &LinkName, to: &LinkName) -> Result<(), SteeringError> {
        let path = self.link(from);
        fs::rename(&path, self.link(to)).map_err(|source| SteeringError::Pin {
            action: "rename",
            path,
            source,
        })
    }

    /// Detaches every link, removes every pin and the directory, and unmounts what `open` mounted for it alone.
    pub(super) fn destroy(self) -> Result<(), SteeringError> {
        for path in entries(&self.path.join("links"))? {
            let link = kernel::open_pin(&path).map_err(|source| SteeringError::Pin {
                action: "open",
                path: path.clone(),
                source,
            })?;
            let _ = kernel::link_detach(&link); // its interface may be gone; without its pin it goes in any case
            Self::remove(&path)?;
        }
        for path in entries(&self.path.join("maps"))? {
            Self::remove(&path)?;
        }
        let PinDirectory { path, lock } = self;
        let own_mount = is_mount_root(&path) && path != Path::new(USUAL_MOUNT);
        drop(lock);
        let remove = || -> io::Result<()> {
            fs::remove_dir(path.join("links"))?;
            fs::remove_dir(path.join("maps"))?;
            if own_mount {
                unmount(&path, UnmountFlags::empty())?;
            }
            fs::remove_dir(&path)
        };
        remove().map_err(|source| SteeringError::PinDirectory { path: path.clone(), source })
    }
}

/// The name of a link pin: which program, on which interface, and how. bpffs allows no dots in names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkName {
    pub(super) program: Program,
    pub(super) interface: u32,
    pub(super) mode: XdpMode,
}

/// Which of the two programs a link runs, with what the pod program needs to know of its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Trunk,
    Pod { slot: u16, vlan: u16 },
}

impl LinkName {
    fn encode(&self) -> String {
        let LinkName { program, interface, mode } = self;
        match program {
            Program::Trunk => format!("trunk-{interface}-{mode}"),
            Program::Pod { slot, vlan } => format!("pod-{interface}-{slot}-{vlan}-{mode}"),
        }
    }

    fn decode(name: &str) -> Option<LinkName> {
        let mode = |text| match text {
            "native" => Some(XdpMode::Native),
            "generic" => Some(XdpMode::Generic),
            _ => None,
        };
        let parts: Vec<&str> = name.split('-').collect();
        match parts[..] {
            ["trunk", interface, how] => Some(LinkName {
                program: Program::Trunk,
                interface: interface.parse().ok()?,
                mode: mode(how)?,
            }),
            ["pod", interface, slot, vlan, how] => Some(LinkName {
                program: Program::Pod { slot: slot.parse().ok()?, vlan: vlan.parse().ok()? },
                interface: interface.parse().ok()?,
                mode: mode(how)?,
            }),
            _ => None,
        }
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SteeringError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect()
    };
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|source| SteeringError::PinDirectory { path: folder.to_owned(), source }),
    }
}

/// Mounts a bpffs for `path` when it lies on none: at the usual place if it is under that, else at `path`.
fn ensure_bpffs(path: &Path) -> io::Result<()> {
    if on_bpffs(path)? {
        return Ok(());
    }
    let usual = Path::new(USUAL_MOUNT);
    let target = if path.starts_with(usual) && usual.is_dir() { usual } else { path };
    fs::create_dir_all(target)?;
    // Two processes may come here at once, and a second mount would hide the pins of the first: lock what is
    // below the mount, then look again.
    let below = File::open(target)?;
    flock(&below, FlockOperation::LockExclusive)?;
    if !on_bpffs(path)? {
        mount("bpf", target, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
    }
    Ok(())
}

/// Whether the nearest existing ancestor of `path` (or `path`) is on a bpffs.
fn on_bpffs(path: &Path) -> io::Result<bool> {
    for ancestor in path.ancestors().filter(|a| !a.as_os_str().is_empty()) {
        match statfs(ancestor) {
            Ok(fs) => return Ok(u64::try_from(fs.f_type).is_ok_and(|kind| kind == BPF_FS_MAGIC)),
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

fn is_mount_root(path: &Path) -> bool {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_survive_the_round_trip() {
        let names = [
            LinkName { program: Program::Trunk, interface: 7, mode: XdpMode::Native },
            LinkName {
                program: Program::Pod { slot: 65535, vlan: 4094 },
                interface: 12,
                mode: XdpMode::Generic,
            },
        ];
        for name in names {
            assert_eq!(LinkName::decode(&name.encode()), Some(name));
            assert!(!name.encode().contains('.'), "bpffs refuses dots");
        }
    }

    #[test]
    fn other_names_are_nobodys_link() {
        for name in
            ["", "trunk", "trunk-7", "trunk-7-auto", "trunk-x-native", "pod-7-native", "pod-1-70000-1-native"]
        {
            assert_eq!(LinkName::decode(name), None, "{name}");
        }
    }
}
