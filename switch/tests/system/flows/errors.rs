//! ICMP errors: those about a pod's own flows reach it without a rule (traceroute, path MTU), forged ones do not.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use espalier_lab::netns::NetNs;
use espalier_lab::packet_socket::PacketSocket;
use etherparse::icmpv4::TimeExceededCode;
use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use socket2::SockRef;

use super::{FAR6, OUT, scenario};
use crate::frames::{IPV4, VLAN, ethernet, inject, tagged};
use crate::site::{FAR, PATIENCE, POD_A, POD_B, Site, growth, wait_for};
use crate::traffic::{connection, converses, transfer, udp};

/// The first router on the way out of the pods' subnet.
const GATEWAY: &str = "10.0.1.1";
/// A router further on. What the gateway itself sends is never filtered.
const ROUTER: [u8; 4] = [10, 0, 2, 77];
const EXCEEDED: u8 = 11;
const UNREACHABLE: u8 = 3;

/// Whether the frame is an ICMP error about a datagram to this port; its type and who sent it.
fn error_about(frame: &[u8], port: u16) -> Option<(u8, Ipv4Addr)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) = (sliced.net, sliced.transport)
    else {
        return None;
    };
    let embedded = icmp.payload();
    let there = embedded.get(22..24)? == port.to_be_bytes();
    let kind = icmp.slice()[0];
    (there && matches!(kind, EXCEEDED | UNREACHABLE)).then(|| (kind, ip.header().source_addr()))
}

/// Sends a datagram that lives for so many hops; what came of it.
fn probe(pod: &NetNs, ttl: u32, port: u16) -> Option<(u8, Ipv4Addr)> {
    let mut packets = PacketSocket::open(pod).unwrap();
    let socket = udp(pod, "0.0.0.0:0", Duration::from_millis(10));
    socket.set_ttl(ttl).unwrap();
    let mut answer = None;
    wait_for(|| {
        // An error about an earlier one may be reported here.
        let _ = socket.send_to(&[0; 24], (FAR, port));
        let found = packets.find(Duration::from_secs(1), |frame| error_about(frame, port).is_some()).unwrap();
        answer = found.and_then(|frame| error_about(frame, port));
        answer.is_some()
    });
    answer
}

#[test]
fn traceroute_from_a_pod_sees_each_hop() {
    // Nothing may come in but what the gateway sends: the far end's errors pass because they are about the pod's flows.
    let site = Site::up(scenario(&[OUT]));
    let a = site.namespace("t/a").unwrap();
    let hops: Vec<_> = (1..=3).map(|ttl| probe(a, ttl, 33433 + ttl as u16).unwrap()).collect();
    let [gateway, far] = [GATEWAY, FAR].map(|address| address.parse().unwrap());
    assert_eq!(hops, [(EXCEEDED, gateway), (UNREACHABLE, far), (UNREACHABLE, far)]);

    let six = udp(a, "[::]:0", PATIENCE);
    SockRef::from(&six).set_unicast_hops_v6(64).unwrap();
    six.connect((FAR6, 33434)).unwrap();
    // A port unreachable of the far end is reported as a refused connection.
    let refused =
        || six.send(&[0; 24]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    assert!(wait_for(refused));
    let dropped = site.assert_balanced().counters.dropped;
    assert_eq!(dropped.get("icmp-error-unrelated"), None, "{dropped:?}");
}

#[test]
fn where_related_errors_are_off_they_need_a_rule() {
    let site = Site::idle(scenario(&[OUT]), None, &["--related-icmp-errors", "off"]);
    site.apply_snapshot();
    let a = site.namespace("t/a").unwrap();
    let socket = udp(a, "0.0.0.0:0", Duration::from_millis(10));
    let mut packets = PacketSocket::open(a).unwrap();
    let refused = || {
        socket.send_to(&[0; 24], (FAR, 33434)).unwrap();
        site.pod("t/a").counters.ingress_dropped.contains_key("icmp-error-unrelated")
    };
    assert!(wait_for(refused), "{:?}", site.pod("t/a").counters);
    let came = packets.find(Duration::from_millis(200), |frame| error_about(frame, 33434).is_some()).unwrap();
    assert!(came.is_none(), "{came:02x?}");
    site.assert_balanced();
}

/// A time exceeded for a pod, as a router of the VPC would send it, about a datagram from `source` to `remote`.
fn exceeded(site: &Site, source: [u8; 4], ports: (u16, u16), remote: [u8; 4]) -> Vec<u8> {
    let mut embedded = Vec::new();
    PacketBuilder::ipv4(source, remote, 1).udp(ports.0, ports.1).write(&mut embedded, &[0; 24]).unwrap();
    let to: Ipv4Addr = POD_A.parse().unwrap();
    let mut packet = Vec::new();
    PacketBuilder::ipv4(ROUTER, to.octets(), 64)
        .icmpv4(Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit))
        .write(&mut packet, &embedded)
        .unwrap();
    let macs = (site.snapshot.pods[0].mac.octets(), site.pod("t/a").gateway_mac.unwrap().octets());
    let vlan = site.snapshot.pods[0].vlan.get();
    tagged(ethernet(macs.0, macs.1, IPV4, &packet), VLAN, vlan)
}

