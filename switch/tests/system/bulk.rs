//! Much data over kernel TCP, between a pod and a host and between pods: every byte right, every frame given back.
//!
//! At the Internet's and at the VPC's MTU, with checksums left to the switch and with checksums made by the pod.

use std::fs;
use std::process::{Command, Stdio};

use espalier_lab::Scenario;
use espalier_lab::netns::NetNs;
use serde_json::Value;

use crate::site::{FAR, OPEN, POD_A, POD_B, Site, is_at_rest, wait_for};
use crate::traffic::{connection, transfer};

const TRANSFER: usize = 200_000_000;
const JUMBO: u32 = 9001;

/// Who finishes the checksums of what a pod sends.
#[derive(Clone, Copy, PartialEq)]
enum Checksums {
    BySwitch,
    ByPod,
}

#[test]
fn usual_frames_whose_checksums_the_switch_completes() {
    carries_much(1500, Checksums::BySwitch);
}

#[test]
fn usual_frames_with_the_pods_offload_off() {
    carries_much(1500, Checksums::ByPod);
}

#[test]
fn jumbo_frames_whose_checksums_the_switch_completes() {
    carries_much(JUMBO, Checksums::BySwitch);
}

#[test]
fn jumbo_frames_with_the_pods_offload_off() {
    carries_much(JUMBO, Checksums::ByPod);
}

fn carries_much(mtu: u32, checksums: Checksums) {
    let flags: &[&str] =
        if checksums == Checksums::ByPod { &["--pod-tuning", "no-tx-checksum"] } else { &[] };
    let mut site = Site::idle(Scenario::parse(OPEN).unwrap(), Some(mtu), flags);
    site.name_by_namespace();
    site.apply_snapshot();
    let (a, b) = (site.namespace("t/a").unwrap(), site.namespace("t/b").unwrap());
    let far = site.namespace("far").unwrap();
    for pod in [a, b] {
        assert_eq!(offloads_checksums(pod), checksums == Checksums::BySwitch);
    }
    largest_packets_cross(a, mtu);
    let before = site.assert_balanced();

    for (from, to, address) in [(a, far, FAR), (a, b, POD_B), (far, a, POD_A)] {
        measured(from, to, address, &[]);
        measured(from, to, address, &["--reverse"]);
        let (near, accepted) = connection(from, to, &format!("{address}:8080")).unwrap();
        transfer(near, accepted, TRANSFER);
    }

    let after = site.assert_balanced();
    // Ports that were busy may keep more to receive into than before; nothing else may.
    let returned = wait_for(|| is_at_rest(&site.status().frames));
    assert!(returned, "frames before {:?}, after {:?}", before.frames, site.status().frames);
    assert_eq!(after.problems, Vec::<String>::new());
    for namespace in [a, b, far] {
        assert_eq!(bad_checksums(namespace), 0, "in {}", namespace.name());
    }
}

fn offloads_checksums(pod: &NetNs) -> bool {
    let output = pod.output(Command::new("ethtool").args(["-k", "eth0"])).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("tx-checksumming:")).unwrap();
    line.ends_with("on")
}

/// Unfragmented packets of the whole MTU, there and back.
fn largest_packets_cross(pod: &NetNs, mtu: u32) {
    for (address, headers) in [(FAR, 28), (POD_B, 28), ("2001:db8:1:2::20", 48), ("2001:db8:1:1::11", 48)] {
        let size = (mtu - headers).to_string();
        let mut ping = Command::new("ping");
        ping.args(["-c", "3", "-W", "20", "-i", "0.2", "-M", "do", "-s", &size, address]);
        let output = pod.output(&mut ping).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(" 3 received"), "{address} at {mtu}: {text}");
    }
}

/// One second of iperf3; what arrived is more than nothing.
fn measured(from: &NetNs, to: &NetNs, address: &str, flags: &[&str]) {
    let mut command = Command::new("iperf3");
    command.args(["-s", "-B", address]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = to.spawn(&mut command).unwrap();
    let mut report = Value::Null;
    let ran = wait_for(|| {
        let mut client = Command::new("iperf3");
        client.args(["-c", address, "-t", "1", "-J", "--connect-timeout", "5000"]).args(flags);
        report = serde_json::from_slice(&from.output(&mut client).unwrap().stdout).unwrap_or_default();
        // Its exit code is 0 also where the server was not there yet.
        report["error"].is_null()
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or_default();
    assert!(ran && received > 1_000_000, "iperf3 {flags:?} to {address}: {received} bytes arrived: {report}");
}

/// Segments and datagrams that the namespace refused for their checksum (`InCsumErrors`, RFC 1213 MIB of Linux).
fn bad_checksums(namespace: &NetNs) -> u64 {
    let snmp = namespace.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    ["Tcp:", "Udp:", "Icmp:"].iter().map(|protocol| mib(&snmp, protocol, "InCsumErrors")).sum()
}

/// A value of a table whose first line has the names.
fn mib(text: &str, protocol: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol)).map(str::split_whitespace);
    let (mut names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.position(|each| each == name).unwrap();
    values.nth(place).unwrap().parse().unwrap()
}
