//! The lab's network without a switch: routing, VLAN tags on the trunk, the trunk's own address, cleanup.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use espalier_lab::LabName;
use espalier_lab::netns::NetNs;
use espalier_lab::packet_socket::PacketSocket;
use espalier_lab::scenario::{Endpoint, Scenario};
use espalier_lab::topology::{Topology, Wiring};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const PATIENCE: Duration = Duration::from_secs(20);

struct Net {
    topology: Topology,
    scenario: Scenario,
    _folder: tempfile::TempDir,
}

impl Net {
    fn build(tag: &str, mtu: u32) -> Self {
        let scenario = Scenario::load("dual-stack").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let name: LabName = format!("t{tag}{}", std::process::id()).parse().unwrap();
        let topology = Topology::build(&name, &scenario, mtu, Wiring::default(), folder.path()).unwrap();
        Self { topology, scenario, _folder: folder }
    }

    fn namespace(&self, name: &str) -> &NetNs {
        self.topology.namespace(self.scenario.endpoint(name).unwrap())
    }

    fn ping(&self, from: &str, to: &str, extra: &[&str]) -> bool {
        let mut command = Command::new("ping");
        command.args(["-c", "1", "-W", "10"]).args(extra).arg(to);
        self.namespace(from).output(&mut command).unwrap().status.success()
    }
}

#[test]
fn hosts_and_the_trunks_own_address_reach_each_other_through_the_vpc() {
    let net = Net::build("a", 9001);
    for (from, to) in [
        ("db", "198.51.100.10"),
        ("db", "2001:db8:ffff::10"),
        ("web", "10.0.2.20"),
        ("db", "10.0.0.10"),
        ("web", "2001:db8:1::10"),
        ("node", "10.0.2.20"),
        ("node", "2001:db8:1:2::20"),
        ("node", "10.0.0.2"),
        ("db", "169.254.169.254"),
        ("db", "fd00:ec2::253"),
    ] {
        assert!(net.ping(from, to, &[]), "{from} to {to}");
    }
    assert!(net.ping("db", "198.51.100.10", &["-M", "do", "-s", "8973"]), "jumbo between hosts");
    assert!(net.ping("node", "10.0.2.20", &["-M", "do", "-s", "8973"]), "jumbo over the trunk");
    assert!(!net.ping("db", "198.51.100.10", &["-M", "do", "-s", "8974"]), "larger than the MTU");
}

#[test]
fn a_branchs_frames_arrive_on_the_trunk_with_its_vlan_and_complete_checksums() {
    let net = Net::build("b", 1500);
    let node = net.topology.node();
    // Stands in for the pod's answers: the router knows its MAC address already.
    let vlan = net.scenario.vlan(1).unwrap();
    let pod = net.scenario.snapshot().unwrap().pods[1].clone();
    let router = format!("gw{vlan}");
    net.topology
        .vpc()
        .ip(&format!("neigh replace 10.0.1.11 lladdr {} dev {router} nud permanent", pod.mac))
        .unwrap();
    let mut tagged = PacketSocket::open_vlan(node, Some(vlan)).unwrap();
    let mut other = PacketSocket::open_vlan(node, net.scenario.vlan(2)).unwrap();
    let sender = net.namespace("db").run(|| UdpSocket::bind("10.0.2.20:0")).unwrap().unwrap();
    sender.send_to(b"to the branch", "10.0.1.11:7000").unwrap();
    let is_ours = |frame: &[u8]| frame.ends_with(b"to the branch");
    let frame = tagged.find(PATIENCE, is_ours).unwrap().expect("the tagged frame").to_vec();
    assert_eq!(frame[..6], pod.mac.octets());
    assert_eq!(frame[22], 63, "one hop over the router");
    let sliced = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
    let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(etherparse::TransportHeader::Udp(udp))) =
        (sliced.net, sliced.transport)
    else {
        panic!("no UDP over IPv4: {frame:x?}")
    };
    assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, b"to the branch").unwrap());
    assert!(other.find(Duration::from_millis(1), is_ours).unwrap().is_none(), "on another branch too");
}

#[test]
fn the_router_asks_for_branches_and_answers_as_their_gateway() {
    let net = Net::build("c", 1500);
    let node = net.topology.node();
    let sender = net.namespace("db").run(|| UdpSocket::bind("[::]:0")).unwrap().unwrap();
    let mut tagged = PacketSocket::open_vlan(node, net.scenario.vlan(0)).unwrap();
    sender.send_to(b"x", "10.0.1.10:7000").unwrap();
    let arp = tagged.find(PATIENCE, |frame| frame[12..14] == [0x08, 0x06]).unwrap().expect("an ARP request");
    assert_eq!(arp[28..32], [10, 0, 1, 1], "asks as the gateway");
    assert_eq!(arp[38..42], [10, 0, 1, 10]);
    sender.send_to(b"x", "[2001:db8:1:1::10]:7000").unwrap();
    let solicitation = |frame: &[u8]| frame[12..14] == [0x86, 0xdd] && frame[54] == 135;
    let nd = tagged.find(PATIENCE, solicitation).unwrap().expect("a neighbour solicitation");
    assert_eq!(nd[22..38], "fe80:ec2::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
}

#[test]
fn pods_have_host_routes_only_and_their_peer_in_the_node() {
    let net = Net::build("d", 1500);
    let pod = net.namespace("shop/dual");
    assert_eq!(
        pod.ip_show("-4 route show").unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
        "default via 169.254.1.1 dev eth0 169.254.1.1 dev eth0 scope link"
    );
    assert!(pod.ip_show("-6 route show default").unwrap().starts_with("default via fe80::1 dev eth0"));
    assert!(pod.ip_show("neigh show").unwrap().is_empty(), "no static neighbour");
    let veth = net.scenario.host_veth(0);
    assert!(net.topology.node().ip_show(&format!("-o link show {veth}")).unwrap().contains("state UP"));
}

#[test]
fn a_build_that_panics_or_fails_leaves_no_namespace() {
    let mut names = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let net = Net::build("e", 1500);
        names = net.topology.namespaces().map(|namespace| namespace.path()).collect();
        assert!(names.iter().all(|path| path.exists()));
        panic!("a test fails");
    }));
    assert!(outcome.is_err());
    assert_eq!(names.len(), 8);
    assert!(names.iter().all(|path| !path.exists()));

    // A namespace in the way: what was made before it goes, the other one's stays.
    let blocker = NetNs::create(format!("tf{}-host-web", std::process::id())).unwrap();
    let scenario = Scenario::load("dual-stack").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let name: LabName = format!("tf{}", std::process::id()).parse().unwrap();
    let error = Topology::build(&name, &scenario, 1500, Wiring::default(), folder.path()).unwrap_err();
    assert!(error.to_string().contains("File exists"), "{error}");
    assert!(blocker.exists());
    assert!(!NetNs::existing(format!("{name}-node")).exists());
    assert_eq!(scenario.endpoint("db"), Ok(Endpoint::Host(0)));
}

/// A bpffs as another lab's switch mounts one; unmounted on a panic too.
struct OthersBpffs(tempfile::TempDir);

impl Drop for OthersBpffs {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_lab_uses_nobody_elses_bpffs() {
    let folder = tempfile::tempdir().unwrap();
    mount("none", folder.path(), "bpf", MountFlags::empty(), None).unwrap();
    let others = OthersBpffs(folder);
    let _net = Net::build("g", 1500);
    // tc makes tc/globals in the one it takes.
    assert!(!others.0.path().join("tc").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let stacked = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/sys/fs/bpf")).count();
    assert!(stacked <= 1, "{mounts}");
}
