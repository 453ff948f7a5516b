//! Bad input over the real socket: refused with the field named, and what was enforced stays enforced.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use espalier_api::control::Status;
use espalier_lab::Scenario;
use serde_json::{Value, json};

use crate::request::{Reply, put_snapshot, send};
use crate::site::{OPEN, SWITCH, Site};

/// Nobody's user and group on Debian.
const NOBODY: u32 = 65534;

/// A snapshot, what is changed in it, the field that must be named, and a word of the reason.
type Case = (&'static str, fn(&mut Value), &'static str, &'static str);

const CASES: &[Case] = &[
    (
        "unknown group in a pod",
        |s| s["pods"][1]["securityGroups"][0] = json!("sg-nosuch"),
        "pods[1].securityGroups[0]",
        "sg-nosuch",
    ),
    ("duplicate VLAN", |s| s["pods"][1]["vlan"] = s["pods"][0]["vlan"].clone(), "pods[1].vlan", "pods[0]"),
    ("VLAN 0", |s| s["pods"][0]["vlan"] = json!(0), "pods[0].vlan", "1 to 4094"),
    ("VLAN 4095", |s| s["pods"][1]["vlan"] = json!(4095), "pods[1].vlan", "1 to 4094"),
    (
        "two pods with one address",
        |s| s["pods"][1]["addresses"][0] = s["pods"][0]["addresses"][0].clone(),
        "pods[1].addresses[0]",
        "belongs to pod t/a",
    ),
    ("CIDR too long", |s| rule(s)["CidrIpv4"] = json!("10.0.0.0/33"), RULE, "10.0.0.0/33"),
    ("CIDR of letters", |s| rule(s)["CidrIpv4"] = json!("ten/8"), RULE, "ten/8"),
    ("subnet", |s| s["pods"][0]["subnets"][0] = json!("10.0.1.0"), "pods[0].subnets[0]", "10.0.1.0"),
    ("member", |s| s["groupMembers"] = json!({"sg-open": ["10.0.0"]}), "groupMembers.sg-open[0]", "10.0.0"),
    (
        "reversed ports",
        |s| set(rule(s), json!({"IpProtocol": "tcp", "FromPort": 81, "ToPort": 80})),
        RULE,
        "FromPort 81 is above ToPort 80",
    ),
    (
        "ICMP type -1 with code 3",
        |s| set(rule(s), json!({"IpProtocol": "icmp", "FromPort": -1, "ToPort": 3})),
        RULE,
        "3",
    ),
    ("unknown protocol", |s| rule(s)["IpProtocol"] = json!("tpc"), RULE, "tpc"),
    ("unknown field", |s| s["pods"][0]["vleth"] = json!("x"), "pods[0].vleth", "unknown field"),
    (
        "another trunk",
        |s| s["trunk"]["interface"] = json!("nosuch0"),
        "trunk.interface",
        "restart espalier-switch",
    ),
    ("older generation", |s| s["generation"] = json!(4), "generation", "older than 5"),
    (
        "same generation, other contents",
        |s| {
            s["generation"] = json!(5);
            s["securityGroups"][0]["description"] = json!("changed");
        },
        "generation",
        "other contents",
    ),
    ("negative generation", |s| s["generation"] = json!(-1), "generation", "-1"),
];

const RULE: &str = "securityGroups[0].rules[0]";

fn rule(snapshot: &mut Value) -> &mut Value {
    &mut snapshot["securityGroups"][0]["rules"][0]
}

fn set(object: &mut Value, fields: Value) {
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
}

#[test]
fn a_bad_snapshot_is_refused_whole_with_the_field_named() {
    let mut site = Site::idle(Scenario::parse(OPEN).unwrap(), None, &[]);
    let socket = site.control().socket().to_path_buf();
    let mut good = serde_json::to_value(&site.snapshot).unwrap();
    good["trunk"]["interface"] = json!("nosuch0");
    let reply = put(&socket, &good);
    assert_refused("missing trunk", &reply, "trunk.interface", "nosuch0");
    assert_eq!((site.status().generation, site.status().pods), (None, 0));

    site.change(|snapshot| snapshot.generation.0 = 5);
    good = serde_json::to_value(&site.snapshot).unwrap();
    good["generation"] = json!(6);
    let (before, enforced) = (site.assert_balanced(), enforced(&socket));
    for (what, change, field, word) in CASES {
        let mut bad = good.clone();
        change(&mut bad);
        assert_refused(what, &put(&socket, &bad), field, word);
    }
    let whole = serde_json::to_vec(&good).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        let reply = put_snapshot(&socket, &whole[..length]);
        assert_eq!(reply.status, 400, "{length} bytes: {reply:?}");
        assert!(reply.message().contains("EOF"), "{length} bytes: {reply:?}");
    }
    oversized(&socket);

    let after = site.assert_balanced();
    assert_eq!((after.generation, after.pods, after.rules), (before.generation, before.pods, before.rules));
    // A kernel tells the groups it has joined when it likes; nothing else may be lost.
    let lost = |status: &Status| {
        let dropped = status.counters.dropped.iter();
        dropped.filter(|(reason, _)| *reason != "multicast").map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!(lost(&after), lost(&before), "{:?}", after.counters.dropped);
    assert_eq!(enforced, self::enforced(&socket));
    site.snapshot.generation.0 = 6;
    site.apply_snapshot();
}

/// A gigabyte is refused by its length, before it is sent.
fn oversized(socket: &Path) {
    let head = format!("PUT /v1/snapshot HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n", 1u64 << 30);
    let reply = send(socket, &head, b"{");
    assert_eq!(reply.status, 413, "{reply:?}");
    assert!(reply.message().contains("256 MiB"), "{reply:?}");
}

fn put(socket: &Path, snapshot: &Value) -> Reply {
    put_snapshot(socket, &serde_json::to_vec(snapshot).unwrap())
}

#[track_caller]
fn assert_refused(what: &str, reply: &Reply, field: &str, word: &str) {
    assert_eq!(reply.status, 400, "{what}: {reply:?}");
    assert!(reply.field().starts_with(field), "{what}: {reply:?}");
    assert!(reply.message().contains(word), "{what}: {reply:?}");
}

fn enforced(socket: &Path) -> Value {
    let reply = send(socket, "GET /v1/snapshot HTTP/1.1\r\nHost: s\r\n", b"");
    assert_eq!(reply.status, 200);
    reply.body
}

#[test]
fn only_root_and_the_group_of_the_socket_may_use_it() {
    let site = Site::open();
    let socket = site.control().socket();
    let metadata = fs::metadata(socket).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o660, 0, 0));
    assert_eq!(status_as(socket, 0, 0), "200");
    assert_eq!(status_as(socket, NOBODY, NOBODY), "000", "the file's mode keeps others out");
    // Even where the file lets others in, the kernel's word on who they are does not.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(status_as(socket, NOBODY, NOBODY), "403");
    chown(socket, None, Some(NOBODY)).unwrap();
    assert_eq!(status_as(socket, NOBODY, NOBODY), "403");
    assert_eq!(status_as(socket, 0, 0), "200");
}

#[test]
fn a_group_may_be_let_in() {
    let group = NOBODY.to_string();
    let site = Site::idle(Scenario::parse(OPEN).unwrap(), None, &["--socket-group", &group]);
    let socket = site.control().socket();
    let metadata = fs::metadata(socket).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o660, NOBODY));
    assert_eq!(status_as(socket, NOBODY, NOBODY), "200");
    assert_eq!(status_as(socket, NOBODY, 1), "000");
}

/// The HTTP status that a user gets, as curl shows it; `000` where the user cannot even connect.
fn status_as(socket: &Path, user: u32, group: u32) -> String {
    let mut command = Command::new("curl");
    command.args(["-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"]).arg(socket);
    let output = command.arg("http://switch/v1/status").uid(user).gid(group).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn cores_that_no_worker_can_have_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("switch.sock");
    for (flags, wanted) in [
        (&["--cores", "8000"][..], "cores: core 8000 is not one that this process may use"),
        (&["--cores", "0", "--workers", "2"], "cores: 1 for 2 workers: give each its own core"),
    ] {
        let output = Command::new(SWITCH).arg("--socket").arg(&socket).args(flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(wanted), "{said}");
        assert!(!socket.exists(), "a socket that nobody serves stays behind");
    }
}