#[test]
fn forged_errors_do_not_reach_the_pod() {
    const PORT: u16 = 7100;
    let site = Site::up(scenario(&[OUT]));
    let [a, b, far] = [POD_A, POD_B, FAR].map(|text| text.parse::<Ipv4Addr>().unwrap().octets());
    let socket = udp(site.namespace("t/a").unwrap(), "0.0.0.0:0", PATIENCE);
    let other = udp(site.namespace("t/b").unwrap(), "0.0.0.0:0", PATIENCE);
    for socket in [&socket, &other] {
        // There is a receiver, so that no honest error comes.
        let receiver = udp(site.namespace("far").unwrap(), &format!("{FAR}:{PORT}"), PATIENCE);
        socket.send_to(b"flow", (FAR, PORT)).unwrap();
        receiver.recv(&mut [0; 8]).unwrap();
    }
    let port_of =
        |socket: &std::net::UdpSocket| socket.local_addr().map(|local: SocketAddr| local.port()).unwrap();
    let (own, others) = (port_of(&socket), port_of(&other));
    let forged = [
        ("a port it never sent to", exceeded(&site, a, (own, PORT + 1), far)),
        ("a port it never sent from", exceeded(&site, a, (own ^ 1, PORT), far)),
        ("a far end it never spoke to", exceeded(&site, a, (own, PORT), [10, 0, 2, 99])),
        ("another pod's flow, as that pod", exceeded(&site, b, (others, PORT), far)),
        ("another pod's flow, as its own", exceeded(&site, a, (others, PORT), far)),
        ("what the far end sent", exceeded(&site, far, (PORT, own), a)),
    ];
    let mut packets = PacketSocket::open(site.namespace("t/a").unwrap()).unwrap();
    let before = site.pod("t/a").counters.ingress_dropped;
    let wires = forged.iter().map(|(_, frame)| frame);
    inject(site.namespace("vpc").unwrap(), "vpctrunk", wires);
    let dropped = || growth(&before, &site.pod("t/a").counters.ingress_dropped);
    let counted = || dropped().get("icmp-error-unrelated") == Some(&(forged.len() as u64));
    assert!(wait_for(counted), "{:?}", dropped());

    // An honest one passes, and is the first that the pod sees.
    inject(site.namespace("vpc").unwrap(), "vpctrunk", &vec![exceeded(&site, a, (own, PORT), far)]);
    let is_error = |frame: &[u8]| frame.get(12..14) == Some(&[8, 0]) && frame.get(34) == Some(&EXCEEDED);
    let first = packets.find(PATIENCE, is_error).unwrap().unwrap();
    assert_eq!(
        (first[62..64].to_vec(), first[64..66].to_vec()),
        (own.to_be_bytes().to_vec(), PORT.to_be_bytes().to_vec())
    );
    assert!(counted(), "{:?}", dropped());
    site.assert_balanced();
}

#[test]
fn a_narrow_hop_is_found_by_ping_and_by_tcp() {
    let site = Site::up(scenario(&[OUT]));
    let (a, vpc) = (site.namespace("t/a").unwrap(), site.namespace("vpc").unwrap());
    let far = site.namespace("far").unwrap();
    // Only towards the host: the host itself offers segments of the full size.
    vpc.ip("link set host0 mtu 1300").unwrap();
    for (index, to) in [FAR, FAR6].into_iter().enumerate() {
        let address = if index == 0 { format!("{to}:9000") } else { format!("[{to}]:9000") };
        let (mut near, mut other) = connection(a, far, &address).unwrap();
        assert!(converses(&mut near, &mut other));
        // The first full segment meets the hop.
        transfer(near, other, 3_000_000);
        let route = a.ip_show(&format!("route get {to}")).unwrap();
        assert!(route.contains("mtu 1300"), "{route}");
        a.ip("route flush cache").unwrap();
    }
    let mut ping = Command::new("ping");
    let output = a.output(ping.args(["-c", "1", "-W", "5", "-M", "do", "-s", "1400", FAR])).unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).replace(' ', "");
    assert!(said.contains("mtu=1300") || said.contains("mtu:1300"), "{said}");
    site.assert_balanced();
}
