//! The switch ends, with and without warning: branches stay closed, the node's own traffic goes on, all comes back.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use espalier_api::control::PortState;
use espalier_lab::netns::NetNs;
use rustix::process::Signal;

use crate::site::{FAR, POD_A, POD_B, SWITCH, Site, wait_for};
use crate::traffic::{answers, blind, udp, udp_echo};

/// Datagrams sent while no switch runs.
const IN_VAIN: u64 = 20;
/// Clients that ask for this and do not stay for the answer.
const ASKERS: usize = 4;
const QUESTION: &[u8] = b"GET /v1/rules HTTP/1.1\r\nHost: s\r\n\r\n";

#[test]
fn killed_it_fails_closed_and_a_new_one_takes_over() {
    let mut site = Site::open();
    keep_neighbours(&site);
    let _echo = [("t/a", POD_A), ("t/b", POD_B), ("far", FAR)]
        .map(|(place, own)| udp_echo(site.namespace(place).unwrap(), &format!("{own}:7")));
    for (from, to) in ways(&site) {
        assert!(answers(from, "0.0.0.0:0", &to, b"before"), "to {to}");
    }
    let (from_trunk, from_pods) = no_socket(&site);

    site.end(Signal::KILL);
    let asked = ways(&site).map(|(from, to)| (ask_in_vain(from, &to), to));
    assert!(steers(&site, "trunk0"), "the steering must outlive the switch");
    let (node, far) = (site.namespace("node").unwrap(), site.namespace("far").unwrap());
    assert!(pings(node, FAR) && pings(far, "10.0.0.10"), "the trunk's own address must go on");
    assert!(site.control().status().is_err());

    site.start_switch_again(&[]);
    // Counted by the pinned steering while nobody ran: into pod a once, out of it twice.
    let (trunk_now, pods_now) = no_socket(&site);
    assert!(trunk_now - from_trunk >= IN_VAIN, "{from_trunk} {trunk_now}");
    assert!(pods_now - from_pods >= 2 * IN_VAIN, "{from_pods} {pods_now}");
    assert_eq!(site.status().generation, None);
    site.apply_snapshot();
    for (socket, to) in &asked {
        // An answer to what was asked in vain would come before this one.
        assert_eq!(first_answer(socket, to), b"after", "{to}");
    }
    site.assert_balanced();
}

/// Who asks whom: out of the node, into it, and inside it.
fn ways(site: &Site) -> [(&NetNs, String); 3] {
    [("t/a", FAR), ("far", POD_A), ("t/a", POD_B)]
        .map(|(from, to)| (site.namespace(from).unwrap(), format!("{to}:7")))
}

#[test]
fn asked_to_end_it_leaves_the_steering_and_unpin_removes_it() {
    let mut site = Site::open();
    let _echo = udp_echo(site.namespace("far").unwrap(), &format!("{FAR}:7"));
    let far = format!("{FAR}:7");
    assert!(answers(site.namespace("t/a").unwrap(), "0.0.0.0:0", &far, b"before"));
    // It ends under traffic, and with a pod whose port is down.
    let _traffic = [("t/a", &far), ("t/b", &far), ("t/a", &format!("{POD_B}:7"))]
        .map(|(pod, to)| blind(site.namespace(pod).unwrap(), "0.0.0.0:0", to));
    let veth = site.scenario().host_veth(1);
    site.namespace("node").unwrap().ip(&format!("link del {veth}")).unwrap();
    assert!(wait_for(|| site.pod("t/b").state != PortState::Up));
    let socket = site.control().socket().to_path_buf();
    let pins: PathBuf = socket.with_file_name("bpf");
    let veth = site.scenario().host_veth(0);
    assert!(socket.exists() && pins.exists());

    let status = site.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{status}: {}", log_of(&site));
    assert!(!socket.exists(), "the socket's file must be gone");
    for interface in ["trunk0", &veth] {
        assert!(steers(&site, interface), "{interface} must stay closed");
    }

    let unpin = || {
        let mut command = Command::new(SWITCH);
        let node = site.namespace("node").unwrap();
        node.output(command.arg("--pin-dir").arg(&pins).arg("--unpin")).unwrap()
    };
    for _ in 0..2 {
        let output = unpin();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for interface in ["trunk0", &veth] {
            assert!(!steers(&site, interface), "{interface} must be the kernel's again");
        }
        assert!(!pins.exists() || fs::read_dir(&pins).unwrap().next().is_none());
    }
}

