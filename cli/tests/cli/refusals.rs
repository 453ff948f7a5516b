//! Snapshots that must be refused: by `apply` before the switch is even asked, and by offline `explain`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{data, run};

/// The snapshot as JSON, to be spoiled.
fn node() -> Value {
    json!({
        "generation": 1,
        "vpc": {"cidrs": ["10.0.0.0/16"]},
        "trunk": {"interface": "ens6"},
        "pods": [pod(1), pod(2)],
        "securityGroups": [{"groupId": "sg-web", "rules": [
            {"SecurityGroupRuleId": "sgr-1", "IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "CidrIpv4": "10.0.0.0/8"}
        ]}],
    })
}

fn pod(number: u8) -> Value {
    json!({
        "name": format!("shop/web-{number}"),
        "eniId": format!("eni-{number}"),
        "vlan": number,
        "mac": format!("02:00:00:00:00:0{number}"),
        "addresses": [format!("10.0.1.1{number}")],
        "subnets": ["10.0.1.0/24"],
        "veth": format!("eni{number}"),
        "securityGroups": ["sg-web"],
    })
}

/// Both readers of snapshot files refuse `path` with exit code 2, one line, and nothing on standard output.
fn refused(path: &Path, wanted: &str) {
    let path = path.to_str().unwrap();
    let apply = vec!["apply", path, "--socket", "/nonexistent/switch.sock"];
    let explain = "explain shop/web-1 --egress --protocol tcp --port 1 --remote 10.0.0.1 --snapshot";
    for args in [apply, explain.split(' ').chain([path]).collect()] {
        let run = run(&args);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{args:?}: {run:?}");
        assert!(run.stderr.starts_with(&format!("error: {path}: {wanted}")), "{wanted}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
}

/// The node with the value at `pointer` replaced is refused; the error begins with `wanted`.
fn spoiled(pointer: &str, value: Value, wanted: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut node = node();
    *node.pointer_mut(pointer).unwrap() = value;
    let path = folder.path().join("node.json");
    fs::write(&path, node.to_string()).unwrap();
    refused(&path, wanted);
}

#[test]
fn the_unspoiled_node_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    fs::write(&path, node().to_string()).unwrap();
    let run = run(["apply", path.to_str().unwrap(), "--socket", "/nonexistent/switch.sock"]);
    assert_eq!(run.code, 3, "{run:?}");
}

#[test]
fn pods_that_contradict_each_other_or_the_network() {
    spoiled("/pods/1/securityGroups", json!(["sg-none"]), "pods[1].securityGroups[0]: sg-none is not in");
    spoiled("/pods/1/vlan", json!(1), "pods[1].vlan: ");
    spoiled("/pods/1/vlan", json!(0), "pods[1].vlan: VLAN 0 cannot carry a branch: expected 1 to 4094");
    spoiled("/pods/1/vlan", json!(4095), "pods[1].vlan: VLAN 4095 cannot carry a branch");
    spoiled(
        "/pods/1/addresses",
        json!(["10.0.1.11"]),
        "pods[1].addresses[0]: 10.0.1.11 belongs to pod shop/web-1",
    );
    spoiled("/pods/1/addresses", json!(["10.0.1.300"]), "pods[1].addresses[0]: ");
    spoiled("/pods/1/subnets", json!(["10.0.1.0/33"]), "pods[1].subnets[0]: ");
    spoiled("/pods/1/mac", json!("ff:ff:ff:ff:ff:ff"), "pods[1].mac: ");
    spoiled("/pods/1/name", json!("web"), "pods[1].name: ");
    spoiled("/trunk/interface", json!(""), "trunk.interface: ");
}

#[test]
fn rules_that_ec2_would_not_hold() {
    let rule = |fields: Value| json!([fields]);
    let wanted = "securityGroups[0].rules[0]";
    for (fields, said) in [
        (json!({"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "CidrIpv4": "10.0.0.0/33"}), "10.0.0.0/33"),
        (json!({"IpProtocol": "tcp", "FromPort": 2, "ToPort": 1, "CidrIpv4": "10.0.0.0/8"}), "2"),
        (
            json!({"IpProtocol": "icmp", "FromPort": -1, "ToPort": 3, "CidrIpv4": "10.0.0.0/8"}),
            "ToPort 3 is an ICMP code without a type",
        ),
        (json!({"IpProtocol": "tpc", "FromPort": 1, "ToPort": 2, "CidrIpv4": "10.0.0.0/8"}), "tpc"),
        (json!({"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65536, "CidrIpv4": "10.0.0.0/8"}), "65536"),
        (json!({"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "PrefixListId": "pl-none"}), "pl-none"),
        (json!({"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2}), "target"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.json");
        let mut node = node();
        node["securityGroups"][0]["rules"] = rule(fields.clone());
        fs::write(&path, node.to_string()).unwrap();
        refused(&path, wanted);
        let stderr = run(["apply", path.to_str().unwrap(), "--socket", "/nonexistent/switch.sock"]).stderr;
        assert!(stderr.contains(said), "{fields}: {stderr}");
    }
}

#[test]
fn files_that_are_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.json");
    refused(&path, "cannot be read: No such file");

    let text = node().to_string();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    refused(&path, "");
    fs::write(&path, "").unwrap();
    refused(&path, "");

    // Sparse: a gigabyte that takes no room, refused by its length.
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    refused(&path, "larger than 256 MiB");

    let yaml = folder.path().join("node.yaml");
    fs::write(&yaml, [0xff, 0xfe, 0x00]).unwrap();
    refused(&yaml, "not UTF-8 text");
    refused(folder.path(), "cannot be read: ");
}

#[test]
fn an_unknown_field_is_a_typing_error_not_a_comment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.yaml");
    let text = fs::read_to_string(data("node.yaml")).unwrap();
    fs::write(&path, text.replacen("vlan: 1", "vlan: 1\n    vlam: 2", 1)).unwrap();
    refused(&path, "pods[0].vlam: ");
}
