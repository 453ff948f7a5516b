//! Frames that no honest sender sends, on the trunk and inside a pod: each counted under its reason, none delivered.

use std::collections::BTreeMap;

use espalier_api::control::Status;
use espalier_lab::Scenario;
use espalier_lab::packet_socket::PacketSocket;

use crate::frames::{BROADCAST, IPV4, V4, VLAN, ethernet, inject, tagged, udp};
use crate::site::{FAR, OPEN, PATIENCE, POD_A, POD_B, Site, growth, is_at_rest, wait_for};
use crate::traffic::udp as udp_socket;

mod from_pod;
mod from_trunk;

/// In the payload of what must arrive nowhere.
const HOSTILE: &[u8] = b"hostile";
/// In the payload of what must arrive.
const WELCOME: &[u8] = b"welcome";
/// The port that the rules allow, both ways.
const ALLOWED: u16 = 7000;
const DENIED: u16 = 7001;

const FAR_END: &str = "vpctrunk";

/// The MAC addresses of branch a.
#[derive(Debug, Clone, Copy)]
struct Macs {
    branch_a: [u8; 6],
    branch_b: [u8; 6],
    gateway: [u8; 6],
    pod: [u8; 6],
}

/// Frames of which some, usually all, are dropped for one reason.
struct Case {
    what: &'static str,
    reason: &'static str,
    dropped: u64,
    frames: Vec<Vec<u8>>,
}

impl Case {
    /// The same frame three times.
    fn new(what: &'static str, reason: &'static str, frame: Vec<u8>) -> Self {
        Self { what, reason, dropped: 3, frames: vec![frame; 3] }
    }

    fn once(what: &'static str, reason: &'static str, frame: Vec<u8>) -> Self {
        Self { what, reason, dropped: 1, frames: vec![frame] }
    }
}

/// Both pods may send and get UDP to and from [`ALLOWED`], within the VPC. No kernel adds IPv6 of its own to the counts.
fn quiet_site() -> (Site, Macs) {
    let rule = |id: &str, more: &str| {
        format!(
            "      - {{SecurityGroupRuleId: {id}, IpProtocol: udp, FromPort: {ALLOWED}, ToPort: {ALLOWED}, {more}}}\n"
        )
    };
    let rules = [
        rule("sgr-in4", "CidrIpv4: 10.0.0.0/16"),
        rule("sgr-in6", "CidrIpv6: '2001:db8:1::/56'"),
        rule("sgr-out4", "IsEgress: true, CidrIpv4: 10.0.0.0/16"),
        rule("sgr-out6", "IsEgress: true, CidrIpv6: '2001:db8:1::/56'"),
    ];
    let head = OPEN.split_once("      - {SecurityGroupRuleId").unwrap().0;
    let site = Site::up(Scenario::parse(&format!("{head}{}", rules.concat())).unwrap());
    let is_known = || site.pod("t/a").pod_mac.is_some() && site.pod("t/a").gateway_mac.is_some();
    assert!(wait_for(is_known));
    let seen = site.pod("t/a");
    let macs = Macs {
        branch_a: site.snapshot.pods[0].mac.octets(),
        branch_b: site.snapshot.pods[1].mac.octets(),
        gateway: seen.gateway_mac.unwrap().octets(),
        pod: seen.pod_mac.unwrap().octets(),
    };
    for (place, interface) in [("t/a", "eth0"), ("t/b", "eth0"), ("vpc", "gw1"), ("vpc", "gw2")] {
        let key = format!("net/ipv6/conf/{interface}/disable_ipv6");
        site.namespace(place).unwrap().sysctl(&key, "1").unwrap();
    }
    site.assert_balanced();
    (site, macs)
}

/// Sends each case and waits until just its frames were counted, under its reason. Returns the sum.
fn count_exactly(site: &Site, place: &str, interface: &str, cases: &[Case]) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for case in cases {
        let before = site.status().counters;
        inject(site.namespace(place).unwrap(), interface, &case.frames);
        let count = case.dropped;
        let expected = BTreeMap::from([(case.reason.to_owned(), count)]);
        let dropped = || growth(&before.dropped, &site.status().counters.dropped);
        let counted = wait_for(|| dropped().values().sum::<u64>() >= count);
        assert!(counted && dropped() == expected, "{}: {:?}, not {expected:?}", case.what, dropped());
        *sum.entry(case.reason.to_owned()).or_default() += count;
    }
    sum
}

