//! Keeps the flow state file: a thread of its own takes changed flows from the worker and writes them.
//!
//! The worker does no I/O, and the control socket may be busy: neither holds the file up. At the start the flows of an
//! earlier switch are read back; a file that does not fit is warned about and left out.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::clock;
use crate::flow::ChangePage;
use crate::flow::PodSlot;
use crate::flow::state_file::{self, Clock, Layout, StateFileError, StateWriter};
use crate::worker::{Handle, WorkerGone};

/// Pause between two looks at what changed; a crash loses the flows that began since the last.
const PAUSE: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Flows the worker copies between two batches.
const PAGE: usize = 1024;
/// Flows given back to the worker between two batches.
const RESTORE: usize = 1024;

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
    /// Restores the flows of an earlier switch for the pods named (slot and identity), and goes on from there.
    pub(crate) fn start(
        path: PathBuf,
        layout: Layout,
        worker: Handle,
        pods: &[(PodSlot, String)],
    ) -> Result<Self, StateFileError> {
        restore(&path, &worker, pods);
        let mut writer = StateWriter::create(&path, layout, clock_now())?;
        for (slot, identity) in pods {
            writer.set_pod(*slot, Some(identity))?;
        }
        let (orders, inbox) = unbounded();
        let spawned = std::thread::Builder::new().name("journal".into()).spawn(move || {
            let mut page = Box::new(ChangePage::with_room(PAGE));
            if let Err(error) = keep(&mut writer, &worker, &inbox, &mut page) {
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

    /// Writes what is left and ends. The worker must still run.
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
    Worker(#[from] WorkerGone),
}

fn keep(
    writer: &mut StateWriter,
    worker: &Handle,
    inbox: &Receiver<Order>,
    page: &mut Box<ChangePage>,
) -> Result<(), Ended> {
    write_changes(writer, worker, page)?;
    writer.publish()?;
    let mut beat = Instant::now();
    loop {
        match inbox.recv_timeout(PAUSE) {
            Ok(Order::Pod(slot, identity)) => {
                writer.set_pod(slot, identity.as_deref())?;
                continue;
            }
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                write_changes(writer, worker, page)?;
                writer.heartbeat(clock_now())?;
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => write_changes(writer, worker, page)?,
        }
        if beat.elapsed() >= HEARTBEAT {
            writer.heartbeat(clock_now())?;
            beat = Instant::now();
        }
    }
}

fn write_changes(writer: &mut StateWriter, worker: &Handle, page: &mut Box<ChangePage>) -> Result<(), Ended> {
    loop {
        let taken = std::mem::replace(page, Box::new(ChangePage::with_room(0)));
        let (filled, more) = worker.take_changes(taken)?;
        *page = filled;
        writer.write(page)?;
        if !more {
            return Ok(());
        }
    }
}

fn restore(path: &std::path::Path, worker: &Handle, pods: &[(PodSlot, String)]) {
    let place = |identity: &str| pods.iter().find(|(_, known)| known == identity).map(|(slot, _)| *slot);
    let mut flows = Vec::new();
    match state_file::load(path, clock_now(), place, |flow| flows.push(flow)) {
        Ok(None) => {}
        Ok(Some(loaded)) => {
            let restored: u64 =
                flows.chunks(RESTORE).map(|chunk| worker.restore_flows(chunk.to_vec()).unwrap_or(0)).sum();
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
