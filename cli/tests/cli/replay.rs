//! `espalier replay` of captures made in a lab: the recorded verdicts again, of one worker and of two, fragments included.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use espalier_api::Direction;
use espalier_lab::{Lab, Options, Scenario};
use serde_json::Value;

use crate::capture::{Capture, packets_in};
use crate::lab::Name;
use crate::support::{Run, eventually, run, switch_program};

/// UDP ports 7 and 8 out, 7 in, and nothing else.
const SCENARIO: &str = "
name: replay
vpc: {cidrs: [10.0.0.0/16]}
subnets:
  - {name: nodes, cidrs: [10.0.0.0/24]}
  - {name: pods, cidrs: [10.0.1.0/24]}
  - {name: data, cidrs: [10.0.2.0/24]}
node: {subnet: nodes, addresses: [10.0.0.10]}
hosts:
  - {name: far, subnet: data, addresses: [10.0.2.20]}
pods:
  - {name: t/a, subnet: pods, addresses: [10.0.1.10], securityGroups: [sg-echo]}
  - {name: t/b, subnet: pods, addresses: [10.0.1.11], securityGroups: [sg-echo]}
securityGroups:
  - groupId: sg-echo
    rules:
      - {SecurityGroupRuleId: sgr-out, IsEgress: true, IpProtocol: udp, FromPort: 7, ToPort: 8, CidrIpv4: 0.0.0.0/0}
      - {SecurityGroupRuleId: sgr-in, IpProtocol: udp, FromPort: 7, ToPort: 7, CidrIpv4: 10.0.0.0/16}
";
/// From whom to whom.
const WAYS: [(&str, &str, &str); 3] =
    [("t/a", "far", "10.0.2.20"), ("far", "t/a", "10.0.1.10"), ("t/a", "t/b", "10.0.1.11")];
/// What is sent each way: datagrams, their bytes, and the packets each of them takes.
const LOADS: [(usize, usize, usize); 2] = [(20, 100, 1), (3, 20_000, 14)];

/// Packets of the loads, one way.
fn packets() -> usize {
    LOADS.iter().map(|(count, _, packets)| count * packets).sum()
}

/// A lab with so many workers.
struct Site {
    lab: Lab,
    name: Name,
}

impl Site {
    fn new(workers: u16) -> Self {
        let name = Name::new();
        let options = Options {
            name: name.0.parse().unwrap(),
            trunk_queues: workers,
            switch: Some(switch_program()),
            switch_flags: vec!["--workers".into(), workers.to_string().into()],
            ..Options::default()
        };
        let lab = Lab::up(&options, Scenario::parse(SCENARIO).unwrap()).unwrap();
        Self { lab, name }
    }

    fn socket(&self, place: &str, address: &str) -> UdpSocket {
        let socket = self.lab.namespace(place).unwrap().run(|| UdpSocket::bind(address).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    }

    /// A socket at one end, and one at port 7 of the other.
    fn ends(&self, (from, to, address): (&str, &str, &str)) -> [UdpSocket; 2] {
        [self.socket(from, "0.0.0.0:0"), self.socket(to, &format!("{address}:7"))]
    }

    /// Captures just the `expected` packets of the `traffic`.
    fn capture(&self, file: &Path, expected: usize, traffic: impl FnOnce()) {
        let capture = Capture::start(&self.name, &["udp", "-w", file.to_str().unwrap()]);
        eventually("every worker looks", || file.metadata().is_ok_and(|metadata| metadata.len() > 0));
        traffic();
        eventually("all are captured", || packets_in(file) >= expected);
        let ended = capture.end();
        let said = ended.stderr.replace(',', "");
        assert!(said.contains(&format!("{expected} packets captured 0 lost")), "{ended:?}");
    }
}

/// The loads there and back again.
fn exchange([client, server]: &[UdpSocket; 2]) {
    let mut buffer = vec![0; 65536];
    for (count, bytes, _) in LOADS {
        for _ in 0..count {
            client.send_to(&vec![7; bytes], server.local_addr().unwrap()).unwrap();
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..length], from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), bytes);
        }
    }
}

