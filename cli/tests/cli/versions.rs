//! An older `espalier` with a newer switch and the other way round: exit code 3 and which of the two to change.
//!
//! No switch of another version exists here, so a listener that speaks as one would plays it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Run, run};

/// A switch of another version.
struct Other {
    folder: TempDir,
}

/// What it answers to a call: status and body.
type Answers = fn(&str) -> (u16, Value);

impl Other {
    fn start(answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        // Ends with the process: the listener has no other way to be told.
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| serve(stream, answers)));
        Self { folder }
    }

    fn run(&self, words: &str) -> Run {
        let socket = self.folder.path().join("s").display().to_string();
        run(words.split(' ').chain(["--socket", &socket]))
    }

    /// It is told which versions meet, and nothing else is printed.
    fn refuses(&self, words: &str, wanted: &[&str]) {
        let run = self.run(words);
        assert_eq!((run.code, run.stdout.as_str()), (3, ""), "{run:?}");
        for wanted in wanted {
            assert!(run.stderr.contains(wanted), "{wanted}: {}", run.stderr);
        }
    }
}

/// Answers every request of a connection.
fn serve(mut stream: UnixStream, answers: Answers) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    while reader.read_line(&mut first).is_ok_and(|read| read > 0) {
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let call = first.rsplit_once(' ').unwrap().0;
        let (status, body) = answers(call);
        let body = body.to_string();
        let reply = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
        first.clear();
    }
}

fn status(version: &str) -> (u16, Value) {
    (200, json!({"version": version, "apiVersion": espalier_api::VERSION}))
}

fn refusal(status: u16, field: &str, message: &str) -> (u16, Value) {
    (status, json!({"error": {"field": field, "message": message}}))
}

fn older(call: &str) -> (u16, Value) {
    match call {
        "GET /v1/status" => status("0.0.9"),
        "POST /v1/flows" => refusal(400, "filter.rule", "unknown field `rule`, expected `pod`"),
        "PUT /v1/snapshot" => (405, Value::Null),
        _ => refusal(404, "", "no such resource"),
    }
}

fn newer(call: &str) -> (u16, Value) {
    match call {
        "GET /v1/status" => status("9.0.0"),
        _ => (200, json!([{"name": "shop/web-0", "state": {"state": "hibernating"}}])),
    }
}

#[test]
fn an_older_switch_does_not_know_a_newer_call() {
    let other = Other::start(older);
    other.refuses("pods", &["this switch (version 0.0.9) does not know GET /v1/pods", "upgrade the switch"]);
    let own = format!("({})", env!("CARGO_PKG_VERSION"));
    other.refuses("groups", &["GET /v1/groups", &own]);
    other.refuses(
        "flows",
        &["the switch is version 0.0.9", "unknown field `rule`", "that came with the switch"],
    );
    let snapshot = crate::support::data("node.yaml").display().to_string();
    other.refuses(&format!("apply {snapshot}"), &["does not know PUT /v1/snapshot"]);
}

#[test]
fn a_newer_switch_says_what_an_older_espalier_does_not_know() {
    let other = Other::start(newer);
    other.refuses(
        "pods",
        &["the switch is version 9.0.0", "hibernating", "use the espalier that came with the switch"],
    );
    // Its status has not what this one needs.
    other.refuses("status", &["the switch is version 9.0.0"]);
}
