//! Flows outlive the process: a file that mirrors the flow table, and reading it back at the next start.
//!
//! The management thread owns the writer and feeds it pages that workers took with [`FlowTable::take_changes`], so
//! workers do no I/O. What was handed to the kernel survives `kill -9`; nothing is synced to disk, because flows do not
//! outlive the machine. At the start a file that does not fit is an error to warn about, never a reason to stop.
//!
//! [`FlowTable::take_changes`]: super::FlowTable::take_changes

mod layout;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use espalier_api::rule::Family;
use thiserror::Error;

use super::changes::ChangePage;
use super::key::PodSlot;
use super::listing::FlowRecord;
pub use layout::{Clock, Layout};
use layout::{Decoded, HEADER, IDENTITY, LARGEST, MAGIC, POD, VERSION};

/// The generation of a restored flow: none that the rules ever have, so that untracked and revocable flows are judged
/// again with their first packet.
pub const RESTORED: u32 = u32::MAX;

/// Why a state file could not be written or read.
#[derive(Debug, Error)]
pub enum StateFileError {
    /// The system refused.
    #[error("cannot {action} the flow state file {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else is at that path.
    #[error("{} is no flow state file; earlier flows are ignored: move it away or give another path", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// Written by another release.
    #[error("{} has version {found}, this release reads {VERSION}; earlier flows are ignored", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The header's checksum is wrong.
    #[error("the header of {} is damaged; earlier flows are ignored", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// It ends too early or too late.
    #[error("{} is {found} bytes long, its header says {expected}; earlier flows are ignored", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What the header says.
        expected: u64,
    },
    /// A pod identity that does not fit a record.
    #[error("pod identity {identity:?} has {} bytes; a flow state file has room for {IDENTITY}", identity.len())]
    Identity {
        /// The identity.
        identity: String,
    },
    /// A slot beyond the file's layout.
    #[error("pod slot {slot} is beyond the {pods} of the flow state file")]
    Slot {
        /// The slot.
        slot: u16,
        /// How many the file has.
        pods: u16,
    },
}

/// Writes the file of one worker.
pub struct StateWriter {
    file: File,
    path: PathBuf,
    layout: Layout,
    /// What each slot's pod adds to checksums.
    pod_seeds: Vec<u64>,
    buffer: Vec<u8>,
}

impl StateWriter {
    /// Begins an empty file beside `path`; [`Self::publish`] puts it there. Until then an earlier file stays as it is,
    /// so a crash while flows are being restored loses none.
    pub fn create(path: &Path, layout: Layout, clock: Clock) -> Result<Self, StateFileError> {
        let beginning = beginning(path);
        let fault = |source| StateFileError::Io { action: "create", path: beginning.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&beginning).map_err(fault)?;
        file.set_len(layout.file_len()).map_err(fault)?;
        let pod_seeds = vec![0; layout.pods.into()];
        let mut writer = Self { file, path: path.to_owned(), layout, pod_seeds, buffer: Vec::new() };
        writer.heartbeat(clock)?;
        Ok(writer)
    }

    /// Puts the file at its path, in place of an earlier one.
    pub fn publish(&mut self) -> Result<(), StateFileError> {
        std::fs::rename(beginning(&self.path), &self.path)
            .map_err(|source| self.fault("put in place", source))
    }

    /// Notes which pod is in a slot, by anything that names it across restarts: its UID or its branch ENI. Do so
    /// before the first flow of the pod is written.
    pub fn set_pod(&mut self, slot: PodSlot, identity: Option<&str>) -> Result<(), StateFileError> {
        let pods = self.layout.pods;
        let seed = self.pod_seeds.get_mut(slot.index()).ok_or(StateFileError::Slot { slot: slot.0, pods })?;
        let record = layout::encode_pod(identity)
            .ok_or_else(|| StateFileError::Identity { identity: identity.unwrap_or_default().to_owned() })?;
        *seed = identity.map_or(0, layout::pod_seed);
        self.write_at(&record, self.layout.pod_at(slot.index()))
    }

    /// Writes a page of changes. Entries side by side go out in one write.
    pub fn write(&mut self, page: &ChangePage) -> Result<(), StateFileError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.write_runs(page, &mut buffer);
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn write_runs(&self, page: &ChangePage, buffer: &mut Vec<u8>) -> Result<(), StateFileError> {
        let mut run_at = 0;
        for change in &page.changes {
            let Some((at, len)) = self.layout.entry_at(change.entry) else { continue };
            if at != run_at + buffer.len() as u64 {
                self.write_at(buffer, run_at)?;
                buffer.clear();
                run_at = at;
            }
            let seed =
                |record: &FlowRecord| self.pod_seeds.get(record.key.slot().index()).copied().unwrap_or(0);
            let bytes = match &change.record {
                Some(record) => layout::encode_flow(record, seed(record), page.now),
                None => [0; LARGEST],
            };
            buffer.extend_from_slice(&bytes[..len]);
        }
        self.write_at(buffer, run_at)
    }

