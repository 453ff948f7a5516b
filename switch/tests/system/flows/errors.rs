//! ICMP errors: those about a pod's own flows reach it without a rule (traceroute, path MTU), forged ones do not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use espalier_lab::netns::NetNs;
use espalier_lab::packet_socket::PacketSocket;
use etherparse::{
    Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6,
};
use socket2::SockRef;

use super::{FAR6, OUT, POD_A6, at, scenario};
use crate::frames::{IPV4, IPV6, VLAN, ethernet, inject, tagged};
use crate::site::{FAR, PATIENCE, POD_A, POD_B, Site, growth, wait_for};
use crate::traffic::{connection, converses, transfer, udp};

/// The first router on the way out of the pods' subnet.
const GATEWAY: &str = "10.0.1.1";
/// The same router in IPv6: it signs with the one address it has that is not link-local, that of its metadata service.
const GATEWAY6: &str = "fd00:ec2::254";
/// A router further on. What the gateway itself sends is never filtered.
const ROUTER: [u8; 4] = [10, 0, 2, 77];
const ROUTER6: &str = "2001:db8:1:2::77";
const EXCEEDED: u8 = 11;

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Exceeded,
    Unreachable,
}

/// Whether the frame is an ICMP error about a datagram to this port; which, and who sent it.
fn error_about(frame: &[u8], port: u16) -> Option<(Fate, IpAddr)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    // The datagram's ports follow the embedded IP header.
    let (kind, payload, ports, source): (_, _, _, IpAddr) = match (sliced.net?, sliced.transport?) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            (icmp.slice()[0], icmp.payload(), 20, ip.header().source_addr().into())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            (icmp.slice()[0], icmp.payload(), 40, ip.header().source_addr().into())
        }
        _ => return None,
    };
    let fate = match (kind, source) {
        (EXCEEDED, IpAddr::V4(_)) | (3, IpAddr::V6(_)) => Fate::Exceeded,
        (3, IpAddr::V4(_)) | (1, IpAddr::V6(_)) => Fate::Unreachable,
        _ => return None,
    };
    (payload.get(ports + 2..ports + 4)? == port.to_be_bytes()).then_some((fate, source))
}

/// Sends a datagram that lives for so many hops; what came of it.
fn probe(pod: &NetNs, to: &str, hops: u32, port: u16) -> Option<(Fate, IpAddr)> {
    let mut packets = PacketSocket::open(pod).unwrap();
    let six = to.contains(':');
    let socket = udp(pod, if six { "[::]:0" } else { "0.0.0.0:0" }, Duration::from_millis(10));
    if six {
        SockRef::from(&socket).set_unicast_hops_v6(hops).unwrap();
    } else {
        socket.set_ttl(hops).unwrap();
    }
    let mut answer = None;
    wait_for(|| {
        // An error about an earlier one may be reported here.
        let _ = socket.send_to(&[0; 24], (to, port));
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
    for (gateway, far) in [(GATEWAY, FAR), (GATEWAY6, FAR6)] {
        let hops: Vec<_> = (1..=3).map(|hops| probe(a, far, hops, 33433 + hops as u16).unwrap()).collect();
        let [gateway, far] = [gateway, far].map(|address| address.parse().unwrap());
        assert_eq!(hops, [(Fate::Exceeded, gateway), (Fate::Unreachable, far), (Fate::Unreachable, far)]);
    }
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
        .icmpv4(Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit))
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

/// The same in IPv6.
fn exceeded6(site: &Site, ports: (u16, u16)) -> Vec<u8> {
    let [pod, far, router] = [POD_A6, FAR6, ROUTER6].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
    let mut embedded = Vec::new();
    PacketBuilder::ipv6(pod, far, 1).udp(ports.0, ports.1).write(&mut embedded, &[0; 24]).unwrap();
    let mut packet = Vec::new();
    PacketBuilder::ipv6(router, pod, 64)
        .icmpv6(Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded))
        .write(&mut packet, &embedded)
        .unwrap();
    let macs = (site.snapshot.pods[0].mac.octets(), site.pod("t/a").gateway_mac.unwrap().octets());
    tagged(ethernet(macs.0, macs.1, IPV6, &packet), VLAN, site.snapshot.pods[0].vlan.get())
}

#[test]
fn a_hop_further_on_is_heard_in_ipv6_about_the_pods_own_flows_only() {
    const PORT: u16 = 7200;
    let site = Site::up(scenario(&[OUT]));
    let a = site.namespace("t/a").unwrap();
    let receiver = udp(site.namespace("far").unwrap(), &at(FAR6, PORT), PATIENCE);
    let socket = udp(a, "[::]:0", PATIENCE);
    socket.send_to(b"flow", (FAR6, PORT)).unwrap();
    receiver.recv(&mut [0; 8]).unwrap();
    let own = socket.local_addr().unwrap().port();
    let mut packets = PacketSocket::open(a).unwrap();
    // The forged one first, so that it would be seen first.
    let wires = [exceeded6(&site, (own, PORT + 1)), exceeded6(&site, (own, PORT))];
    inject(site.namespace("vpc").unwrap(), "vpctrunk", &wires);
    let about = |frame: &[u8]| [PORT, PORT + 1].into_iter().find(|port| error_about(frame, *port).is_some());
    let heard = packets.find(PATIENCE, |frame| about(frame).is_some()).unwrap().unwrap();
    assert_eq!(error_about(heard, PORT), Some((Fate::Exceeded, ROUTER6.parse().unwrap())));
    assert_eq!(site.pod("t/a").counters.ingress_dropped.get("icmp-error-unrelated"), Some(&1));
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
