//! The folder of a lab under `/run/espalier/lab`: who has the name, what was made, logs, sockets, pinned maps.
//!
//! Making the folder claims the name. The state file is written before anything else is made, so that `down` can
//! remove what a killed lab left behind. Removing the folder is the last step of taking a lab down.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use crate::LabError;
use crate::name::LabName;
use crate::scenario::Scenario;

/// Parent of the folders of all labs.
const LABS: &str = "/run/espalier/lab";

/// What is known of a lab that is up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub(crate) scenario: Scenario,
    pub(crate) mtu: u32,
    pub(crate) since: u64,
}

impl State {
    pub(crate) fn new(scenario: Scenario, mtu: u32) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { scenario, mtu, since }
    }
}

/// The folder of one lab.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Takes the name, or says who has it.
    pub(crate) fn claim(name: &LabName, state: &State) -> Result<Self, LabError> {
        let dir = Self::of(name);
        let failed =
            |source| LabError::io(format!("cannot make {} (are you root?)", dir.path.display()), source);
        fs::create_dir_all(LABS).map_err(failed)?;
        fs::create_dir(&dir.path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => LabError::Exists { name: name.to_string() },
            _ => failed(error),
        })?;
        dir.write("state.json", state)?;
        Ok(dir)
    }

    /// The folder of a lab, if it is there.
    pub(crate) fn open(name: &LabName) -> Result<Self, LabError> {
        let dir = Self::of(name);
        if dir.path.is_dir() { Ok(dir) } else { Err(LabError::NotFound { name: name.to_string() }) }
    }

    /// Names of the labs that have a folder.
    pub(crate) fn names() -> Vec<LabName> {
        let entries = fs::read_dir(LABS).into_iter().flatten().flatten();
        let mut names: Vec<LabName> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        names
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The state; none where the lab was killed before it was written.
    pub(crate) fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.file("state.json")).ok()?).ok()
    }

    /// Writes a file of the folder as JSON.
    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<PathBuf, LabError> {
        let path = self.file(name);
        let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::other);
        text.and_then(|text| fs::write(&path, text))
            .map_err(|source| LabError::io(format!("cannot write {}", path.display()), source))?;
        Ok(path)
    }

    /// Unmounts what was mounted inside (the switch's bpffs) and removes the folder: the name is free again.
    pub(crate) fn remove(&self) -> Result<(), LabError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|mount| Path::new(mount).starts_with(&self.path));
        for mount in own.collect::<Vec<_>>().into_iter().rev() {
            unmount(mount, UnmountFlags::DETACH)
                .map_err(|error| LabError::io(format!("cannot unmount {mount}"), error.into()))?;
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(LabError::io(format!("cannot remove {}", self.path.display()), error))
            }
            _ => Ok(()),
        }
    }

    fn of(name: &LabName) -> Self {
        Self { path: Path::new(LABS).join(name.as_str()) }
    }
}
