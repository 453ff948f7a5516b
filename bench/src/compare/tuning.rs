//! `compare tuning`: what each knob of the switch's `--pod-tuning` buys in TCP throughput, alone and with the others.
//!
//! Called by main.rs. One lab for each MTU; each round starts the real switch once for each setting, another one first each
//! time, its one worker on one core and everything else (the pods, the VPC, iperf3) on another. Everything made is gone at
//! the end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use espalier_api::Snapshot;
use espalier_lab::netns::NetNs;
use espalier_lab::{Lab, Options, Scenario, end_child};
use serde_json::Value;

use super::datapath::{cpu, tell};
use crate::measure::Quartiles;
use crate::program::{LAB_VPC, SWITCH};
use crate::report::Report;

/// Core of the pods and of the VPC.
const LOAD_CORE: &str = "0";
/// Core of the worker.
const WORKER_CORE: &str = "1";
/// Seconds of a transfer.
const SECONDS: &str = "2";
/// How long a transfer's other end may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// MTU of Ethernet, and of a VPC.
const MTUS: [u32; 2] = [1500, 9001];
/// Without any tuning.
const OFF: &str = "off";
/// The settings, as `--pod-tuning` has them.
const SETTINGS: [&str; 8] = [
    OFF,
    "gro",
    "gro,threaded-napi",
    "qdisc",
    "no-tx-checksum",
    "qdisc,no-tx-checksum",
    "gro,qdisc",
    "gro,threaded-napi,qdisc,no-tx-checksum",
];
/// What is transferred: name, from, to, address of the receiver.
const WAYS: [(&str, &str, &str, &str); 3] = [
    ("pod-to-trunk", "t/a", "far", "10.0.2.20"),
    ("trunk-to-pod", "far", "t/a", "10.0.1.10"),
    ("pod-to-pod", "t/a", "t/b", "10.0.1.11"),
];

const SITE: &str = "
name: tuning
vpc: {cidrs: [10.0.0.0/16]}
subnets:
  - {name: nodes, cidrs: [10.0.0.0/24]}
  - {name: pods, cidrs: [10.0.1.0/24]}
  - {name: data, cidrs: [10.0.2.0/24]}
node: {subnet: nodes, addresses: [10.0.0.10]}
hosts:
  - {name: far, subnet: data, addresses: [10.0.2.20]}
pods:
  - {name: t/a, subnet: pods, addresses: [10.0.1.10], securityGroups: [sg-open]}
  - {name: t/b, subnet: pods, addresses: [10.0.1.11], securityGroups: [sg-open]}
securityGroups:
  - groupId: sg-open
    rules:
      - {SecurityGroupRuleId: sgr-out, IsEgress: true, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}
      - {SecurityGroupRuleId: sgr-in, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}
";

/// Samples by case and setting; the unit goes with the case.
type Samples = BTreeMap<(String, &'static str), (&'static str, Vec<f64>)>;

/// Runs everything.
pub fn run(rounds: usize) -> Result<Report> {
    let cores = thread::available_parallelism()?.get();
    ensure!(cores > 1, "this takes two cores, one for the pods and one for the worker; {cores} is here");
    let switch = SWITCH.build()?;
    LAB_VPC.build()?;
    let mut samples = Samples::new();
    for mtu in MTUS {
        measure(&switch, mtu, rounds, &mut samples)?;
    }
    let mut report = Report::new();
    for ((case, setting), (unit, values)) in samples {
        report.row(&case, setting, unit, Quartiles::of(values));
    }
    Ok(report)
}