    /// Notes that all is written up to now: once a second. The time between the last heartbeat and the next start
    /// counts against the timeouts.
    pub fn heartbeat(&mut self, clock: Clock) -> Result<(), StateFileError> {
        self.write_at(&layout::encode_header(self.layout, clock), 0)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), StateFileError> {
        self.file.write_all_at(bytes, at).map_err(|source| self.fault("write", source))
    }

    fn fault(&self, action: &'static str, source: io::Error) -> StateFileError {
        StateFileError::Io { action, path: self.path.clone(), source }
    }
}

fn beginning(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// What was found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loaded {
    /// Flows handed to the caller.
    pub flows: u64,
    /// Flows of pods that are here no more.
    pub pod_gone: u64,
    /// Records whose checksum was wrong: torn by the end of the writer.
    pub damaged: u64,
    /// Milliseconds between the last heartbeat and now.
    pub gap_ms: u64,
}

/// Reads the file at `path`: nothing if there is none. `place` says which slot a pod has now, if it is here; `each` gets
/// its flows, with that slot, aged by the time since the last heartbeat, of generation [`RESTORED`]. Give them to
/// [`FlowTable::restore`](super::FlowTable::restore); their rules have the numbers they had.
pub fn load(
    path: &Path,
    clock: Clock,
    mut place: impl FnMut(&str) -> Option<PodSlot>,
    mut each: impl FnMut(FlowRecord),
) -> Result<Option<Loaded>, StateFileError> {
    let fault = |source| StateFileError::Io { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error)),
    };
    let (layout, saved) = read_header(path, &file)?;
    let pods = read_pods(&file, layout, &mut place).map_err(fault)?;
    let gap_ms = clock.wall_ms.saturating_sub(saved.wall_ms);
    let mut loaded = Loaded { gap_ms, ..Loaded::default() };
    let mut input = BufReader::with_capacity(1 << 16, file);
    for (family, first, count, len) in
        [(Family::V4, 0, layout.ipv4, 64), (Family::V6, layout.ipv4, layout.ipv6, 128)]
    {
        let Some((at, _)) = layout.entry_at(first) else { continue };
        input.seek(SeekFrom::Start(at)).map_err(fault)?;
        let mut record = [0; LARGEST];
        for _ in 0..count {
            input.read_exact(&mut record[..len]).map_err(fault)?;
            let seed = |slot: usize| pods.get(slot)?.as_ref().map(|pod| pod.seed);
            match layout::decode_flow(family, &record[..len], saved.now, seed) {
                Decoded::Free => {}
                Decoded::Damaged => loaded.damaged += 1,
                Decoded::Flow(flow) => match pods.get(flow.key.slot().index()).and_then(Option::as_ref) {
                    Some(Pod { slot: Some(slot), .. }) => {
                        each(aged(flow, *slot, gap_ms));
                        loaded.flows += 1;
                    }
                    _ => loaded.pod_gone += 1,
                },
            }
        }
    }
    Ok(Some(loaded))
}

fn aged(flow: FlowRecord, slot: PodSlot, gap_ms: u64) -> FlowRecord {
    FlowRecord {
        key: flow.key.with_slot(slot),
        generation: RESTORED,
        age_ms: flow.age_ms + gap_ms,
        idle_ms: flow.idle_ms + gap_ms,
        ..flow
    }
}

/// A pod the file knows.
struct Pod {
    seed: u64,
    /// Its slot now.
    slot: Option<PodSlot>,
}

fn read_header(path: &Path, file: &File) -> Result<(Layout, Clock), StateFileError> {
    let path = || path.to_owned();
    let fault = |source| StateFileError::Io { action: "read", path: path(), source };
    let mut bytes = [0; HEADER];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(StateFileError::Foreign { path: path() });
        }
        read => read.map_err(fault)?,
    }
    if !bytes.starts_with(&MAGIC) {
        return Err(StateFileError::Foreign { path: path() });
    }
    let found = layout::version(&bytes);
    if found != VERSION {
        return Err(StateFileError::Version { path: path(), found });
    }
    let (layout, saved) =
        layout::decode_header(&bytes).ok_or_else(|| StateFileError::Damaged { path: path() })?;
    let (found, expected) = (file.metadata().map_err(fault)?.len(), layout.file_len());
    if found != expected {
        return Err(StateFileError::Length { path: path(), found, expected });
    }
    Ok((layout, saved))
}

/// The pods of the file, by the slots they had. A damaged record is like none: its flows are not restored.
fn read_pods(
    file: &File,
    layout: Layout,
    place: &mut impl FnMut(&str) -> Option<PodSlot>,
) -> io::Result<Vec<Option<Pod>>> {
    let mut pods = Vec::with_capacity(layout.pods.into());
    for slot in 0..layout.pods {
        let mut bytes = [0; POD];
        file.read_exact_at(&mut bytes, layout.pod_at(slot.into()))?;
        let identity = layout::decode_pod(&bytes).filter(|identity| !identity.is_empty());
        pods.push(identity.map(|identity| Pod { seed: layout::pod_seed(identity), slot: place(identity) }));
    }
    Ok(pods)
}
