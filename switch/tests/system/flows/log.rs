//! Flow logs of real traffic: what they say is what the switch counted, byte for byte, whatever happens to the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use super::{FAR6, IN, at, list, scenario};
use crate::site::{FAR, PATIENCE, POD_A, Site, wait_for};
use crate::traffic::{connection, converses, transfer, udp, udp_echo};

/// Everything a record can say, in an order of our own.
const FIELDS: [&str; 19] = [
    "version",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
    "flow-direction",
    "tcp-flags",
    "espalier-pod",
    "espalier-rule",
    "espalier-group",
    "espalier-reason",
];

fn format() -> String {
    FIELDS.map(|field| format!("${{{field}}}")).join(" ")
}

type Record = BTreeMap<String, String>;

/// The records of a file and of those put aside.
fn records(path: &Path) -> Vec<Record> {
    let mut texts = vec![fs::read_to_string(path).unwrap_or_default()];
    texts.extend((1..).map_while(|number| fs::read_to_string(format!("{}.{number}", path.display())).ok()));
    texts.iter().flat_map(|text| parse(text)).collect()
}

fn parse(text: &str) -> Vec<Record> {
    let mut lines = text.lines();
    let Some(head) = lines.next() else { return Vec::new() };
    let names: Vec<_> = head.split(' ').collect();
    let record = |line: &str| {
        let values: Vec<_> = line.split(' ').collect();
        assert_eq!(values.len(), names.len(), "{line:?}");
        names
            .iter()
            .map(|name| (*name).to_owned())
            .zip(values.iter().map(|value| (*value).to_owned()))
            .collect()
    };
    lines.map(record).collect()
}

fn number(record: &Record, field: &str) -> u64 {
    record[field].parse().unwrap_or_else(|_| panic!("{field}: {record:?}"))
}

/// Packets and bytes of the records that fit.
fn sum(records: &[Record], fits: impl Fn(&Record) -> bool) -> (u64, u64) {
    let fitting = records.iter().filter(|record| record["log-status"] == "OK" && fits(record));
    fitting.fold((0, 0), |(packets, bytes), record| {
        (packets + number(record, "packets"), bytes + number(record, "bytes"))
    })
}

/// A site that logs to a file in this folder.
fn site(folder: &Path, rules: &[&str], flags: &[&str]) -> (Site, PathBuf) {
    let path = folder.join("flows.log");
    let mut all = vec!["--flow-log", path.to_str().unwrap(), "--flow-log-interval", "1"];
    all.extend(flags);
    let site = Site::idle(scenario(rules), None, &all);
    let warnings = site.control().apply(&site.snapshot).unwrap().warnings;
    // That of a full disk may have been found out by then.
    assert!(warnings.iter().all(|warning| warning.starts_with("flow log /dev/full: ")), "{warnings:?}");
    (site, path)
}

/// Ends the switch as an operator does: what is left is written.
fn end(site: &mut Site) {
    assert!(site.end(Signal::TERM).success());
}

/// TCP and UDP, in and out, in both families; port 8701 of the far host is not allowed.
const RULES: [&str; 3] = [
    "IsEgress: true, IpProtocol: tcp, FromPort: 8700, ToPort: 8700",
    "IsEgress: true, IpProtocol: udp, FromPort: 8700, ToPort: 8700",
    IN,
];

