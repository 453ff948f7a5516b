//! What a broken or hostile workload in pod a might send.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ALLOWED, Case, DENIED, HOSTILE, Macs};
use crate::frames::{
    ARP, BROADCAST, ICMPV6, IPV4, IPV6, SERVICE_VLAN, TCP, UDP, V4, VLAN, arp, ethernet, icmpv6, tagged, udp,
    v6,
};

const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 20);
const POD_A: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const POD_B: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 0x20);
const POD_A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 1, 0, 0, 0, 0x10);
const POD_B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 1, 0, 0, 0, 0x11);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

pub(super) fn cases(macs: &Macs) -> Vec<Case> {
    let mut cases = spoofed(macs);
    cases.extend(neighbours(macs));
    cases.extend(malformed(macs));
    cases.extend(policy(macs));
    cases
}

fn good(to: Ipv4Addr) -> V4 {
    V4::udp(POD_A, to, ALLOWED, HOSTILE)
}

/// To what the pod takes for its gateway.
fn out(macs: &Macs, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    ethernet([2, 0, 0, 0, 0, 9], macs.pod, ethertype, packet)
}

fn spoofed(macs: &Macs) -> Vec<Case> {
    let from = |from: Ipv4Addr, to: Ipv4Addr| out(macs, IPV4, &V4 { from, ..good(to) }.bytes());
    let (address, tag) = ("source-address-foreign", "vlan-tag-from-sender");
    let honest = out(macs, IPV4, &good(FAR).bytes());
    let question = ethernet(BROADCAST, macs.pod, ARP, &arp(1, (macs.pod, POD_A), ([0; 6], POD_B)));
    let from_b6 = v6(POD_B6, FAR6, UDP, 64, &udp(ALLOWED, HOSTILE));
    vec![
        Case::new("from b's address to the VPC", address, from(POD_B, FAR)),
        Case::new("from b's address to b", address, from(POD_B, POD_B)),
        Case::new("from a host's address to b", address, from(FAR, POD_B)),
        Case::new("from b's IPv6 address", address, out(macs, IPV6, &from_b6)),
        Case::new("from no address", address, from(Ipv4Addr::UNSPECIFIED, FAR)),
        Case::new("from another MAC", "source-mac-foreign", {
            ethernet([2, 0, 0, 0, 0, 9], macs.branch_b, IPV4, &good(FAR).bytes())
        }),
        Case::new("from another MAC to b", "source-mac-foreign", {
            ethernet([2, 0, 0, 0, 0, 9], macs.branch_b, IPV4, &good(POD_B).bytes())
        }),
        Case::new("with b's VLAN", tag, tagged(honest.clone(), VLAN, 2)),
        Case::new("with its own VLAN", tag, tagged(honest.clone(), VLAN, 1)),
        Case::new("with its own VLAN to b", tag, tagged(from(POD_A, POD_B), VLAN, 1)),
        Case::new("with its own VLAN to all", tag, tagged(question, VLAN, 1)),
        Case::new("with two tags", tag, tagged(tagged(honest.clone(), VLAN, 2), VLAN, 1)),
        Case::new("with a service tag", tag, tagged(honest, SERVICE_VLAN, 2)),
        Case::new("a broadcast", "multicast", ethernet(BROADCAST, macs.pod, IPV4, &good(POD_B).bytes())),
        Case::new("to a group", "multicast", out(macs, IPV4, &good(Ipv4Addr::new(224, 0, 0, 1)).bytes())),
        Case::new("to all nodes", "multicast", {
            out(macs, IPV6, &v6(POD_A6, ALL_NODES, UDP, 64, &udp(ALLOWED, HOSTILE)))
        }),
    ]
}

