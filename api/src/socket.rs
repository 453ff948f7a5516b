//! The unix socket of a long-running program: made with its mode and group, never open to others for a moment.
//!
//! Used by `espalier-switch` and `espalier-agent`.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::InputError;

/// The file of a socket; it goes when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it removes the file"]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // One that stays is replaced by the next start.
        let _removed = std::fs::remove_file(&self.0);
    }
}

/// Binds the socket, mode 0660; a stale file of an ended program is replaced, a living `program` is not. The listener
/// does not block.
pub fn bind(
    path: &Path,
    group: Option<&str>,
    program: &str,
) -> Result<(UnixListener, SocketFile), InputError> {
    let refuse = |message: String| InputError::new("socket", format!("{}: {message}", path.display()));
    let group = group.map(group_id).transpose()?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| refuse(error.to_string()))?;
    }
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(refuse("exists and is not a socket: remove it or choose another path".into()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(refuse(format!("another {program} answers on it: stop that one first")));
        }
        std::fs::remove_file(path).map_err(|error| refuse(error.to_string()))?;
    }
    // Made under a private name and moved into place.
    let private = private_name(path);
    let listener = UnixListener::bind(&private).map_err(|error| refuse(error.to_string()))?;
    std::os::unix::fs::chown(&private, None, group)
        .and_then(|()| std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o660)))
        .and_then(|()| std::fs::rename(&private, path))
        .and_then(|()| listener.set_nonblocking(true))
        .map_err(|error| refuse(error.to_string()))?;
    Ok((listener, SocketFile(path.to_owned())))
}

fn private_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

/// A group's number, from `/etc/group` if it is given by name.
fn group_id(group: &str) -> Result<u32, InputError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let line = groups.lines().find(|line| line.split(':').next() == Some(group));
    let number = line.and_then(|line| line.split(':').nth(2)?.parse().ok());
    number.ok_or_else(|| InputError::new("socket-group", format!("{group:?} is no group of this machine")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_program_keeps_its_socket_and_a_dead_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let living = bind(&path, None, "program").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(bind(&path, None, "program").unwrap_err().message.contains("another program"));
        let (listener, file) = living;
        drop(listener);
        assert!(path.exists());
        // As one that was killed.
        std::mem::forget(file);
        let restarted = bind(&path, None, "program").unwrap();
        drop(restarted);
        assert!(!path.exists());
        assert_eq!(bind(&path, Some("no such group"), "program").unwrap_err().field, "socket-group");
    }
}