fn contains(frame: &[u8], wanted: &[u8]) -> bool {
    frame.windows(wanted.len()).any(|window| window == wanted)
}

/// Waits for the welcome frame; what is hostile would have come before it.
#[track_caller]
fn assert_only_welcome(place: &str, packets: &mut PacketSocket) {
    let is_ours = |frame: &[u8]| contains(frame, HOSTILE) || contains(frame, WELCOME);
    let first = packets.find(PATIENCE, is_ours).unwrap().unwrap_or_else(|| panic!("nothing came to {place}"));
    assert!(!contains(first, HOSTILE), "{place} got {first:02x?}");
}

fn total(drops: &BTreeMap<String, u64>) -> u64 {
    drops.values().sum()
}

fn good_from_far(macs: &Macs) -> Vec<u8> {
    let packet = V4::udp(FAR.parse().unwrap(), POD_A.parse().unwrap(), ALLOWED, WELCOME);
    tagged(ethernet(macs.branch_a, macs.gateway, IPV4, &packet.bytes()), VLAN, 1)
}

fn good_from_a(macs: &Macs, to: &str) -> Vec<u8> {
    let packet = V4::udp(POD_A.parse().unwrap(), to.parse().unwrap(), ALLOWED, WELCOME);
    ethernet([2, 0, 0, 0, 0, 9], macs.pod, IPV4, &packet.bytes())
}

#[test]
fn on_the_trunk() {
    let (site, macs) = quiet_site();
    let mut receivers = ["t/a", "t/b", "node"].map(|place| (place, open(&site, place)));
    let before = (site.status(), site.pod("t/a").counters, site.pod("t/b").counters);
    let sum = count_exactly(&site, "vpc", FAR_END, &from_trunk::cases(&macs));
    let (a, b) = (site.pod("t/a").counters, site.pod("t/b").counters);
    let blamed = total(&growth(&before.1.ingress_dropped, &a.ingress_dropped))
        + total(&growth(&before.2.ingress_dropped, &b.ingress_dropped));
    assert_eq!(blamed, total(&sum), "each is the drop of the pod on its VLAN");
    assert_books(&site, &before.0, &sum);

    inject(site.namespace("vpc").unwrap(), FAR_END, &vec![good_from_far(&macs)]);
    inject(site.namespace("t/a").unwrap(), "eth0", &vec![good_from_a(&macs, POD_B)]);
    let far = udp_socket(site.namespace("far").unwrap(), "0.0.0.0:0", PATIENCE);
    far.send_to(WELCOME, "10.0.0.10:9").unwrap();
    for (place, packets) in &mut receivers {
        assert_only_welcome(place, packets);
    }
    site.assert_balanced();
}

#[test]
fn on_the_trunk_before_a_socket_is_found() {
    let (site, macs) = quiet_site();
    let good = good_from_far(&macs);
    for (what, label, frame) in [
        ("a tag cut short", "trunk-malformed-drop", good[..16].to_vec()),
        ("a VLAN without a pod", "trunk-unknown-vlan-pass", vlan(&good, 99)),
        ("the last VLAN", "trunk-unknown-vlan-pass", vlan(&good, 4095)),
        ("a service tag", "trunk-service-tag-pass", service_tag(&good)),
    ] {
        let before = site.status();
        inject(site.namespace("vpc").unwrap(), FAR_END, &vec![frame; 3]);
        let counted = || growth(&before.steering, &site.status().steering).get(label).copied();
        assert!(wait_for(|| counted() == Some(3)), "{what}: {:?}", counted());
        assert_books(&site, &before, &BTreeMap::new());
    }
    let mut packets = open(&site, "t/a");
    inject(site.namespace("vpc").unwrap(), FAR_END, &vec![good]);
    assert_only_welcome("t/a", &mut packets);
}

