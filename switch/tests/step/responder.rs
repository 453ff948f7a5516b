//! ARP and neighbour discovery: what is asked of the switch on either side, and what it asks.

use crate::harness::*;
use espalier_switch::reason::DropReason;
use espalier_switch::step::From;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscRepr};

fn arp(source: [u8; 6], operation: ArpOperation, sender: &str, target: &str) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source),
        source_protocol_addr: sender.parse().unwrap(),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target.parse().unwrap(),
    };
    let mut frame = [&[0xff; 6][..], &source, &[8, 6], &[0; 28]].concat();
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

fn parse_arp(body: &[u8]) -> (ArpOperation, [u8; 6], String, [u8; 6], String) {
    match ArpRepr::parse(&ArpPacket::new_checked(body).unwrap()).unwrap() {
        ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_hardware_addr,
            target_protocol_addr,
        } => (
            operation,
            source_hardware_addr.0,
            source_protocol_addr.to_string(),
            target_hardware_addr.0,
            target_protocol_addr.to_string(),
        ),
        _ => panic!(),
    }
}

#[test]
fn to_a_pod_the_switch_is_every_neighbour_but_itself() {
    let mut bench = Bench::new();
    for target in ["169.254.1.1", DB_IP, "8.8.8.8"] {
        let request = arp(POD_MAC[0], ArpOperation::Request, WEB_IP, target);
        let replies = bench.consumed(local(WEB), &request);
        assert_eq!(replies.len(), 1);
        assert_eq!(replies[0].to, Some(WEB));
        assert_eq!((&replies[0].bytes[..6], &replies[0].bytes[6..12]), (&POD_MAC[0][..], &VETH_MAC[0][..]));
        let expected = (ArpOperation::Reply, VETH_MAC[0], target.to_owned(), POD_MAC[0], WEB_IP.to_owned());
        assert_eq!(parse_arp(&replies[0].bytes[14..]), expected);
    }
    for (sender, target) in [(WEB_IP, WEB_IP), ("0.0.0.0", WEB_IP), ("0.0.0.0", "169.254.1.1")] {
        let request = arp(POD_MAC[0], ArpOperation::Request, sender, target);
        assert_eq!(bench.consumed(local(WEB), &request), [], "{sender} {target}");
    }
    let spoofed = arp(POD_MAC[0], ArpOperation::Request, DB_IP, "169.254.1.1");
    assert_eq!(bench.dropped(local(WEB), &spoofed), DropReason::ArpInvalid);
    let mut disagreeing = arp(POD_MAC[0], ArpOperation::Request, WEB_IP, "169.254.1.1");
    disagreeing[7] ^= 4;
    assert_eq!(bench.dropped(local(WEB), &disagreeing), DropReason::ArpInvalid);
}

#[test]
fn to_the_vpc_the_switch_is_the_branch() {
    let mut bench = Bench::new();
    let request = arp(GATEWAY_MAC, ArpOperation::Request, "10.0.1.1", WEB_IP);
    let replies = bench.consumed(trunk(WEB), &request);
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].to, None);
    assert_eq!(replies[0].bytes[12..18], [0x81, 0, 0, 101, 8, 6]);
    let expected =
        (ArpOperation::Reply, BRANCH_MAC[0], WEB_IP.to_owned(), GATEWAY_MAC, "10.0.1.1".to_owned());
    assert_eq!(parse_arp(&replies[0].bytes[18..]), expected);
    let other = arp(GATEWAY_MAC, ArpOperation::Request, "10.0.1.1", DB_IP);
    assert_eq!(bench.consumed(trunk(WEB), &other), []);
}

#[test]
fn gateways_and_pods_are_asked_for_and_learned() {
    let mut bench = Bench::with(&SNAPSHOT.replace(", gateway: {mac: '02:ee:00:00:00:01'}", ""));
    let mut asked = Vec::new();
    bench.shard.links.ask(&bench.tables, bench.now, |frame| asked.push(frame));
    // Two pods, two families, gateway and pod each.
    assert_eq!(asked.len(), 8);
    let gateway = asked.iter().find(|frame| frame.to.is_none()).unwrap();
    assert_eq!(gateway.bytes[..18], [&[0xff; 6][..], &BRANCH_MAC[0], &[0x81, 0, 0, 101, 8, 6]].concat());
    let expected = (ArpOperation::Request, BRANCH_MAC[0], WEB_IP.to_owned(), [0; 6], "10.0.1.1".to_owned());
    assert_eq!(parse_arp(&gateway.bytes[18..]), expected);

    let out = tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Syn(1, 2)));
    assert_eq!(bench.dropped(pod(WEB), &out), DropReason::GatewayUnresolved);
    bench.consumed(trunk(WEB), &arp(GATEWAY_MAC, ArpOperation::Reply, "10.0.1.1", WEB_IP));
    let sent = bench.forwarded(pod(WEB), &out, None);
    assert_eq!(sent[..6], GATEWAY_MAC);
    // Somebody else's answer teaches nothing.
    bench.consumed(trunk(WEB), &arp([2; 6], ArpOperation::Reply, "10.0.1.2", WEB_IP));
    assert_eq!(bench.forwarded(pod(WEB), &out, None)[..6], GATEWAY_MAC);

    let out6 = tagged(WEB, from_pod(WEB, WEB_IP6, HOST_IP6, Load::Syn(1, 2)));
    assert_eq!(bench.dropped(pod(WEB), &out6), DropReason::GatewayUnresolved);
    let advertisement = NdiscRepr::NeighborAdvert {
        flags: smoltcp::wire::NdiscNeighborFlags::SOLICITED,
        target_addr: "fe80:ec2::1".parse().unwrap(),
        lladdr: Some(EthernetAddress(GATEWAY_MAC).into()),
    };
    let frame = nd((GATEWAY_MAC, BRANCH_MAC[0]), "fe80:ec2::1", "fe80::cc:ff:fe00:1", advertisement);
    bench.consumed(trunk(WEB), &frame);
    assert_eq!(bench.forwarded(pod(WEB), &out6, None)[..6], GATEWAY_MAC);
}