/// The loads to a port where nobody gets them.
fn send(client: &UdpSocket, address: &str, port: u16) {
    let to: SocketAddr = format!("{address}:{port}").parse().unwrap();
    for (count, bytes, _) in LOADS {
        for _ in 0..count {
            client.send_to(&vec![8; bytes], to).unwrap();
        }
    }
}

fn replay(file: &Path, snapshot: &Path, pod: &str) -> (Run, Value) {
    let command = ["replay", file.to_str().unwrap(), "--snapshot", snapshot.to_str().unwrap()];
    let run = run(command.into_iter().chain(["--pod", pod, "--json"]));
    let found = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    (run, found)
}

fn number(found: &Value, field: &str) -> usize {
    found[field].as_u64().unwrap_or_else(|| panic!("{field}: {found}")) as usize
}

fn a_replay_says_what_was_recorded(workers: u16) {
    let site = Site::new(workers);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.pcapng");
    let ends = WAYS.map(|way| site.ends(way));
    // Neighbours are known from here on, and these flows begin before the capture.
    ends.iter().for_each(exchange);
    let fresh = WAYS.map(|(from, ..)| site.socket(from, "0.0.0.0:0"));
    // Between pods of two workers a packet is recorded at both, unless the first drops it.
    let twice = usize::from(workers);
    let there_and_back = 2 * packets() * (2 + twice);
    let expected = 2 * there_and_back + packets() * (3 + twice);
    site.capture(&file, expected, || {
        ends.iter().for_each(exchange);
        for ((old, client), (_, _, address)) in ends.iter().zip(&fresh).zip(WAYS) {
            let pair = [client.try_clone().unwrap(), old[1].try_clone().unwrap()];
            exchange(&pair);
            send(client, address, 9);
        }
        // The sender's policy lets it out, the receiver's not in.
        send(&fresh[2], WAYS[2].2, 8);
    });
    let snapshot = folder.path().join("node.json");
    let mut rules = site.lab.scenario().snapshot().unwrap();
    std::fs::write(&snapshot, serde_json::to_vec(&rules).unwrap()).unwrap();
    for (pod, exchanged, denied) in [("t/a", 2 * 3, 4), ("t/b", 2, 2)] {
        let (run, found) = replay(&file, &snapshot, pod);
        assert_eq!((run.code, found["differing"].as_array().unwrap().len()), (0, 0), "{pod}: {found:#}");
        assert_eq!(number(&found, "compared"), packets() * (exchanged + denied), "{pod}: {found:#}");
        assert_eq!(number(&found, "begunBefore"), packets() * exchanged, "{pod}: {found:#}");
        assert_eq!(number(&found, "notOfRules"), 0, "{pod}: {found:#}");
        let (again, _) = replay(&file, &snapshot, pod);
        assert_eq!(again.stdout, run.stdout, "the same file gives the same answers");
    }

    // Without the rule that lets requests in, they and the answers to them are denied.
    rules.security_groups[0].rules.retain(|rule| rule.direction == Direction::Egress);
    std::fs::write(&snapshot, serde_json::to_vec(&rules).unwrap()).unwrap();
    let (run, found) = replay(&file, &snapshot, "t/b");
    let differing = found["differing"].as_array().unwrap();
    assert_eq!((run.code, differing.len()), (1, packets() * 2), "{found:#}");
    for judged in differing {
        let [verdict, recorded] = ["verdict", "recorded"].map(|field| judged[field].as_str().unwrap());
        assert!(verdict.starts_with("drop denied-") && recorded.starts_with("forward "), "{judged}");
    }
}

#[test]
fn one_workers_capture_replays_as_recorded() {
    a_replay_says_what_was_recorded(1);
}

#[test]
fn two_workers_capture_replays_as_recorded() {
    a_replay_says_what_was_recorded(2);
}
