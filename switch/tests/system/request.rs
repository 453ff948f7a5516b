//! Requests to the control socket as bytes, so that tests can also send what no client of ours would.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::site::PATIENCE;

/// A reply: the status and the body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Reply {
    /// The field that was refused.
    pub(crate) fn field(&self) -> &str {
        self.body["error"]["field"].as_str().unwrap_or_else(|| panic!("no field: {self:?}"))
    }

    /// Why.
    pub(crate) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_else(|| panic!("no message: {self:?}"))
    }
}

/// `PUT /v1/snapshot`.
pub(crate) fn put_snapshot(socket: &Path, body: &[u8]) -> Reply {
    let head = format!("PUT /v1/snapshot HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n", body.len());
    send(socket, &head, body)
}

/// Sends head and body, and reads the reply to its end.
pub(crate) fn send(socket: &Path, head: &str, body: &[u8]) -> Reply {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    // A switch that has refused the head already may have closed its end.
    let _ = stream.write_all(body);
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    parse(&reply)
}

fn parse(reply: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(reply);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP reply: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, body: serde_json::from_str(body).unwrap_or(Value::Null) }
}
