//! What a neighbour in the VPC might send to branch a (and, on the wrong VLAN, to branch b).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ALLOWED, Case, DENIED, HOSTILE, Macs};
use crate::frames::{
    ARP, BROADCAST, ICMP, ICMPV6, IPV4, IPV6, SERVICE_VLAN, TCP, UDP, V4, VLAN, arp, ethernet, icmpv6,
    tagged, udp, v6,
};

const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 20);
const POD_A: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const POD_B: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 0x20);
const POD_A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 1, 0, 0, 0, 0x10);

pub(super) fn cases(macs: &Macs) -> Vec<Case> {
    let mut cases = headers(macs);
    cases.extend(ipv6_headers(macs));
    cases.extend(addresses(macs));
    cases.extend(neighbours(macs));
    cases.extend(fragments(macs));
    cases.extend(policy(macs));
    cases
}

fn good() -> V4 {
    V4::udp(FAR, POD_A, ALLOWED, HOSTILE)
}

/// To branch a on its VLAN.
fn to_a(macs: &Macs, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    tagged(ethernet(macs.branch_a, macs.gateway, ethertype, packet), VLAN, 1)
}

fn headers(macs: &Macs) -> Vec<Case> {
    let v4 = |packet: V4| to_a(macs, IPV4, &packet.bytes());
    let upper = |protocol: u8, payload: &[u8]| v4(V4::new(FAR, POD_A, protocol, payload.to_vec()));
    let options = |options: &[u8]| v4(V4 { options: options.to_vec(), ..good() });
    let mut low_offset = vec![0; 24];
    low_offset[12] = 0x40;
    let (short, lengths, option) = ("ipv4-header-invalid", "ipv4-header-invalid", "ipv4-options-invalid");
    let inner = ethernet(macs.branch_a, macs.gateway, IPV4, &good().bytes());
    vec![
        Case::new("nothing behind the EtherType", short, to_a(macs, IPV4, &[])),
        Case::new("half an IPv4 header", short, to_a(macs, IPV4, &good().bytes()[..19])),
        Case::new("longer than the frame", lengths, v4(V4 { length_error: (0, 1), ..good() })),
        Case::new("shorter than its header", lengths, v4(V4 { length_error: (0, -16), ..good() })),
        Case::new("a header of four words", lengths, v4(V4 { length_error: (-1, 0), ..good() })),
        Case::new("IP version 5", lengths, v4(V4 { version: 5, ..good() })),
        Case::new("a wrong header checksum", "ipv4-checksum-invalid", v4(V4 { checksum_error: 1, ..good() })),
        Case::new("a loose source route", "source-route", options(&[131, 7, 4, 10, 0, 1, 11, 0])),
        Case::new("a strict source route", "source-route", options(&[1, 137, 7, 4, 10, 0, 1, 11])),
        Case::new("an option over the end", option, options(&[68, 40, 5, 0])),
        Case::new("an option without length", option, options(&[7, 1, 0, 0])),
        Case::new("half a TCP header", "tcp-header-invalid", upper(TCP, &[0; 10])),
        Case::new("a TCP header of four words", "tcp-header-invalid", upper(TCP, &low_offset)),
        Case::new("half a UDP header", "udp-header-invalid", upper(UDP, &[0; 4])),
        Case::new("half an ICMP header", "icmp-header-invalid", upper(ICMP, &[8, 0])),
        Case::new("a second tag", "vlan-tag-from-sender", tagged(tagged(inner.clone(), VLAN, 2), VLAN, 1)),
        Case::new(
            "a service tag inside",
            "vlan-tag-from-sender",
            tagged(tagged(inner, SERVICE_VLAN, 2), VLAN, 1),
        ),
        Case::new("LLDP", "ethertype-unknown", to_a(macs, 0x88cc, HOSTILE)),
    ]
}

