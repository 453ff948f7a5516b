//! The rules' counters against what pktgen sent: packet for packet, over changes of rules and of workers, and as metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use espalier_api::control::GroupStatus;
use espalier_api::hits::{RuleHits, RuleUsage};
use espalier_lab::Scenario;
use espalier_pktgen::engine::{AfXdp, Engine, Order, Sent, Watch};
use espalier_pktgen::frame::Protocol;
use espalier_pktgen::stamp::Run;
use espalier_pktgen::station::{Role, Station};
use espalier_pktgen::traffic::Traffic;
use espalier_xsk::XdpMode;
use serde::de::DeserializeOwned;

use crate::request::send;
use crate::site::{OPEN, POD_A, Site, WORKERS, wait_for};
use crate::traffic::{answers, udp_echo};

/// Frames of one burst: fewer than a receive ring has entries, so that none is lost however busy the machine is.
const BURST: u64 = 900;
/// Flows they are of.
const FLOWS: u32 = 30;
/// Bytes of a frame, without FCS.
const SIZE: u64 = 200;

/// The places of [`OPEN`]; `a` takes UDP on ports 7000 and 7001 by a rule each, and may answer within the VPC.
fn scenario() -> Scenario {
    let head = OPEN.split_once("      - {SecurityGroupRuleId").unwrap().0;
    let udp = |id: &str, port: u16| {
        format!(
            "      - {{SecurityGroupRuleId: {id}, IpProtocol: udp, FromPort: {port}, ToPort: {port}, CidrIpv4: 10.0.2.0/24}}\n"
        )
    };
    Scenario::parse(&format!(
        "{head}{}{}{}",
        udp("sgr-one", 7000),
        udp("sgr-two", 7001),
        udp("sgr-idle", 7003)
    ))
    .unwrap()
}

/// Frames from the host to the pod's port, by pktgen.
fn pktgen(site: &Site, port: u16, run: u8) -> Sent {
    let far = site.namespace("far").unwrap();
    let sent = far.run(|| {
        let interface = espalier_xsk::interface("eth0").unwrap();
        let traffic = Traffic {
            source_mac: interface.mac,
            destination_mac: gateway(),
            vlans: Vec::new(),
            sources: vec!["10.0.2.20".parse().unwrap()],
            destinations: vec![POD_A.parse().unwrap()],
            source_ports: format!("20000-{}", 20_000 + FLOWS - 1).parse().unwrap(),
            destination_ports: port.to_string().parse().unwrap(),
            protocols: vec![(Protocol::Udp, 1)],
            tcp_syn: false,
            v6_percent: 0,
            sizes: SIZE.to_string().parse().unwrap(),
            flows: FLOWS,
            seed: 1,
        };
        let eth0 = "eth0".parse().unwrap();
        let station = Station::open(&eth0, Role::Send { queue: 0 }, XdpMode::Auto).unwrap();
        let mut engine = Engine::AfXdp(Box::new(AfXdp::new(station, traffic.plan().unwrap(), None)));
        let order = Order {
            run: Run(run),
            frames: Some(BURST),
            duration: Some(Duration::from_secs(60)),
            rate: "5kpps".parse().unwrap(),
        };
        engine.send(&order, &Watch::default()).unwrap()
    });
    let sent = sent.unwrap();
    assert_eq!((sent.frames, sent.bytes), (BURST, BURST * SIZE));
    sent
}

/// MAC of the host's next hop, which it has spoken to.
fn gateway() -> [u8; 6] {
    let table = std::fs::read_to_string("/proc/thread-self/net/arp").unwrap();
    let line = table.lines().nth(1).unwrap_or_else(|| panic!("no neighbour: {table}"));
    let mac = line.split_whitespace().nth(3).unwrap();
    let octets: Vec<u8> = mac.split(':').map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    octets.try_into().unwrap()
}

fn get<T: DeserializeOwned>(site: &Site, path: &str) -> T {
    let reply = send(site.control().socket(), &format!("GET {path} HTTP/1.1\r\nHost: s\r\n"), b"");
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_value(reply.body).unwrap()
}

fn usage(site: &Site) -> RuleUsage {
    get(site, "/v1/rules")
}

fn hits(site: &Site, id: &str) -> RuleHits {
    let usage = usage(site);
    assert!(!usage.stale);
    let mut rules = usage.rules.iter();
    rules.find(|used| used.rule.id.as_ref().is_some_and(|rule| rule.as_str() == id)).unwrap().hits
}

/// Packets, bytes and flows in the rule's direction.
fn forward(hits: &RuleHits) -> (u64, u64, u64) {
    (hits.packets, hits.bytes, hits.flows)
}

/// Every packet that a port received has come through.
fn settle(site: &Site, received: u64) {
    assert!(wait_for(|| site.status().counters.rx >= received), "{:?}", site.status().counters);
    site.assert_balanced();
}