#[test]
fn asked_to_end_at_work_it_ends_in_order() {
    let mut site = Site::open();
    for _ in 0..3 {
        let socket = site.control().socket().to_path_buf();
        let mut slow = UnixStream::connect(&socket).unwrap();
        slow.write_all(b"GET /v1/status HTTP/1.1\r\nHost:").unwrap();
        // Something is always being answered.
        let status = thread::scope(|scope| {
            for _ in 0..ASKERS {
                scope.spawn(|| {
                    while UnixStream::connect(&socket).and_then(|mut one| one.write_all(QUESTION)).is_ok() {}
                });
            }
            thread::sleep(Duration::from_millis(100));
            site.end(Signal::TERM)
        });
        assert_eq!(status.code(), Some(0), "{status}: {}", log_of(&site));
        drop(slow);
        site.start_switch_again(&[]);
        site.apply_snapshot();
    }
}

#[test]
fn a_second_switch_on_one_socket_is_refused() {
    let site = Site::open();
    let socket = site.control().socket();
    let mut command = Command::new(SWITCH);
    command.arg("--socket").arg(socket).arg("--pin-dir").arg(socket.with_file_name("bpf2"));
    let output = site.namespace("node").unwrap().output(&mut command).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("another espalier-switch answers"), "{said}");
    site.assert_balanced();
}

/// Nothing waits for an answer of ARP, so that what is sent in vain is dropped now and not delivered later.
fn keep_neighbours(site: &Site) {
    let vpc = site.namespace("vpc").unwrap();
    for pod in &site.snapshot.pods {
        let device = format!("gw{}", pod.vlan);
        vpc.ip(&format!("neigh replace {} lladdr {} dev {device} nud permanent", pod.addresses[0], pod.mac))
            .unwrap();
    }
    for (index, pod) in ["t/a", "t/b"].iter().enumerate() {
        let veth = site.scenario().host_veth(index);
        let shown = site.namespace("node").unwrap().ip_show(&format!("-o link show dev {veth}")).unwrap();
        let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
        let line = format!("neigh replace 169.254.1.1 lladdr {mac} dev eth0 nud permanent");
        site.namespace(pod).unwrap().ip(&line).unwrap();
    }
}

fn ask_in_vain(from: &NetNs, to: &str) -> UdpSocket {
    let socket = udp(from, "0.0.0.0:0", Duration::from_millis(200));
    for _ in 0..IN_VAIN {
        socket.send_to(b"in vain", to).unwrap();
    }
    socket
}

/// Asks until something comes.
fn first_answer(socket: &UdpSocket, to: &str) -> Vec<u8> {
    let mut buffer = [0; 64];
    let mut found = Vec::new();
    wait_for(|| {
        socket.send_to(b"after", to).unwrap();
        let received = socket.recv(&mut buffer);
        received.is_ok_and(|length| {
            found = buffer[..length].to_vec();
            true
        })
    });
    found
}

/// Frames that found no socket: on the trunk, and from pods.
fn no_socket(site: &Site) -> (u64, u64) {
    let steering = site.status().steering;
    (steering["trunk-no-socket-drop"], steering["pod-no-socket-drop"])
}

fn steers(site: &Site, interface: &str) -> bool {
    let node = site.namespace("node").unwrap();
    node.ip_show(&format!("-d link show dev {interface}")).unwrap().contains("xdp")
}

fn pings(from: &NetNs, to: &str) -> bool {
    from.output(Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "20", to])).unwrap().status.success()
}

fn log_of(site: &Site) -> String {
    fs::read_to_string(site.control().socket().with_file_name("switch.log")).unwrap_or_default()
}
