//! A small blocking client of the switch's control socket: one request a connection, JSON both ways.
//!
//! The lab uses it to apply the snapshot and to read counters and explanations; it needs no async runtime.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_api::control::{Applied, ErrorReply, MovePod, Moved, PodStatus, Rebalance, Status};
use espalier_api::{Answer, PodName, Query, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::LabError;

/// Longest wait for a reply; applying a snapshot waits for interfaces and a grace period.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The control socket of a switch.
#[derive(Debug, Clone)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    /// A client of the socket at that path; it need not be there yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// State of the switch.
    pub fn status(&self) -> Result<Status, LabError> {
        self.call("GET", "/v1/status", None::<&()>)
    }

    /// State and counters of the pods.
    pub fn pods(&self) -> Result<Vec<PodStatus>, LabError> {
        self.call("GET", "/v1/pods", None::<&()>)
    }

    /// Enforces a snapshot; returns once every worker does.
    pub fn apply(&self, snapshot: &Snapshot) -> Result<Applied, LabError> {
        self.call("PUT", "/v1/snapshot", Some(snapshot))
    }

    /// Which rule decides, for each query.
    pub fn explain(&self, queries: &[Query]) -> Result<Vec<Answer>, LabError> {
        self.call("POST", "/v1/explain", Some(queries))
    }

    /// Moves a pod to another worker; returns once it lives there.
    pub fn move_pod(&self, pod: &PodName, worker: usize) -> Result<Moved, LabError> {
        let path = format!("/v1/pods/{}/{}/move", pod.namespace(), pod.name());
        self.call("POST", &path, Some(&MovePod { worker }))
    }

    /// Evens out the workers' load, by the packets of the interval that begins now.
    pub fn rebalance(&self, interval: Duration) -> Result<Vec<Moved>, LabError> {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.call("POST", "/v1/pods/rebalance", Some(&Rebalance { interval_ms }))
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&(impl Serialize + ?Sized)>,
    ) -> Result<T, LabError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.failed(error.to_string()))?,
            None => Vec::new(),
        };
        let reply = self.exchange(method, path, &body).map_err(|error| self.failed(error.to_string()))?;
        let (status, body) = split(&reply).ok_or_else(|| self.failed("the reply is not HTTP/1.1".into()))?;
        if status != 200 {
            let refused = serde_json::from_slice::<ErrorReply>(body);
            return Err(match refused {
                Ok(reply) => LabError::Refused { request: format!("{method} {path}"), error: reply.error },
                Err(_) => self.failed(format!("{method} {path}: status {status}")),
            });
        }
        serde_json::from_slice(body).map_err(|error| self.failed(format!("{method} {path}: {error}")))
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: switch\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        stream.flush()?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply)?;
        // The peer has closed already; there is nobody to tell.
        let _ = stream.shutdown(Shutdown::Both);
        Ok(reply)
    }

    fn failed(&self, what: String) -> LabError {
        LabError::Control { socket: self.socket.display().to_string(), what }
    }
}

/// Status code and body of a reply whose end is the end of the connection.
fn split(reply: &[u8]) -> Option<(u16, &[u8])> {
    let end = reply.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&reply[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, &reply[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_split_and_garbage_is_not() {
        let reply = b"HTTP/1.1 422 Unprocessable\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(split(reply), Some((422, &b"{}"[..])));
        for bad in [&b"HTTP/1.1 200"[..], b"SSH-2.0\r\n\r\n", b""] {
            assert_eq!(split(bad), None);
        }
    }

    #[test]
    fn a_missing_socket_is_named() {
        let error = Control::new("/nonexistent/switch.sock").status().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/switch.sock"), "{error}");
    }
}