#[test]
fn records_say_what_flows_and_drops_were_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut site, path) = site(folder.path(), &RULES, &["--flow-log-format", &format()]);
    let (pod, far) = (site.namespace("t/a").unwrap(), site.namespace("far").unwrap());
    for (local, remote) in [("0.0.0.0:8600", FAR), ("[::]:8600", FAR6)] {
        let _echo = udp_echo(far, &at(remote, 8700));
        let socket = udp(pod, local, PATIENCE);
        for length in [10, 500, 1400] {
            socket.send_to(&vec![7; length], at(remote, 8700)).unwrap();
            assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), length);
        }
        for _ in 0..7 {
            socket.send_to(b"denied", at(remote, 8701)).unwrap();
        }
        let (near, other) = connection(pod, far, &at(remote, 8700)).unwrap();
        transfer(near, other, 1 << 20);
    }
    let (mut near, mut other) = connection(far, pod, &at(POD_A, 8702)).unwrap();
    assert!(converses(&mut near, &mut other));
    drop((near, other));
    site.assert_balanced();
    let mut counted = BTreeMap::new();
    for flow in list(&site, &json!({})) {
        let key = |direction: &str| {
            let local = (flow.local.to_string(), flow.local_port.unwrap_or_default());
            let remote = (flow.remote.to_string(), flow.remote_port.unwrap_or_default());
            let (from, to) = if direction == "egress" { (local, remote) } else { (remote, local) };
            let rule = flow.rule.as_ref().unwrap().to_string();
            (flow.pod.name().to_owned(), direction.to_owned(), from, to, flow.protocol.0, rule)
        };
        counted.insert(key("egress"), (flow.egress_packets, flow.egress_bytes));
        counted.insert(key("ingress"), (flow.ingress_packets, flow.ingress_bytes));
    }
    assert_eq!(counted.len(), 10, "{counted:?}");
    let dropped = site.pod("t/a").counters.egress_dropped["denied-egress"];
    end(&mut site);
    let records = records(&path);
    let mut said: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for record in records.iter().filter(|record| record["action"] == "ACCEPT") {
        let end = |address: &str, port: &str| (record[address].clone(), number(record, port) as u16);
        let key = (
            record["espalier-pod"].clone(),
            record["flow-direction"].clone(),
            end("srcaddr", "srcport"),
            end("dstaddr", "dstport"),
            number(record, "protocol") as u8,
            record["espalier-rule"].clone(),
        );
        let sum = said.entry(key).or_default();
        sum.0 += number(record, "packets");
        sum.1 += number(record, "bytes");
        assert!(number(record, "start") <= number(record, "end"), "{record:?}");
    }
    assert_eq!(said, counted);
    let rejected = |record: &Record| record["action"] == "REJECT";
    assert_eq!(sum(&records, rejected).0, dropped);
    // 6 bytes of data, 8 of UDP, 20 or 40 of IP, 18 of Ethernet with the branch's tag.
    let denied = |record: &Record| rejected(record) && record["dstport"] == "8701";
    assert_eq!(sum(&records, denied), (14, 7 * 52 + 7 * 72));
    assert!(
        records
            .iter()
            .filter(|record| denied(record))
            .all(|record| record["espalier-reason"] == "denied-egress")
    );
    assert!(records.iter().all(|record| record["log-status"] != "SKIPDATA"));
    assert!(records.iter().any(|record| record["log-status"] == "NODATA" && record["espalier-pod"] == "b"));
    assert_flags(&records);
}

/// SYN of who opened, SYN-ACK of who answered, and a FIN each.
fn assert_flags(records: &[Record]) {
    for (direction, from_port, flags) in [("egress", "dstport", 2 | 1), ("ingress", "srcport", 18 | 1)] {
        let seen = records
            .iter()
            .filter(|record| {
                record["protocol"] == "6"
                    && record[from_port] == "8700"
                    && record["flow-direction"] == direction
            })
            .fold(0, |flags, record| flags | number(record, "tcp-flags"));
        assert_eq!(seen, flags, "{direction}");
    }
}

#[test]
fn a_disk_that_is_full_is_a_problem_and_slows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--flow-log", "/dev/full", "--flow-log-records", "6"];
    let (site, _) = site(folder.path(), &RULES, &flags);
    let (pod, far) = (site.namespace("t/a").unwrap(), site.namespace("far").unwrap());
    let _echo = udp_echo(far, &at(FAR, 8700));
    let socket = udp(pod, "0.0.0.0:0", PATIENCE);
    let full = wait_for(|| {
        socket.send_to(b"?", at(FAR, 8700)).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1, "traffic goes on");
        let log = site.status().flow_log.unwrap();
        log.records_lost > 0 && log.errors > 0
    });
    let status = site.status();
    assert!(full, "{status:?}");
    let log = status.flow_log.unwrap();
    assert_eq!((log.file.as_str(), log.records), ("/dev/full", 0));
    assert!(log.waiting <= 6 + 2, "{log:?}");
    let said =
        |problem: &String| problem.starts_with("flow log /dev/full: ") && problem.contains("No space left");
    assert!(status.problems.iter().any(said), "{:?}", status.problems);
}

