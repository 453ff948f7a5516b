//! A switch that is absent, silent, foreign or broken: exit code 3 and a line that says what to do.
//!
//! A real switch does none of this on request, so a few canned bytes on a unix socket play it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use espalier_api::VERSION;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{ESPALIER, Run, run};

/// A socket that gives every connection the same bytes, whatever it is asked.
struct Canned {
    folder: TempDir,
}

impl Canned {
    fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let bytes = bytes.into();
        // Ends with the process: the listener has no other way to be told.
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&bytes);
                if bytes.is_empty() {
                    // Held open without an answer until the client gives up.
                    let _ = stream.read(&mut [0; 1]);
                }
            }
        });
        Self { folder }
    }

    fn reply(status: &str, body: &str) -> Self {
        Self::new(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    fn status(&self) -> Run {
        status(&self.socket(), &[])
    }
}

fn status(socket: &Path, more: &[&str]) -> Run {
    run(["status", "--socket", socket.to_str().unwrap()].iter().chain(more))
}

/// Exit code 3, one line that names the socket and `wanted`, nothing on standard output.
fn unreachable(run: &Run, socket: &Path, wanted: &str) {
    assert_eq!((run.code, run.stdout.as_str()), (3, ""), "{run:?}");
    assert!(run.stderr.starts_with(&format!("error: {}: ", socket.display())), "{}", run.stderr);
    assert!(run.stderr.contains(wanted), "{wanted}: {}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

#[test]
fn without_a_switch_the_message_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let wanted = format!("start one with `espalier-switch --socket {}`", absent.display());
    unreachable(&status(&absent, &[]), &absent, &wanted);

    // A socket file that nobody listens on any more.
    let stale = folder.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    unreachable(&status(&stale, &[]), &stale, "Connection refused");

    for command in [&["pods"][..], &["flows"], &["groups"], &["rules", "a/b"], &["explain", "--queries", "-"]]
    {
        let run = run(command.iter().chain(&["--socket", absent.to_str().unwrap()]));
        unreachable(&run, &absent, "no switch answers");
    }
}

#[test]
fn the_socket_can_be_named_by_the_environment() {
    let run = Command::new(ESPALIER).arg("status").env("ESPALIER_SOCKET", "/nonexistent/s").output().unwrap();
    unreachable(&run.into(), Path::new("/nonexistent/s"), "no switch answers");
}

#[test]
fn a_socket_that_is_not_ours_says_what_is_needed() {
    let canned = Canned::reply("200 OK", "{}");
    let folder = canned.folder.path();
    let program = folder.join("espalier");
    fs::copy(ESPALIER, &program).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(canned.socket(), fs::Permissions::from_mode(0o660)).unwrap();
    let mut command = Command::new(&program);
    // The tests run as root, who is denied nothing.
    let nobody = 65_534;
    let run =
        command.args(["status", "--socket"]).arg(canned.socket()).uid(nobody).gid(nobody).output().unwrap();
    unreachable(
        &run.into(),
        &canned.socket(),
        "permission denied: the socket belongs to uid 0, group root (gid 0)",
    );
}

#[test]
fn another_version_is_refused_by_name() {
    let canned = Canned::reply("200 OK", r#"{"version":"9.9.9","apiVersion":2,"newField":[]}"#);
    let wanted = format!("speaks API version 2, this espalier version {}", VERSION);
    unreachable(&canned.status(), &canned.socket(), &wanted);
}

#[test]
fn something_else_on_the_socket_is_not_taken_for_a_switch() {
    for bytes in ["SSH-2.0-OpenSSH_9.2p1\r\n", "\0\0\0\0\0\0\0\0\r\n\r\n"] {
        let canned = Canned::new(bytes);
        unreachable(&canned.status(), &canned.socket(), "is this the switch's socket?");
    }
    for body in ["<html>It works!</html>", "{}", r#"{"apiVersion":"one"}"#, r#"{"apiVersion":1}"#] {
        let canned = Canned::reply("200 OK", body);
        unreachable(&canned.status(), &canned.socket(), "is this the switch's socket?");
    }
    let endless = Canned::new("HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n{}");
    unreachable(&endless.status(), &endless.socket(), "GET /v1/status");
}

#[test]
fn a_switch_that_hangs_is_given_up_on() {
    let canned = Canned::new("");
    let run = status(&canned.socket(), &["--timeout", "1"]);
    unreachable(&run, &canned.socket(), "no answer to GET /v1/status within 1 s");
    assert!(run.stderr.contains("--timeout"), "{}", run.stderr);
}

#[test]
fn a_failing_switch_is_told_apart_from_a_refusal() {
    let body = r#"{"error":{"field":"trunk.interface","message":"ens6 is gone"}}"#;
    let failing = Canned::reply("500 Internal Server Error", body);
    unreachable(&failing.status(), &failing.socket(), "failed with 500: trunk.interface: ens6 is gone");
    let dead = Canned::reply("502 Bad Gateway", "<html>\n<b>bad</b></html>");
    unreachable(&dead.status(), &dead.socket(), "failed with 502: <html> <b>bad</b></html>");
    let forbidden = Canned::reply("403 Forbidden", body);
    unreachable(&forbidden.status(), &forbidden.socket(), "permission denied");

    let refusing = Canned::reply("400 Bad Request", body);
    let run = refusing.status();
    assert_eq!((run.code, run.stderr.as_str()), (2, "error: trunk.interface: ens6 is gone\n"));
}

#[test]
fn packets_and_frames_that_do_not_add_up_are_pointed_out() {
    let counters = json!({"rx": 1_000_010, "forwarded": 1_000_000, "consumed": 1, "dropped": {"no-rule": 2}, "originated": 3});
    let status = json!({
        "version": "0.1.0", "apiVersion": VERSION, "pid": 1, "uptimeSeconds": 61, "generation": 3, "pods": 0, "groups": 0,
        "rules": 0, "workers": [], "frames": {"free": 1, "fill": 2, "rx": 3, "worker": 4, "tx": 5, "total": 16},
        "counters": counters, "steering": {"trunk-redirected": 5, "trunk-untagged-pass": 0},
        "capabilities": {"kernel": "6.1", "multiBuffer": false, "maxPacket": 3506, "hugepages": false},
        "problems": ["the trunk is in generic mode"],
    });
    let canned = Canned::reply("200 OK", &status.to_string());
    let run = canned.status();
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    for line in [
        "balance          rx 1,000,010 != forwarded 1,000,000 + dropped 2 + consumed 1: OFF BY 7",
        "balance  free 1 + fill 2 + rx 3 + worker 4 + tx 5 != total 16: OFF BY 1",
        "problem     the trunk is in generic mode",
        "trunk-redirected  5",
        "dropped no-rule  2",
    ] {
        assert!(run.stdout.lines().any(|shown| shown == line), "{line}\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("trunk-untagged-pass"), "{}", run.stdout);
}
