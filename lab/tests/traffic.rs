//! Bulk traffic, jumbo frames, a killed switch and a changed policy: the real switch between real kernel sockets.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/with_switch.rs"]
mod with_switch;

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use espalier_api::{Direction, Family, Generation, Snapshot, Verdict};
use espalier_lab::{Got, Lab, Options, Scenario};
use with_switch::{PATIENCE, settled, switch, up, up_with};

const CHUNK: usize = 1 << 16;
const CHUNKS: usize = 512;

/// The scenario's snapshot with every pod open in both directions, or with no rule at all.
fn changed(lab: &Lab, generation: u64, open: bool) -> Snapshot {
    let mut snapshot = lab.scenario().snapshot().unwrap();
    snapshot.generation = Generation(generation);
    let rules = ["0.0.0.0/0", "::/0"].into_iter().flat_map(|cidr| [(cidr, false), (cidr, true)]);
    for (nth, group) in snapshot.security_groups.iter_mut().enumerate() {
        group.rules.clear();
        for (index, (cidr, out)) in rules.clone().enumerate().filter(|_| open) {
            let family = if cidr.contains(':') { "CidrIpv6" } else { "CidrIpv4" };
            let rule = format!(
                r#"{{"SecurityGroupRuleId":"sgr-open{nth}-{index}","IsEgress":{out},"IpProtocol":"-1","{family}":"{cidr}"}}"#
            );
            group.rules.push(serde_json::from_str(&rule).unwrap());
        }
    }
    snapshot
}

/// Sends 32 MiB from one place to another and back; both ends must have hashed the same bytes.
#[track_caller]
fn transfer(lab: &Lab, from: &str, to: &str) {
    let endpoint = lab.scenario().endpoint(to).unwrap();
    let address: IpAddr = lab.scenario().address(endpoint, Family::V4).unwrap();
    let listener = lab.namespace(to).unwrap().run(|| TcpListener::bind((address, 9999))).unwrap().unwrap();
    let server = thread::spawn(move || {
        let mut stream = patient(listener.accept().unwrap().0);
        let hash = receive(&mut stream);
        send(&mut stream);
        hash
    });
    let stream = lab.namespace(from).unwrap().run(|| TcpStream::connect((address, 9999))).unwrap().unwrap();
    let mut stream = patient(stream);
    let sent = send(&mut stream);
    assert_eq!(receive(&mut stream), sent, "{to} to {from}");
    assert_eq!(server.join().unwrap(), sent, "{from} to {to}");
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn send(stream: &mut TcpStream) -> u64 {
    let mut hash = DefaultHasher::new();
    let mut chunk = vec![0u8; CHUNK];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..CHUNKS {
        for word in chunk.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.rotate_left(17).to_le_bytes());
        }
        hash.write(&chunk);
        stream.write_all(&chunk).unwrap();
    }
    hash.finish()
}

fn receive(stream: &mut TcpStream) -> u64 {
    let mut hash = DefaultHasher::new();
    let mut chunk = vec![0u8; CHUNK];
    for _ in 0..CHUNKS {
        stream.read_exact(&mut chunk).unwrap();
        hash.write(&chunk);
    }
    hash.finish()
}

fn pings(lab: &Lab, from: &str, to: &str, extra: &[&str]) -> bool {
    let mut command = Command::new("ping");
    command.args(["-c", "1", "-W", "2"]).args(extra).arg(to);
    lab.namespace(from).unwrap().output(&mut command).unwrap().status.success()
}

#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
    }
}

fn carries_bulk(tag: &str, mtu: u32, flags: &[&str]) {
    let lab = up(tag, "rds", Some(mtu), flags);
    lab.control().apply(&changed(&lab, 2, true)).unwrap();
    for (from, to) in [("orders/api", "db"), ("db", "orders/api"), ("orders/api", "orders/report")] {
        transfer(&lab, from, to);
    }
    let (largest, larger) = ((mtu - 28).to_string(), (mtu - 27).to_string());
    for (from, to) in [("orders/api", "10.0.2.20"), ("orders/report", "10.0.1.10")] {
        soon("the largest packet does not pass", || pings(&lab, from, to, &["-M", "do", "-s", &largest]));
    }
    assert!(!pings(&lab, "orders/api", "10.0.2.20", &["-M", "do", "-s", &larger]), "above MTU {mtu}");
    settled(&lab);
    lab.remove().unwrap();
}

