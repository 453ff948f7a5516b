//! A station that takes frames in on a thread of its own, in the namespace of its endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use espalier_xsk::InterfaceRef;

use crate::args::CommonArgs;
use crate::endpoint::{Endpoint, pin};
use crate::error::PktgenError;
use crate::received::Shared;
use crate::report::Dropped;
use crate::station::{Role, Station};

/// The thread and what it shares. The thread ends, and its station closes, when this is dropped.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    interface: InterfaceRef,
    thread: Option<JoinHandle<Result<Dropped, PktgenError>>>,
}

impl Receiver {
    /// Opens the station and begins. Frames that arrive from when this returns on are counted.
    pub fn start(endpoint: &Endpoint, common: &CommonArgs, core: Option<usize>) -> Result<Self, PktgenError> {
        let (shared, stop) = (Arc::new(Shared::default()), Arc::new(AtomicBool::new(false)));
        let (ready, opened) = channel();
        let work = {
            let (endpoint, common, shared, stop) =
                (endpoint.clone(), common.clone(), Arc::clone(&shared), Arc::clone(&stop));
            move || work(&endpoint, &common, core, &shared, &stop, &ready)
        };
        let thread = Builder::new()
            .name("receiver".to_owned())
            .spawn(work)
            .map_err(PktgenError::system("start the receiving thread"))?;
        match opened.recv() {
            Ok(interface) => Ok(Self { shared, stop, interface, thread: Some(thread) }),
            // The thread ended before it was ready, and says why.
            Err(_) => Err(join(thread).err().unwrap_or_else(ended)),
        }
    }

    /// The account.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &InterfaceRef {
        &self.interface
    }

    /// Whether the thread has ended by itself, which it does only when something is wrong.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Takes in what is there, closes the station and says what it dropped.
    pub fn finish(mut self) -> Result<Dropped, PktgenError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or_else(|| Err(ended()), join)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever drops a receiver instead of finishing it has an error of his own to report.
            let _ = thread.join();
        }
    }
}

/// What a station's kernel side dropped.
#[must_use]
pub fn dropped(station: &Station) -> Dropped {
    let counts = station.statistics();
    Dropped { ring_full: counts.rx_ring_full, no_frame: counts.rx_dropped }
}

fn work(
    endpoint: &Endpoint,
    common: &CommonArgs,
    core: Option<usize>,
    shared: &Shared,
    stop: &AtomicBool,
    ready: &Sender<InterfaceRef>,
) -> Result<Dropped, PktgenError> {
    pin(core)?;
    endpoint.enter()?;
    let mut station = Station::open(endpoint, Role::Receive, common.xdp)?;
    // Nobody waits any more only when the starting thread is gone.
    let _ = ready.send(station.interface().clone());
    let outcome = shared.run(&mut station, stop, common.busy_poll);
    outcome.map(|()| dropped(&station))
}

fn join(thread: JoinHandle<Result<Dropped, PktgenError>>) -> Result<Dropped, PktgenError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ended() -> PktgenError {
    PktgenError::System {
        action: "receive",
        source: std::io::Error::other("the receiving thread ended before it was ready"),
    }
}