#[test]
fn records_that_are_missing_are_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--flow-log-format", &format(), "--flow-log-records", "8"];
    let (mut site, path) = site(folder.path(), &RULES, &flags);
    let pod = site.namespace("t/a").unwrap();
    for _ in 0..64 {
        udp(pod, "0.0.0.0:0", PATIENCE).send_to(b"denied", at(FAR, 8701)).unwrap();
    }
    let dropped =
        || site.pod("t/a").counters.egress_dropped.get("denied-egress").copied().unwrap_or_default();
    assert!(wait_for(|| dropped() >= 64), "{}", dropped());
    let skipped = || {
        let of_a = |record: &Record| record["espalier-pod"] == "a" && record["log-status"] == "SKIPDATA";
        records(&path).iter().any(of_a)
    };
    assert!(wait_for(skipped), "{:?}", records(&path));
    let said = || sum(&records(&path), |record| record["action"] == "REJECT").0;
    let lost = || site.status().flow_log.unwrap().facts_lost;
    // The last of them may still be on their way to the log, or wait in it.
    assert!(wait_for(|| said() + lost() >= 64), "{} said, {} lost", said(), lost());
    let counted = dropped();
    end(&mut site);
    assert!(said() < counted, "{} of {counted} said", said());
}

#[test]
fn a_parser_of_awss_own_format_reads_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (mut site, path) = site(folder.path(), &RULES, &["--flow-log-account-id", "123456789012"]);
    let (pod, far) = (site.namespace("t/a").unwrap(), site.namespace("far").unwrap());
    let _echo = udp_echo(far, &at(FAR, 8700));
    let socket = udp(pod, "0.0.0.0:8600", PATIENCE);
    for _ in 0..5 {
        socket.send_to(b"12345", at(FAR, 8700)).unwrap();
        socket.recv(&mut [0; 8]).unwrap();
    }
    udp(pod, "0.0.0.0:0", PATIENCE).send_to(b"denied", at(FAR, 8701)).unwrap();
    site.assert_balanced();
    end(&mut site);
    let read = flowlogs_reader(&path);
    let of = |action: &str, port: u64| -> u64 {
        let fits = |record: &&serde_json::Value| record["action"] == action && record["dstport"] == port;
        read.iter().filter(fits).map(|record| record["packets"].as_u64().unwrap()).sum()
    };
    assert_eq!((of("ACCEPT", 8700), of("ACCEPT", 8600), of("REJECT", 8701)), (5, 5, 1), "{read:?}");
    assert!(read.iter().all(|record| record["version"] == 2 && record["account_id"] == "123456789012"));
    assert!(read.iter().any(|record| record["log_status"] == "NODATA"));
}

/// The file as PyPI's flowlogs-reader understands a version 2 file.
fn flowlogs_reader(path: &Path) -> Vec<serde_json::Value> {
    const SCRIPT: &str = "
import json, sys
from flowlogs_reader import FlowRecord
lines = open(sys.argv[1]).read().splitlines()
fields = [name.replace('-', '_') for name in lines[0].split()]
for line in lines[1:]:
    record = FlowRecord.from_cwl_event({'message': line}, fields)
    print(json.dumps({key: value for key, value in record.to_dict().items()}, default=str))
";
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    let python = cache.join("espalier/flowlogs-reader-5.0.1/bin/python");
    let output = Command::new(&python).args(["-c", SCRIPT]).arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}: run `ci/setup test`", python.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