/// All settings in turns, in one lab.
fn measure(switch: &PathBuf, mtu: u32, rounds: usize, samples: &mut Samples) -> Result<()> {
    let scenario = Scenario::parse(SITE)?;
    let snapshot = scenario.snapshot()?;
    let name = format!("bt{}", std::process::id()).parse().map_err(anyhow::Error::msg)?;
    let mut lab = Lab::network(&Options { name, mtu: Some(mtu), ..Options::default() }, scenario)?;
    let snapshot = named(snapshot, &lab)?;
    for round in 0..rounds {
        for number in 0..SETTINGS.len() {
            let setting = SETTINGS[(number + round) % SETTINGS.len()];
            tell(&format!("MTU {mtu}, round {} of {rounds}: {setting}", round + 1));
            start(&mut lab, switch, &snapshot, setting)?;
            for (way, from, to, address) in WAYS {
                let moved = transfer(lab.namespace(from)?, lab.namespace(to)?, address)?;
                for (what, unit, value) in moved.told() {
                    let entry = samples.entry((format!("tuning/{way}/{mtu}{what}"), setting));
                    entry.or_insert((unit, Vec::new())).1.push(value);
                }
            }
            end_child(lab.switch_process().context("the switch runs")?);
        }
    }
    lab.remove()?;
    Ok(())
}

/// The snapshot with the pods' namespaces, which tuning needs, and the pods' veths as a runtime makes them: without the
/// lab's queue.
fn named(mut snapshot: Snapshot, lab: &Lab) -> Result<Snapshot> {
    for pod in &mut snapshot.pods {
        let namespace = lab.namespace(pod.name.as_str())?;
        namespace.tc("qdisc del dev eth0 root")?;
        (pod.veth, pod.netns) = (None, Some(namespace.path()));
    }
    Ok(snapshot)
}

/// Starts a switch with this setting, and has it enforce the snapshot.
fn start(lab: &mut Lab, program: &PathBuf, snapshot: &Snapshot, setting: &str) -> Result<()> {
    let flags = ["--workers", "1", "--cores", WORKER_CORE, "--flow-state", "none", "--pod-tuning", setting];
    lab.start_switch(program, &flags.map(OsString::from), "warn")?;
    let applied = lab.control().apply(snapshot)?;
    ensure!(applied.warnings.is_empty(), "the switch warns: {:?}", applied.warnings);
    Ok(())
}

/// A transfer.
struct Moved {
    bytes: f64,
    seconds: f64,
    retransmitted: f64,
    /// Nanoseconds of all cores.
    busy: f64,
}

impl Moved {
    /// What is told of it: suffix of the case, unit, value.
    fn told(&self) -> [(&'static str, &'static str, f64); 3] {
        [
            ("", "Mbit/s", self.bytes * 8.0 / self.seconds / 1e6),
            ("/cpu", "ns/KiB", self.busy / (self.bytes / 1024.0)),
            ("/retransmitted", "1/GiB", self.retransmitted / (self.bytes / f64::from(1 << 30))),
        ]
    }
}

/// One TCP stream of iperf3.
fn transfer(from: &NetNs, to: &NetNs, address: &str) -> Result<Moved> {
    let mut listen = iperf3(&["--server", "--bind", address]);
    let _server = Ended(to.spawn(listen.stdout(Stdio::null()).stderr(Stdio::null()))?);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = cpu::busy()?;
        let output = from.output(&mut iperf3(&["--client", address, "--time", SECONDS, "--json"]))?;
        let busy = cpu::busy()? - before;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let number = |path: &str| told.pointer(path).and_then(Value::as_f64);
        if let (Some(bytes), Some(seconds), Some(retransmitted)) = (
            number("/end/sum_received/bytes").filter(|bytes| *bytes > 0.0),
            number("/end/sum_received/seconds"),
            number("/end/sum_sent/retransmits"),
        ) {
            return Ok(Moved { bytes, seconds, retransmitted, busy });
        }
        if Instant::now() > deadline {
            bail!("iperf3 to {address}: {}", told["error"].as_str().unwrap_or("nothing arrived"));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// iperf3 on the load's core.
fn iperf3(arguments: &[&str]) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", LOAD_CORE, "iperf3"]).args(arguments);
    command
}

/// A child that ends when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        end_child(&mut self.0);
    }
}
