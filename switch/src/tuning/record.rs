//! The record of what was changed: a file beside the control socket, which a later switch reads after a kill.
//!
//! Owned by the tuner. An entry is on file before its changes are made and leaves it after they are undone. The file goes
//! with the machine's run time folder, as the interfaces do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{Change, TuningError};

/// What was changed for one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) netns: PathBuf,
    /// Of the pod's end: another interface may be there by now.
    pub(super) mac: [u8; 6],
    /// Name of the host's end.
    pub(super) veth: String,
    pub(super) changes: Vec<Change>,
}

/// Entries by the index of the host's end.
pub(super) struct Record {
    path: PathBuf,
    entries: BTreeMap<u32, Entry>,
}

impl Record {
    /// What the file says; nothing if there is none. One that cannot be read is told of and ignored.
    pub(super) fn read(path: PathBuf) -> Self {
        let text = match fs::read(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what was tuned before cannot be read");
                None
            }
        };
        let entries = text.map(|text| serde_json::from_slice(&text)).transpose().unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "no record of tuning: it is ignored");
            None
        });
        Self { path, entries: entries.unwrap_or_default() }
    }

    pub(super) fn entry(&self, veth: u32) -> Option<&Entry> {
        self.entries.get(&veth)
    }

    /// The host ends that have an entry.
    pub(super) fn veths(&self) -> Vec<u32> {
        self.entries.keys().copied().collect()
    }

    /// Writes an entry down, beside what was changed at the same veth before.
    pub(super) fn add(&mut self, veth: u32, mut entry: Entry) -> Result<(), TuningError> {
        let before = self.entries.remove(&veth).filter(|before| before.mac == entry.mac);
        if let Some(before) = &before {
            entry.changes.splice(0..0, before.changes.iter().copied());
        }
        self.entries.insert(veth, entry);
        let written = self.write();
        if written.is_err() {
            self.entries.remove(&veth);
            self.entries.extend(before.map(|before| (veth, before)));
        }
        written.map_err(|source| TuningError::Record { path: self.path.clone(), source })
    }

    /// Strikes an entry out.
    pub(super) fn remove(&mut self, veth: u32) {
        self.entries.remove(&veth);
        let written = if self.entries.is_empty() { fs::remove_file(&self.path) } else { self.write() };
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "the record of tuning is out of date");
        }
    }

    /// Whole or not at all: a kill in between leaves the file as it was.
    fn write(&self) -> io::Result<()> {
        let draft = self.path.with_extension("tuning.new");
        fs::write(&draft, serde_json::to_vec(&self.entries)?)?;
        fs::rename(&draft, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_outlive_the_writer_and_an_empty_record_has_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("switch.tuning");
        let entry = Entry {
            netns: "/run/netns/a".into(),
            mac: [2, 0, 0, 0, 0, 1],
            veth: "vlan0".to_owned(),
            changes: vec![Change::Gro, Change::HostTso],
        };
        Record::read(path.clone()).add(7, entry.clone()).unwrap();
        let mut again = Record::read(path.clone());
        assert_eq!((again.veths(), again.entry(7)), (vec![7], Some(&entry)));
        again.remove(7);
        assert!(!path.exists());
        fs::write(&path, "not JSON").unwrap();
        assert_eq!(Record::read(path).veths(), Vec::<u32>::new());
    }

    #[test]
    fn a_record_that_cannot_be_written_has_no_entry() {
        let mut record = Record::read("/proc/nowhere/switch.tuning".into());
        let entry =
            Entry { netns: PathBuf::new(), mac: [0; 6], veth: String::new(), changes: vec![Change::Gro] };
        let error = record.add(1, entry).unwrap_err().to_string();
        assert!(error.contains("/proc/nowhere/switch.tuning"), "{error}");
        assert_eq!(record.veths(), Vec::<u32>::new());
    }
}