fn vlan(tagged: &[u8], vlan: u16) -> Vec<u8> {
    let mut frame = tagged.to_vec();
    frame[14..16].copy_from_slice(&vlan.to_be_bytes());
    frame
}

fn service_tag(tagged: &[u8]) -> Vec<u8> {
    let mut frame = tagged.to_vec();
    frame[12..14].copy_from_slice(&[0x88, 0xa8]);
    frame
}

#[test]
fn inside_a_pod() {
    let (site, macs) = quiet_site();
    let mut receivers = ["t/b", "far", "node", "vpc"].map(|place| (place, open(&site, place)));
    let before = (site.status(), site.pod("t/a").counters);
    let sum = count_exactly(&site, "t/a", "eth0", &from_pod::cases(&macs));
    let dropped = growth(&before.1.egress_dropped, &site.pod("t/a").counters.egress_dropped);
    assert_eq!(dropped, sum, "each is a drop of the pod that sent it");
    assert_books(&site, &before.0, &sum);

    let good = vec![good_from_a(&macs, POD_B), good_from_a(&macs, FAR)];
    inject(site.namespace("t/a").unwrap(), "eth0", &good);
    let far = udp_socket(site.namespace("far").unwrap(), "0.0.0.0:0", PATIENCE);
    far.send_to(WELCOME, "10.0.0.10:9").unwrap();
    for (place, packets) in &mut receivers {
        assert_only_welcome(place, packets);
    }
    assert_eq!(site.pod("t/a").pod_mac.unwrap().octets(), macs.pod, "a spoofed MAC was learned");
    site.assert_balanced();
}

/// As fast as they can be sent, from both sides.
#[test]
fn a_storm_of_broadcasts_reaches_nobody_and_stops_nothing() {
    const STORM: usize = 20_000;
    let (site, macs) = quiet_site();
    let before = site.assert_balanced();
    let mut packets = open(&site, "t/b");
    let payload = |from: &str| {
        V4::new(from.parse().unwrap(), "255.255.255.255".parse().unwrap(), 17, udp(ALLOWED, HOSTILE)).bytes()
    };
    let from_trunk = tagged(ethernet(BROADCAST, macs.gateway, IPV4, &payload(FAR)), VLAN, 1);
    let from_pod = ethernet(BROADCAST, macs.pod, IPV4, &payload(POD_A));
    std::thread::scope(|scope| {
        for (place, interface, frame) in [("vpc", FAR_END, &from_trunk), ("t/a", "eth0", &from_pod)] {
            let namespace = site.namespace(place).unwrap();
            scope.spawn(move || inject(namespace, interface, std::iter::repeat_n(frame, STORM)));
        }
    });
    // Those that overran a ring on the way in are the wire's loss; the switch answers for what it received.
    let after = site.assert_balanced();
    let dropped = growth(&before.counters.dropped, &after.counters.dropped);
    // A worker that cannot keep up with what another hands over loses it there, counted.
    let reasons = dropped.keys().filter(|reason| *reason != "handover-ring-full");
    assert_eq!(reasons.collect::<Vec<_>>(), ["multicast"], "{dropped:?}");
    assert!(dropped["multicast"] > 1000, "{dropped:?}");
    println!("of {} broadcasts {} were received and dropped", 2 * STORM, dropped["multicast"]);
    inject(site.namespace("t/a").unwrap(), "eth0", &vec![good_from_a(&macs, POD_B)]);
    assert_only_welcome("t/b", &mut packets);
    assert!(wait_for(|| is_at_rest(&site.status().frames)), "{:?}", site.status().frames);
}

fn open(site: &Site, place: &str) -> PacketSocket {
    PacketSocket::open(site.namespace(place).unwrap()).unwrap()
}

/// Nothing was dropped but this, and nothing forwarded that was not sent on purpose.
#[track_caller]
fn assert_books(site: &Site, before: &Status, dropped: &BTreeMap<String, u64>) {
    let after = site.assert_balanced();
    assert_eq!(growth(&before.counters.dropped, &after.counters.dropped), *dropped);
    assert_eq!(after.pid, before.pid);
}