fn nd(macs: ([u8; 6], [u8; 6]), source: &str, destination: &str, repr: NdiscRepr<'_>) -> Vec<u8> {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let message = Icmpv6Repr::Ndisc(repr);
    let mut body = vec![0; message.buffer_len()];
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    message.emit(&source, &destination, &mut Icmpv6Packet::new_unchecked(&mut body[..]), &checksums);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(source.octets(), destination.octets(), 255)
        .write(&mut frame, etherparse::IpNumber::IPV6_ICMP, &body)
        .unwrap();
    frame
}

fn solicit(source: &str, target: &str) -> Vec<u8> {
    let repr = NdiscRepr::NeighborSolicit {
        target_addr: target.parse().unwrap(),
        lladdr: Some(EthernetAddress(POD_MAC[0]).into()),
    };
    nd((POD_MAC[0], [0x33, 0x33, 0xff, 0, 0, 1]), source, "ff02::1:ff00:1", repr)
}

#[test]
fn solicitations_are_answered_on_both_sides() {
    let mut bench = Bench::new();
    let answer = |from: From, frame: &[u8], bench: &mut Bench| {
        let mut replies = bench.consumed(from, frame);
        replies.pop().map(|reply| {
            let l2 = if reply.to.is_none() { 18 } else { 14 };
            let source = <[u8; 16]>::try_from(&reply.bytes[l2 + 8..l2 + 24]).unwrap();
            let to = <[u8; 16]>::try_from(&reply.bytes[l2 + 24..l2 + 40]).unwrap();
            let message = Icmpv6Packet::new_checked(&reply.bytes[l2 + 40..]).unwrap();
            let checksums = smoltcp::phy::ChecksumCapabilities::default();
            let parsed = Icmpv6Repr::parse(&source.into(), &to.into(), &message, &checksums).unwrap();
            match parsed {
                Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr, lladdr, .. }) => {
                    (reply.to, target_addr.to_string(), lladdr.unwrap().as_bytes().to_vec())
                }
                other => panic!("{other:?}"),
            }
        })
    };
    let from_pod = solicit(WEB_IP6, "fe80::1");
    let expected = Some((Some(WEB), "fe80::1".to_owned(), VETH_MAC[0].to_vec()));
    assert_eq!(answer(local(WEB), &from_pod, &mut bench), expected);
    assert_eq!(answer(local(WEB), &solicit("::", WEB_IP6), &mut bench), None, "duplicate address detection");
    assert_eq!(answer(local(WEB), &solicit(WEB_IP6, WEB_IP6), &mut bench), None);
    let from_vpc = solicit("fe80:ec2::1", WEB_IP6);
    let expected = Some((None, WEB_IP6.to_owned(), BRANCH_MAC[0].to_vec()));
    assert_eq!(answer(trunk(WEB), &from_vpc, &mut bench), expected);
    assert_eq!(answer(trunk(WEB), &solicit("fe80:ec2::1", DB_IP6), &mut bench), None);

    assert_eq!(bench.dropped(local(WEB), &solicit(DB_IP6, "fe80::1")), DropReason::NeighbourDiscoveryInvalid);
    for (at, what) in [(14 + 7, "hop limit"), (14 + 42, "checksum")] {
        let mut frame = solicit(WEB_IP6, "fe80::1");
        frame[at] ^= 1;
        assert_eq!(bench.dropped(local(WEB), &frame), DropReason::NeighbourDiscoveryInvalid, "{what}");
    }
    let advert = NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: smoltcp::wire::NdiscRouterFlags::empty(),
        router_lifetime: smoltcp::time::Duration::from_secs(1800),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: None,
    };
    let rogue = nd((POD_MAC[0], [0x33, 0x33, 0, 0, 0, 1]), "fe80::aa:ff:fe00:1", "ff02::1", advert);
    assert_eq!(bench.dropped(local(WEB), &rogue), DropReason::NeighbourDiscoveryInvalid);
}