fn ipv6_headers(macs: &Macs) -> Vec<Case> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let datagram = udp(ALLOWED, HOSTILE);
    let behind = |first: u8, headers: &[[u8; 8]]| {
        let payload = [headers.concat(), datagram.clone()].concat();
        to_a(macs, IPV6, &v6(FAR6, POD_A6, first, 64, &payload))
    };
    let whole = v6(FAR6, POD_A6, UDP, 64, &datagram);
    let mut old = whole.clone();
    old[0] = 0x40;
    let next = |protocol: u8| [protocol, 0, 1, 4, 0, 0, 0, 0];
    let chain: Vec<_> = (0..20).map(|_| next(DESTINATION)).collect();
    let extensions = "ipv6-extensions-invalid";
    vec![
        Case::new(
            "an IPv6 payload cut short",
            "ipv6-header-invalid",
            to_a(macs, IPV6, &whole[..whole.len() - 1]),
        ),
        Case::new("half an IPv6 header", "ipv6-header-invalid", to_a(macs, IPV6, &whole[..39])),
        Case::new("IP version 4 as IPv6", "ipv6-header-invalid", to_a(macs, IPV6, &old)),
        Case::new(
            "a routing header of type 0",
            "source-route",
            behind(ROUTING, &[[UDP, 0, 0, 1, 0, 0, 0, 0]]),
        ),
        Case::new("twenty extension headers", extensions, behind(DESTINATION, &chain)),
        Case::new(
            "hop-by-hop options not first",
            extensions,
            behind(DESTINATION, &[next(HOP_BY_HOP), next(UDP)]),
        ),
        Case::new(
            "an extension header over the end",
            extensions,
            behind(DESTINATION, &[[UDP, 255, 0, 0, 0, 0, 0, 0]]),
        ),
        Case::new(
            "two fragment headers",
            extensions,
            behind(FRAGMENT, &[[FRAGMENT, 0, 0, 1, 0, 0, 0, 1], [UDP, 0, 0, 1, 0, 0, 0, 1]]),
        ),
    ]
}

fn addresses(macs: &Macs) -> Vec<Case> {
    let packet = good().bytes();
    let from = |from: Ipv4Addr| to_a(macs, IPV4, &V4 { from, ..good() }.bytes());
    let to =
        |mac, to: Ipv4Addr| tagged(ethernet(mac, macs.gateway, IPV4, &V4 { to, ..good() }.bytes()), VLAN, 1);
    let on_b = |mac| tagged(ethernet(mac, macs.gateway, IPV4, &packet), VLAN, 2);
    let group = [0x01, 0, 0x5e, 0, 0, 1];
    vec![
        Case::new("a's frame on b's VLAN", "destination-mac-foreign", on_b(macs.branch_a)),
        Case::new("a's address to b's MAC", "destination-address-foreign", on_b(macs.branch_b)),
        Case::new("b's address to a's MAC", "destination-address-foreign", to(macs.branch_a, POD_B)),
        Case::new("from the pod's own address", "source-address-foreign", from(POD_A)),
        Case::new("from loopback", "source-address-foreign", from(Ipv4Addr::LOCALHOST)),
        Case::new("from nowhere", "source-address-foreign", from(Ipv4Addr::UNSPECIFIED)),
        Case::new("from a group", "source-address-foreign", from(Ipv4Addr::new(224, 0, 0, 5))),
        Case::new("an Ethernet broadcast", "multicast", to(BROADCAST, POD_A)),
        Case::new("an IP broadcast", "multicast", to(macs.branch_a, Ipv4Addr::BROADCAST)),
        Case::new("to a group", "multicast", to(group, Ipv4Addr::new(224, 0, 0, 1))),
        Case::new(
            "to a group behind a unicast MAC",
            "multicast",
            to(macs.branch_a, Ipv4Addr::new(239, 1, 1, 1)),
        ),
    ]
}

