//! Keeps the flow state file: a thread of its own takes changed flows from the workers and writes them.
//!
//! Workers do no I/O, and the control socket may be busy: neither holds the file up. One file has the flows of all
//! workers, so that a switch with another number of them reads it too: each flow goes to its pod's home. A file that does
//! not fit is warned about and left out.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::clock;
use crate::flow::state_file::{self, Clock, Layout, StateFileError, StateWriter};
use crate::flow::{ChangePage, FlowConfig, FlowRecord, PodSlot};
use crate::worker::{Handle, WorkerFailed};

/// Pause between two looks at what changed; a crash loses the flows that began since the last.
const PAUSE: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Flows a worker copies between two batches.
const PAGE: usize = 1024;
/// Flows given back to a worker between two batches.
const RESTORE: usize = 1024;

/// The workers' flow tables, and where each one's entries lie in the file.
pub(crate) struct Shards {
    workers: Vec<Handle>,
    pods: u16,
    ipv4: u32,
    ipv6: u32,
}

impl Shards {
    /// Of these workers, each with a table of this size.
    pub(crate) fn new(workers: Vec<Handle>, each: &FlowConfig) -> Self {
        let [ipv4, ipv6] = each.entries();
        Self { workers, pods: each.pods, ipv4, ipv6 }
    }

    /// The file has every worker's IPv4 entries, then every worker's IPv6 entries.
    fn layout(&self) -> Layout {
        let workers = self.workers.len() as u32;
        Layout { pods: self.pods, ipv4: self.ipv4 * workers, ipv6: self.ipv6 * workers }
    }

    /// The number in the file of a worker's entry.
    fn in_file(&self, worker: usize, entry: u32) -> u32 {
        let worker = worker as u32;
        match entry.checked_sub(self.ipv4) {
            None => worker * self.ipv4 + entry,
            Some(six) => self.layout().ipv4 + worker * self.ipv6 + six,
        }
    }
}

/// The running thread.
pub(crate) struct Journal {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

enum Order {
    /// This pod sits in this slot from now on, or none does.
    Pod(PodSlot, Option<String>),
    /// Write what is left and end.
    Stop,
}

impl Journal {
    /// Restores the flows of an earlier switch for the pods named (slot, identity and home), and goes on from there.
    pub(crate) fn start(
        path: PathBuf,
        shards: Shards,
        pods: &[(PodSlot, String, usize)],
    ) -> Result<Self, StateFileError> {
        restore(&path, &shards, pods);
        let mut writer = StateWriter::create(&path, shards.layout(), clock_now())?;
        for (slot, identity, _) in pods {
            writer.set_pod(*slot, Some(identity))?;
        }
        let (orders, inbox) = unbounded();
        let spawned = std::thread::Builder::new().name("journal".into()).spawn(move || {
            let mut pages: Vec<_> =
                shards.workers.iter().map(|_| Box::new(ChangePage::with_room(PAGE))).collect();
            if let Err(error) = keep(&mut writer, &shards, &inbox, &mut pages) {
                tracing::warn!(%error, "flows are no longer written down: a restart would lose them");
            }
        });
        let thread =
            spawned.map_err(|source| StateFileError::Io { action: "start the writer of", path, source })?;
        Ok(Self { orders, thread })
    }

    /// Notes which pod is in a slot.
    pub(crate) fn set_pod(&self, slot: PodSlot, identity: Option<String>) {
        // A writer that has given up has said so.
        let _noted = self.orders.send(Order::Pod(slot, identity));
    }

    /// Writes what is left and ends. The workers must still run.
    pub(crate) fn stop(self) {
        let _told = self.orders.send(Order::Stop);
        if self.thread.join().is_err() {
            tracing::warn!("the writer of the flow state file had failed");
        }
    }
}

/// Why the file is not kept any more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    File(#[from] StateFileError),
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
}

fn keep(
    writer: &mut StateWriter,
    shards: &Shards,
    inbox: &Receiver<Order>,
    pages: &mut [Box<ChangePage>],
) -> Result<(), Ended> {
    write_changes(writer, shards, pages)?;
    writer.publish()?;
    let mut beat = Instant::now();
    loop {
        match inbox.recv_timeout(PAUSE) {
            Ok(Order::Pod(slot, identity)) => {
                writer.set_pod(slot, identity.as_deref())?;
                continue;
            }
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                write_changes(writer, shards, pages)?;
                writer.heartbeat(clock_now())?;
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => write_changes(writer, shards, pages)?,
        }
        if beat.elapsed() >= HEARTBEAT {
            writer.heartbeat(clock_now())?;
            beat = Instant::now();
        }
    }
}

fn write_changes(
    writer: &mut StateWriter,
    shards: &Shards,
    pages: &mut [Box<ChangePage>],
) -> Result<(), Ended> {
    for (index, (worker, page)) in shards.workers.iter().zip(pages).enumerate() {
        loop {
            let taken = std::mem::replace(page, Box::new(ChangePage::with_room(0)));
            let (filled, more) = match worker.take_changes(taken) {
                Ok(answer) => answer,
                // The others' flows are still worth writing; what this one has comes when it lives again.
                Err(error @ WorkerFailed::Silent(..)) => {
                    tracing::debug!(%error, "its flows are not written for now");
                    **page = ChangePage::with_room(PAGE);
                    break;
                }
                Err(gone) => return Err(gone.into()),
            };
            *page = filled;
            page.changes.iter_mut().for_each(|change| change.entry = shards.in_file(index, change.entry));
            writer.write(page)?;
            if !more {
                break;
            }
        }
    }
    Ok(())
}

fn restore(path: &std::path::Path, shards: &Shards, pods: &[(PodSlot, String, usize)]) {
    let place = |identity: &str| pods.iter().find(|(_, known, _)| known == identity).map(|(slot, ..)| *slot);
    let mut flows: Vec<Vec<FlowRecord>> = shards.workers.iter().map(|_| Vec::new()).collect();
    let homes: std::collections::HashMap<PodSlot, usize> =
        pods.iter().map(|(slot, _, home)| (*slot, *home)).collect();
    let give = |flow: FlowRecord| {
        if let Some(home) = homes.get(&flow.key.slot()) {
            flows[*home].push(flow);
        }
    };
    match state_file::load(path, clock_now(), place, give) {
        Ok(None) => {}
        Ok(Some(loaded)) => {
            let give_back = |(worker, flows): (&Handle, &Vec<FlowRecord>)| -> u64 {
                flows.chunks(RESTORE).map(|chunk| worker.restore_flows(chunk.to_vec()).unwrap_or(0)).sum()
            };
            let restored: u64 = shards.workers.iter().zip(&flows).map(give_back).sum();
            tracing::info!(
                restored,
                pod_gone = loaded.pod_gone,
                damaged = loaded.damaged,
                gap_ms = loaded.gap_ms,
                "flows of the earlier switch restored"
            );
        }
        Err(error) => tracing::warn!(%error, "flows of an earlier switch are lost"),
    }
}

fn clock_now() -> Clock {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Clock { now: clock::now(), wall_ms: wall.as_millis() as u64 }
}