#[test]
fn bulk_tcp_crosses_unchanged_at_mtu_1500() {
    carries_bulk("e", 1500, &[]);
}

#[test]
fn bulk_tcp_crosses_unchanged_at_mtu_9001() {
    carries_bulk("f", 9001, &[]);
}

/// Path MTU discovery: the router's ICMP errors about a pod's own flow get through, whatever the rules say of ICMP.
#[test]
fn a_pod_learns_of_a_smaller_mtu_behind_the_vpc() {
    let mut scenario = Scenario::load("dual-stack").unwrap();
    scenario.hosts.iter_mut().for_each(|host| host.mtu = Some(1400));
    let lab = up_with("j", scenario, Options { mtu: Some(9001), ..Options::default() });
    // Out everything, in nothing: an error comes in only because it is about a flow of the pod's.
    let mut snapshot = changed(&lab, 2, true);
    for group in &mut snapshot.security_groups {
        group.rules.retain(|rule| rule.direction == Direction::Egress);
    }
    lab.control().apply(&snapshot).unwrap();
    for (pod, to) in [("shop/dual", "10.0.2.20"), ("shop/six", "2001:db8:1:2::20")] {
        let namespace = lab.namespace(pod).unwrap();
        soon("the error about the MTU never came", || {
            let mut command = Command::new("ping");
            command.args(["-c", "1", "-W", "2", "-M", "do", "-s", "4000", to]);
            let said = namespace.output(&mut command).unwrap();
            let said = [said.stdout, said.stderr].concat();
            let said = String::from_utf8_lossy(&said).replace(' ', "");
            said.contains("mtu=1400") || said.contains("mtu:1400")
        });
        assert!(namespace.ip_show(&format!("route get {to}")).unwrap().contains("mtu 1400"));
    }
    settled(&lab);
    lab.remove().unwrap();
}

#[test]
fn a_killed_switch_fails_closed_and_its_successor_takes_over() {
    let mut lab = up("g", "rds", None, &[]);
    lab.control().apply(&changed(&lab, 2, true)).unwrap();
    for target in ["10.0.2.20", "10.0.1.11"] {
        soon("no traffic at all", || pings(&lab, "orders/api", target, &[]));
    }
    let process = lab.switch_process().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    for target in ["10.0.2.20", "10.0.1.11"] {
        assert!(!pings(&lab, "orders/api", target, &[]), "{target} answers though the switch is dead");
    }
    assert!(!pings(&lab, "db", "10.0.1.10", &[]), "the pod answers though the switch is dead");
    soon("the trunk's own address must go on", || pings(&lab, "db", "10.0.0.10", &[]));

    lab.start_switch(&switch().into(), &[], "info").unwrap();
    lab.control().apply(&changed(&lab, 3, true)).unwrap();
    soon("the successor carries no traffic", || pings(&lab, "orders/api", "10.0.2.20", &[]));
    soon("nor between pods", || pings(&lab, "orders/report", "10.0.1.10", &[]));
    settled(&lab);
    lab.remove().unwrap();
}

/// The proofs themselves: against a policy that allows or denies everything, exactly the other probes must fail.
#[test]
fn a_switch_that_allows_or_denies_everything_fails_the_scenarios() {
    let lab = up("h", "stars", None, &[]);
    for (generation, open) in [(2, true), (3, false)] {
        lab.control().apply(&changed(&lab, generation, open)).unwrap();
        let report = lab.run_probes().unwrap();
        for probe in &report.probes {
            let unfiltered = probe.protocol == "dns";
            let got = if open || unfiltered { Got::Allow } else { Got::Deny };
            assert_eq!(probe.got, got, "open {open}: {probe:?}");
        }
        let expected = |verdict| report.probes.iter().filter(move |probe| probe.expect == verdict).count();
        let wrong = if open { expected(Verdict::Deny) } else { expected(Verdict::Allow) - 1 };
        // With other rules the allowed ones of a scenario that names its rules are wrong too.
        assert!(report.failed >= wrong && wrong > 5, "open {open}: {}", report.table(false));
    }
    lab.remove().unwrap();
}