fn neighbours(macs: &Macs) -> Vec<Case> {
    let claim = |sender: Ipv4Addr| {
        ethernet(BROADCAST, macs.pod, ARP, &arp(2, (macs.pod, sender), (BROADCAST, POD_B)))
    };
    let advertisement = |from: Ipv6Addr, target: Ipv6Addr| {
        let rest = [&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &macs.pod].concat();
        out(macs, IPV6, &v6(from, ALL_NODES, ICMPV6, 255, &icmpv6(from, ALL_NODES, 136, &rest)))
    };
    let router = icmpv6(POD_A6, ALL_NODES, 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (bad_arp, bad_nd) = ("arp-invalid", "neighbour-discovery-invalid");
    vec![
        Case::new("ARP: b's address is here", bad_arp, claim(POD_B)),
        Case::new("ARP: the gateway is here", bad_arp, claim(POD_GATEWAY)),
        Case::new("ARP with another MAC inside", bad_arp, {
            ethernet(BROADCAST, macs.pod, ARP, &arp(1, (macs.branch_b, POD_A), ([0; 6], POD_B)))
        }),
        Case::new("half an ARP packet", bad_arp, {
            ethernet(BROADCAST, macs.pod, ARP, &arp(1, (macs.pod, POD_A), ([0; 6], POD_B))[..27])
        }),
        Case::new("an advertisement from b's address", bad_nd, advertisement(POD_B6, POD_B6)),
        Case::new("a router's advertisement", bad_nd, {
            out(macs, IPV6, &v6(POD_A6, ALL_NODES, ICMPV6, 255, &router))
        }),
    ]
}

fn malformed(macs: &Macs) -> Vec<Case> {
    let v4 = |packet: V4| out(macs, IPV4, &packet.bytes());
    let part = |id: u16, to: Ipv4Addr| {
        v4(V4 { fragment: (id, 1, false), ..V4::new(POD_A, to, UDP, [HOSTILE, &[0; 9]].concat()) })
    };
    let mut routed = vec![UDP, 0, 0, 1, 0, 0, 0, 0];
    routed.extend(udp(ALLOWED, HOSTILE));
    let mut chain: Vec<u8> = (0..20).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
    chain.extend(udp(ALLOWED, HOSTILE));
    vec![
        Case::new("nothing behind the EtherType", "ipv4-header-invalid", out(macs, IPV4, &[])),
        Case::new(
            "longer than the frame",
            "ipv4-header-invalid",
            v4(V4 { length_error: (0, 9), ..good(FAR) }),
        ),
        Case::new("to b, longer than the frame", "ipv4-header-invalid", {
            v4(V4 { length_error: (0, 9), ..good(POD_B) })
        }),
        Case::new(
            "a wrong header checksum",
            "ipv4-checksum-invalid",
            v4(V4 { checksum_error: 1, ..good(FAR) }),
        ),
        Case::new("a source route to b", "source-route", {
            v4(V4 { options: vec![131, 7, 4, 10, 0, 1, 11, 0], ..good(POD_B) })
        }),
        Case::new(
            "an IPv6 source route",
            "source-route",
            out(macs, IPV6, &v6(POD_A6, FAR6, 43, 64, &routed)),
        ),
        Case::new("twenty extension headers", "ipv6-extensions-invalid", {
            out(macs, IPV6, &v6(POD_A6, POD_B6, 60, 64, &chain))
        }),
        Case::new("half a TCP header", "tcp-header-invalid", v4(V4::new(POD_A, FAR, TCP, vec![0; 19]))),
        Case::new("LLDP", "ethertype-unknown", out(macs, 0x88cc, HOSTILE)),
        Case::once("a fragment without a first", "fragment-orphan", part(1, FAR)),
        Case::once("to b, a fragment without a first", "fragment-orphan", part(2, POD_B)),
    ]
}

fn policy(macs: &Macs) -> Vec<Case> {
    let to = |to: Ipv4Addr, port: u16| out(macs, IPV4, &V4::udp(POD_A, to, port, HOSTILE).bytes());
    vec![
        Case::new("a port that no rule allows", "denied-egress", to(FAR, DENIED)),
        Case::new("to b, a port that no rule allows", "denied-egress", to(POD_B, DENIED)),
        Case::new(
            "a destination that no rule allows",
            "denied-egress",
            to(Ipv4Addr::new(10, 1, 0, 1), ALLOWED),
        ),
    ]
}
