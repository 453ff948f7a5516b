//! A shadow beside the enforced snapshot, and audit mode: what would be denied is said exactly, and nothing else changes.

use espalier_api::recording::{ShadowReport, VerdictChange};
use espalier_api::{Direction, Snapshot};
use serde_json::json;

use super::{IN, at, scenario, without};
use crate::request::{Reply, send};
use crate::site::{FAR, PATIENCE, POD_A, Site, wait_for};
use crate::traffic::{udp, udp_echo};

/// UDP to two ports, and everything in.
const RULES: [&str; 3] = [
    "IsEgress: true, IpProtocol: udp, FromPort: 8800, ToPort: 8800",
    "IsEgress: true, IpProtocol: udp, FromPort: 8801, ToPort: 8801",
    IN,
];

fn shadow(site: &Site, method: &str, body: &[u8]) -> Reply {
    let head = format!("{method} /v1/shadow HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n", body.len());
    send(site.control().socket(), &head, body)
}

fn set(site: &Site, snapshot: &Snapshot) {
    let reply = shadow(site, "PUT", &serde_json::to_vec(snapshot).unwrap());
    assert_eq!(reply.status, 200, "{reply:?}");
}

fn report(site: &Site) -> ShadowReport {
    let reply = shadow(site, "GET", b"");
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_value(reply.body).unwrap()
}

/// Sends so many datagrams from a's port to the far host's, each answered.
fn ask(site: &Site, local: u16, remote: u16, datagrams: usize) {
    let _echo = udp_echo(site.namespace("far").unwrap(), &at(FAR, remote));
    let socket = udp(site.namespace("t/a").unwrap(), &at("0.0.0.0", local), PATIENCE);
    for _ in 0..datagrams {
        socket.send_to(b"?", at(FAR, remote)).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1);
    }
}

/// Sends so many datagrams that are not answered.
fn send_only(site: &Site, remote: u16, datagrams: usize) {
    let socket = udp(site.namespace("t/a").unwrap(), "0.0.0.0:0", PATIENCE);
    for _ in 0..datagrams {
        socket.send_to(b"?", at(FAR, remote)).unwrap();
    }
}

#[test]
fn a_shadow_reports_what_it_would_change_and_changes_nothing() {
    let site = Site::up(scenario(&RULES));
    // A flow that is there already counts from its next packet on.
    ask(&site, 9000, 8801, 2);
    assert_eq!(site.status().shadow, None);
    let mut other = site.snapshot.clone();
    other.generation.0 = 77;
    without(&mut other, "sgr-1-4");
    let allow: espalier_api::SecurityGroupRule =
        serde_json::from_value(json!({"SecurityGroupRuleId": "sgr-new",
        "IsEgress": true, "IpProtocol": "udp", "FromPort": 8802, "ToPort": 8802, "CidrIpv4": "10.0.2.0/24"}))
        .unwrap();
    other.security_groups[0].rules.push(allow);
    other.pods.retain(|pod| pod.name.as_str() == "t/a");
    set(&site, &other);
    assert_eq!(site.status().shadow, Some(other.generation));
    ask(&site, 9000, 8801, 3);
    ask(&site, 9001, 8801, 1);
    ask(&site, 9002, 8800, 4);
    send_only(&site, 8802, 5);
    send_only(&site, 8803, 6);
    let dropped =
        || site.pod("t/a").counters.egress_dropped.get("denied-egress").copied().unwrap_or_default();
    assert!(wait_for(|| dropped() >= 11), "{}", dropped());
    let report = report(&site);
    let said: Vec<_> = report
        .changes
        .iter()
        .map(|change| {
            let rule = change.rule.as_ref().unwrap().to_string();
            assert_eq!((change.pod.as_str(), change.direction), ("t/a", Direction::Egress));
            assert_eq!((change.remote.to_string().as_str(), change.protocol.0), (FAR, 17));
            (change.change, rule, change.port.unwrap(), change.counts.flows, change.counts.packets)
        })
        .collect();
    let expected = [
        (VerdictChange::AllowToDeny, "sgr-1-4".to_owned(), 8801, 2, 8),
        (VerdictChange::DenyToAllow, "sgr-new".to_owned(), 8802, 0, 5),
    ];
    assert_eq!(said, expected);
    assert_eq!((report.flows_same, report.lost), (1, 0));
    assert_eq!(report.shadow.pods_missing, ["t/b".parse().unwrap()]);
    assert_eq!(site.status().generation, Some(site.snapshot.generation), "the shadow is not enforced");
    let cleared = shadow(&site, "DELETE", b"");
    assert_eq!((cleared.status, cleared.body["generation"].as_u64()), (200, Some(77)));
    assert_eq!(site.status().shadow, None);
    assert_eq!(shadow(&site, "GET", b"").status, 400);
}

#[test]
fn a_bad_shadow_is_refused_by_its_field() {
    let site = Site::up(scenario(&RULES));
    let mut bad = serde_json::to_value(&site.snapshot).unwrap();
    bad["pods"][1]["vlan"] = bad["pods"][0]["vlan"].clone();
    let reply = shadow(&site, "PUT", &serde_json::to_vec(&bad).unwrap());
    assert_eq!((reply.status, reply.field()), (400, "pods[1].vlan"), "{reply:?}");
    assert_eq!(site.status().shadow, None);
    ask(&site, 9000, 8800, 1);
}

#[test]
fn audit_lets_denied_packets_pass_and_counts_them_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("flows.log");
    let format = "${srcaddr} ${dstport} ${packets} ${action} ${espalier-reason}";
    let flags =
        ["--flow-log", log.to_str().unwrap(), "--flow-log-interval", "1", "--flow-log-format", format];
    let mut site = Site::idle(scenario(&RULES[..2]), None, &flags);
    site.snapshot.pods[0].audit = true;
    let warnings = site.control().apply(&site.snapshot).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("pod t/a is in audit mode")), "{warnings:?}");
    assert_eq!((site.pod("t/a").audit, site.pod("t/b").audit), (true, false));
    // No rule lets this out, nor the answers in; all of them pass.
    ask(&site, 9000, 8805, 3);
    let counters = site.pod("t/a").counters;
    assert_eq!(counters.egress_would_deny.get("denied-egress"), Some(&3), "{counters:?}");
    assert_eq!(counters.ingress_would_deny.get("denied-ingress"), Some(&3), "{counters:?}");
    // The pod's kernel sends multicast of its own, which is not policy's to pass.
    assert!(!counters.egress_dropped.contains_key("denied-egress"), "{counters:?}");
    assert!(!counters.ingress_dropped.contains_key("denied-ingress"), "{counters:?}");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let packets = || -> u64 {
        let fits = |line: &&str| {
            line.starts_with(POD_A)
                && line.contains(" 8805 ")
                && line.ends_with(" ACCEPT would-deny:denied-egress")
        };
        said().lines().filter(fits).map(|line| line.split(' ').nth(2).unwrap().parse::<u64>().unwrap()).sum()
    };
    assert!(wait_for(|| packets() == 3), "{}", said());
    // What the guard refuses stays refused, and without audit mode so does this.
    site.change(|snapshot| snapshot.pods[0].audit = false);
    send_only(&site, 8805, 2);
    let dropped = || site.pod("t/a").counters.egress_dropped.get("denied-egress").copied();
    assert!(wait_for(|| dropped() == Some(2)), "{:?}", dropped());
}