fn neighbours(macs: &Macs) -> Vec<Case> {
    let request = |sender: [u8; 6]| arp(1, (sender, FAR), ([0; 6], POD_A));
    let solicitation = icmpv6(FAR6, POD_A6, 135, &[&[0; 4][..], &POD_A6.octets()].concat());
    let mut bad_sum = solicitation.clone();
    bad_sum[2] ^= 1;
    let redirect = icmpv6(FAR6, POD_A6, 137, &[&[0; 4][..], &FAR6.octets(), &FAR6.octets()].concat());
    let nd = |hop_limit, message: &[u8]| to_a(macs, IPV6, &v6(FAR6, POD_A6, ICMPV6, hop_limit, message));
    let (bad_arp, bad_nd) = ("arp-invalid", "neighbour-discovery-invalid");
    vec![
        Case::new("half an ARP packet", bad_arp, to_a(macs, ARP, &request(macs.gateway)[..20])),
        Case::new("ARP for somebody else's MAC", bad_arp, to_a(macs, ARP, &request([2, 0, 0, 0, 0, 7]))),
        Case::new("ARP from a group", bad_arp, {
            let mut frame = to_a(macs, ARP, &request([3, 0, 0, 0, 0, 7]));
            frame[6..12].copy_from_slice(&[3, 0, 0, 0, 0, 7]);
            frame
        }),
        Case::new("a solicitation that was forwarded", bad_nd, nd(64, &solicitation)),
        Case::new("a solicitation with a wrong checksum", bad_nd, nd(255, &bad_sum)),
        Case::new("a redirect", bad_nd, nd(255, &redirect)),
    ]
}

fn fragments(macs: &Macs) -> Vec<Case> {
    let part = |fragment: (u16, u16, bool), payload: Vec<u8>| {
        to_a(macs, IPV4, &V4 { fragment, ..V4::new(FAR, POD_A, UDP, payload) }.bytes())
    };
    let hidden = [HOSTILE, &[0; 9]].concat();
    let tiny = V4 { fragment: (1, 0, true), ..V4::new(FAR, POD_A, TCP, vec![0; 8]) };
    let first = |id: u16| {
        let allowed = V4 { fragment: (id, 0, true), ..V4::udp(FAR, POD_A, ALLOWED, &[0; 16]) };
        to_a(macs, IPV4, &allowed.bytes())
    };
    let denied = V4 { fragment: (7, 0, true), ..V4::udp(FAR, POD_A, DENIED, &hidden) };
    vec![
        Case::new(
            "a first fragment that hides the ports",
            "tcp-header-invalid",
            to_a(macs, IPV4, &tiny.bytes()),
        ),
        Case::once("a fragment without a first", "fragment-orphan", part((2, 1, false), hidden.clone())),
        Case::once("an uneven fragment", "fragment-invalid", part((3, 1, true), hidden[..15].to_vec())),
        Case::once("beyond the largest packet", "fragment-invalid", part((4, 8191, false), hidden.clone())),
        Case {
            what: "the fragments of a denied packet",
            reason: "denied-ingress",
            dropped: 2,
            frames: vec![to_a(macs, IPV4, &denied.bytes()), part((7, 3, false), hidden.clone())],
        },
        Case {
            what: "a fragment over the first one",
            reason: "fragment-invalid",
            dropped: 1,
            frames: vec![first(8), part((8, 1, false), hidden)],
        },
        Case {
            what: "a first fragment twice, with a proper end",
            reason: "fragment-invalid",
            dropped: 1,
            frames: vec![first(9), first(9), part((9, 3, false), vec![0; 8])],
        },
    ]
}

fn policy(macs: &Macs) -> Vec<Case> {
    let about = V4::udp(POD_A, FAR, ALLOWED, HOSTILE).bytes();
    let error = |kind: u8| {
        let message = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &about].concat();
        to_a(macs, IPV4, &V4::new(FAR, POD_A, ICMP, message).bytes())
    };
    let datagram = V4::udp(FAR, POD_A, DENIED, HOSTILE);
    let outside = V4::udp(Ipv4Addr::new(10, 1, 0, 1), POD_A, ALLOWED, HOSTILE);
    vec![
        Case::new("a port that no rule allows", "denied-ingress", to_a(macs, IPV4, &datagram.bytes())),
        Case::new("a source that no rule allows", "denied-ingress", to_a(macs, IPV4, &outside.bytes())),
        Case::new("a protocol that no rule allows", "denied-ingress", {
            to_a(macs, IPV4, &V4::new(FAR, POD_A, 47, HOSTILE.to_vec()).bytes())
        }),
        Case::new("an error about no flow", "icmp-error-unrelated", error(3)),
    ]
}
