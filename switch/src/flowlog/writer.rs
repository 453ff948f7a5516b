//! The thread that writes records down: a bounded queue before it, a file that is put aside when it is full or old.
//!
//! Only this thread meets the disk. What the queue has no room for is refused, and the recorder says so in the log; an
//! error is kept for `espalier status`, and the same bytes are tried again until they are written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::file::LogFile;
use super::settings::FlowLogSettings;

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(1);
/// How often an idle writer looks whether the file is too old.
const LOOK: Duration = Duration::from_secs(1);
/// How long the end of the switch waits for the disk.
const FAREWELL: Duration = Duration::from_secs(2);

/// Some records, as they are to be written.
pub(crate) struct Chunk {
    /// How many.
    pub(crate) records: u64,
    /// Their bytes.
    pub(crate) bytes: Vec<u8>,
}

/// What the writer has done, for status.
#[derive(Default)]
pub(crate) struct Written {
    waiting: AtomicU64,
    records: AtomicU64,
    lost: AtomicU64,
    errors: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl Written {
    /// Records written.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Records that found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Records that wait to be written.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Attempts to write that failed.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Why nothing can be written now, if so.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// The recorder's end.
pub(crate) struct Writer {
    chunks: Sender<Chunk>,
    room: u64,
    written: Arc<Written>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(settings: &FlowLogSettings, file: LogFile) -> std::io::Result<Self> {
        let (chunks, inbox) = unbounded();
        let written = Arc::new(Written::default());
        let shared = Arc::clone(&written);
        let thread = std::thread::Builder::new()
            .name("flow-log".into())
            .spawn(move || write_all(file, &inbox, &shared))?;
        Ok(Self { chunks, room: settings.records.into(), written, thread })
    }

    /// What it has done.
    pub(crate) fn written(&self) -> &Arc<Written> {
        &self.written
    }

    /// Has records written; refuses them if too many wait already. Each of so many `interfaces` may add one that says how it
    /// was.
    pub(crate) fn send(&self, chunk: Chunk, interfaces: usize) -> Result<(), Chunk> {
        let records = chunk.records;
        if self.written.waiting() + records <= self.room + interfaces as u64 {
            self.written.waiting.fetch_add(records, Ordering::Relaxed);
            match self.chunks.send(chunk) {
                Ok(()) => return Ok(()),
                Err(refused) => {
                    self.written.waiting.fetch_sub(records, Ordering::Relaxed);
                    self.written.lost.fetch_add(records, Ordering::Relaxed);
                    return Err(refused.into_inner());
                }
            }
        }
        self.written.lost.fetch_add(records, Ordering::Relaxed);
        Err(chunk)
    }

    /// Waits for what is under way, within reason.
    pub(crate) fn stop(self) {
        let Self { chunks, written, thread, .. } = self;
        drop(chunks);
        let deadline = Instant::now() + FAREWELL;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !thread.is_finished() {
            tracing::warn!(
                records = written.waiting(),
                "the flow log does not take its last records: they are lost"
            );
            return;
        }
        if thread.join().is_err() {
            tracing::warn!("the writer of the flow log had failed");
        }
    }
}

fn write_all(mut file: LogFile, inbox: &Receiver<Chunk>, written: &Written) {
    if let Err(error) = file.try_open() {
        fail(&file, &error, written);
    }
    loop {
        let chunk = match inbox.recv_timeout(LOOK) {
            Ok(chunk) => chunk,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = file.look_at_age() {
                    fail(&file, &error, written);
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while let Err(error) = file.write(&chunk.bytes) {
            fail(&file, &error, written);
            std::thread::sleep(RETRY);
        }
        if written.problem().is_some() {
            tracing::info!(file = %file.name(), "the flow log is written again");
            written.set_problem(None);
        }
        written.records.fetch_add(chunk.records, Ordering::Relaxed);
        written.waiting.fetch_sub(chunk.records, Ordering::Relaxed);
    }
}

fn fail(file: &LogFile, error: &std::io::Error, written: &Written) {
    let problem = format!("flow log {}: {error}: records wait, and are lost when too many do", file.name());
    if written.errors.fetch_add(1, Ordering::Relaxed) == 0 || written.problem().is_none() {
        tracing::warn!("{problem}");
    }
    written.set_problem(Some(problem));
}
