//! A reply that goes on: events of `POST /v1/watch`, one a line, until somebody has seen enough.

use std::time::Duration;

use espalier_api::watch::{WatchEvent, WatchRequest};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::Client;
use crate::error::CliError;

/// Longer than this no time is given.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Client {
    /// Shows every event to `each` until that returns `false`, `duration` is over, or somebody interrupts.
    pub(crate) fn watch(
        mut self,
        request: &WatchRequest,
        duration: Option<Duration>,
        mut each: impl FnMut(WatchEvent) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        const NAME: &str = "POST /v1/watch";
        let body = self.encode("/v1/watch", request)?;
        let request = self.request(Method::POST, "/v1/watch", body)?;
        let mut reply = self.begin(NAME, request)?;
        let deadline = Instant::now() + duration.unwrap_or(FOR_EVER);
        let mut unfinished: Vec<u8> = Vec::new();
        let signals = self.runtime.block_on(async { Interrupts::new() });
        let mut signals = signals.map_err(|error| self.broken(NAME, &error))?;
        loop {
            let next = self.runtime.block_on(async {
                tokio::select! {
                    chunk = chunk(&mut reply) => Next::Chunk(chunk),
                    () = tokio::time::sleep_until(deadline) => Next::End,
                    () = signals.come() => Next::End,
                }
            });
            let bytes = match next {
                Next::End => return Ok(()),
                Next::Chunk(Ok(Some(bytes))) => bytes,
                Next::Chunk(Ok(None)) => {
                    let gone = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Err(self.broken(NAME, &gone).into());
                }
                Next::Chunk(Err(error)) => return Err(self.broken(NAME, &error).into()),
            };
            unfinished.extend_from_slice(&bytes);
            let whole = unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            for line in unfinished[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                if !each(self.parse(NAME, line)?)? {
                    return Ok(());
                }
            }
            unfinished.drain(..whole);
        }
    }
}

enum Next {
    Chunk(hyper::Result<Option<Bytes>>),
    End,
}

/// The next piece of the body; nothing at its end.
async fn chunk(body: &mut Incoming) -> hyper::Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// SIGINT and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