#[test]
fn rules_count_exactly_what_pktgen_sent() {
    let mut site = Site::idle(scenario(), None, &["--metrics-listen", "127.0.0.1:0"]);
    site.apply_snapshot();
    let (a, far) = (site.namespace("t/a").unwrap(), site.namespace("far").unwrap());
    let _echo = udp_echo(a, &format!("{POD_A}:7003"));
    assert!(answers(far, "0.0.0.0:0", &format!("{POD_A}:7003"), b"who is there"));
    let idle = hits(&site, "sgr-idle");
    assert_eq!((idle.packets, idle.reply_packets, idle.flows), (1, 1, 1));

    let start = site.assert_balanced().counters.rx;
    pktgen(&site, 7000, 1);
    pktgen(&site, 7001, 2);
    pktgen(&site, 7002, 3);
    settle(&site, start + 3 * BURST);
    let one = (BURST, BURST * SIZE, u64::from(FLOWS));
    assert_eq!((forward(&hits(&site, "sgr-one")), forward(&hits(&site, "sgr-two"))), (one, one));
    assert_eq!(hits(&site, "sgr-idle").packets, 1);
    let pod = site.pod("t/a");
    assert_eq!(pod.counters.ingress_dropped.get("denied-ingress"), Some(&BURST));
    assert_eq!(pod.counters.tx, 2 * BURST + 1);

    // The flows outlive the rule that allowed them, and go on counting for it; a new rule begins at zero.
    let rest = site.snapshot.security_groups[0].rules[1..].to_vec();
    let gone = site.snapshot.security_groups[0].rules[0].clone();
    site.change(|snapshot| snapshot.security_groups[0].rules = rest);
    if WORKERS > 1 {
        let home = site.pod("t/a").worker;
        let moved = site.control().move_pod(&"t/a".parse().unwrap(), 1 - home).unwrap();
        assert_eq!((moved.flows_lost, moved.to), (0, 1 - home));
    }
    let start = site.assert_balanced().counters.rx;
    pktgen(&site, 7000, 4);
    pktgen(&site, 7001, 5);
    settle(&site, start + 2 * BURST);
    assert_eq!(forward(&hits(&site, "sgr-two")), (2 * BURST, 2 * BURST * SIZE, u64::from(FLOWS)));
    assert_eq!(forward(&usage(&site).gone), (2 * BURST, 2 * BURST * SIZE, u64::from(FLOWS)));
    site.change(|snapshot| snapshot.security_groups[0].rules.push(gone));
    assert_eq!(forward(&hits(&site, "sgr-one")), (2 * BURST, 2 * BURST * SIZE, u64::from(FLOWS)));

    let groups: Vec<GroupStatus> = get(&site, "/v1/groups");
    let all = groups[0].hits.unwrap();
    assert_eq!((all.packets, all.flows), (4 * BURST + 1, u64::from(2 * FLOWS + 1)));
    exported(&site);
}

/// The same numbers as metrics, which promtool has nothing to say against.
fn exported(site: &Site) {
    let mut text = String::new();
    assert!(wait_for(|| {
        text = metrics(site);
        let line = format!(
            "espalier_rule_packets_total{{group=\"sg-open\",rule=\"sgr-two\",way=\"forward\"}} {}",
            2 * BURST
        );
        text.lines().any(|have| have == line)
    }));
    for wanted in [
        format!("espalier_rule_flows_total{{group=\"sg-open\",rule=\"sgr-one\"}} {FLOWS}"),
        format!(
            "espalier_pod_dropped_packets_total{{namespace=\"t\",pod=\"a\",direction=\"ingress\",reason=\"denied-ingress\"}} {BURST}"
        ),
        "espalier_pod_up{namespace=\"t\",pod=\"b\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
    }
    for metric in espalier_switch::metrics::table::ALL {
        let labels = metric.labels.join("=\"");
        assert!(
            text.contains(&format!("\n{}", metric.full_name())),
            "{} {labels}\n{text}",
            metric.full_name()
        );
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}: `ci/setup test` installs it"));
    promtool.stdin.take().unwrap().write_all(plain(&text).as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
}

/// What a scraper gets, over TCP.
fn metrics(site: &Site) -> String {
    let log = std::fs::read_to_string(site.control().socket().with_file_name("switch.log")).unwrap();
    let line = log.lines().find(|line| line.contains("metrics are served")).unwrap();
    let at = line.find("127.0.0.1:").unwrap();
    let address: String = line[at..]
        .chars()
        .take_while(|letter| letter.is_ascii_digit() || matches!(letter, '.' | ':'))
        .collect();
    let node = site.namespace("node").unwrap();
    let mut stream = node.run(|| TcpStream::connect(&address)).unwrap().unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    body.to_owned()
}

/// OpenMetrics as the older text format, which promtool checks: there a counter is named with its `_total`.
fn plain(text: &str) -> String {
    let mut counters = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
            counters.push(name.to_owned());
        }
    }
    let rename = |line: &str| {
        let mut words: Vec<String> = line.splitn(4, ' ').map(ToOwned::to_owned).collect();
        if counters.contains(&words[2]) {
            words[2] += "_total";
        }
        words.join(" ")
    };
    let lines = text.lines().filter(|line| !line.starts_with("# UNIT") && *line != "# EOF");
    let lines = lines.map(|line| if line.starts_with("# ") { rename(line) } else { line.to_owned() });
    lines.map(|line| line + "\n").collect()
}
