//! Two namespaces on a veth, and `pktgen` run with their names filled in.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use espalier_lab::netns::{NetNs, unique_name};
use serde_json::Value;

/// More than anything takes on a loaded machine; reached only by a failing test.
const DEADLINE: Duration = Duration::from_secs(60);

/// `red` and `blue`, whose `eth0` are two ends of one veth.
pub(crate) struct Site {
    pub(crate) red: NetNs,
    pub(crate) blue: NetNs,
}

/// What a run of `pktgen --json` said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) json: Value,
    pub(crate) error: String,
}

impl Site {
    pub(crate) fn new(mtu: u32) -> Self {
        Self::with_queues(mtu, 1)
    }

    pub(crate) fn with_queues(mtu: u32, queues: u32) -> Self {
        let site = Self {
            red: NetNs::create(unique_name("pktgen-red")).unwrap(),
            blue: NetNs::create(unique_name("pktgen-blue")).unwrap(),
        };
        for namespace in [&site.red, &site.blue] {
            // Neighbour discovery would add frames of its own to exact counts.
            for scope in ["all", "default"] {
                namespace.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
            }
        }
        let end = format!("name eth0 numtxqueues {queues} numrxqueues {queues}");
        site.red.ip(&format!("link add {end} type veth peer {end} netns {}", site.blue.name())).unwrap();
        for namespace in [&site.red, &site.blue] {
            namespace.ip(&format!("link set eth0 mtu {mtu} up")).unwrap();
        }
        site
    }

    /// The command with `RED` and `BLUE` replaced by the two ends.
    pub(crate) fn command(&self, line: &str) -> Command {
        let [red, blue] = [&self.red, &self.blue].map(|namespace| format!("{}:eth0", namespace.name()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
        command.args(line.split_whitespace().map(|word| word.replace("RED", &red).replace("BLUE", &blue)));
        command.arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Said {
        Said::of(&self.command(line).output().unwrap())
    }

    /// The command with a file as its last argument.
    pub(crate) fn run_with(&self, line: &str, file: &Path) -> Said {
        Said::of(&self.command(line).arg("--pcap").arg(file).output().unwrap())
    }

    /// Starts a command that takes frames in at `blue`, and waits until it does.
    pub(crate) fn start_at_blue(&self, line: &str) -> Running {
        let running = Running(Some(self.command(line).spawn().unwrap()));
        until("the intake to be attached", || has_program(&self.blue));
        running
    }

    /// No program is attached to either end any more.
    pub(crate) fn assert_clean(&self) {
        assert!(self.is_clean(), "a program was left behind");
    }

    pub(crate) fn is_clean(&self) -> bool {
        !has_program(&self.red) && !has_program(&self.blue)
    }
}

/// A `pktgen` that runs; killed if the test fails first.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn interrupt(&self) {
        let child = self.0.as_ref().unwrap();
        let id = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    }

    pub(crate) fn finish(mut self) -> Said {
        let mut child = self.0.take().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > DEADLINE {
                child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(5));
        }
        Said::of(&child.wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            json: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The number at a JSON pointer.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        let value = self.json.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number at {pointer} in {}; {}", self.json, self.error))
    }

    pub(crate) fn float(&self, pointer: &str) -> f64 {
        let value = self.json.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number at {pointer} in {}; {}", self.json, self.error))
    }

    /// Frames, unique, lost, duplicates, reordered and late of one account.
    pub(crate) fn account(&self, pointer: &str) -> [u64; 6] {
        ["frames", "unique", "lost", "duplicates", "reordered", "late"]
            .map(|name| self.number(&format!("{pointer}/{name}")))
    }

    /// All of `count` frames came once and in order, nothing else came, and nothing was dropped.
    pub(crate) fn assert_all_came(&self, count: u64) {
        assert_eq!(self.code, 0, "{} {}", self.json, self.error);
        assert_eq!(self.number("/sent/frames"), count);
        assert_eq!(self.account("/received"), [count, count, 0, 0, 0, 0]);
        assert_eq!(self.number("/received/bytes"), self.number("/sent/bytes"));
        assert_eq!(
            ["foreign", "corrupt", "bad_header"].map(|n| self.number(&format!("/others/{n}"))),
            [0; 3]
        );
    }
}

/// Waits for a condition, in vain only when the test fails.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn has_program(namespace: &NetNs) -> bool {
    namespace.ip_show("-details link show eth0").unwrap().contains("prog/xdp")
}
