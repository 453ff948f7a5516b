//! IPv6 with extension headers: judged by what lies behind them, and carried with them.

use std::net::{Ipv6Addr, UdpSocket};

use espalier_api::flows::Flow;
use espalier_lab::packet_socket::PacketSocket;
use etherparse::UdpHeader;
use serde_json::json;

use super::{FAR6, POD_A6, POD_B6, list, scenario};
use crate::frames::{IPV6, UDP, VLAN, ethernet, inject, tagged, v6};
use crate::site::{PATIENCE, Site, growth, wait_for};
use crate::traffic::{answers, udp, udp_echo};

const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// PadN over the whole of the shortest header there is (RFC 8200 section 4.2).
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
/// Sixteen bytes with an option for experiments that is to be skipped where it is unknown (RFC 4727): Linux takes at most
/// seven bytes of padding at a time.
const EXPERIMENT: [u8; 15] = [1, 0x1e, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Offset 0, no more: all of the packet in one fragment (RFC 6946).
const ATOMIC: [u8; 7] = [0, 0, 0, 0, 0, 0, 9];

type Chain = &'static [(u8, &'static [u8])];

const CHAINS: [Chain; 6] = [
    &[],
    &[(HOP_BY_HOP, &PADDING)],
    &[(DESTINATION, &PADDING)],
    &[(HOP_BY_HOP, &PADDING), (DESTINATION, &EXPERIMENT)],
    &[(FRAGMENT, &ATOMIC)],
    &[(HOP_BY_HOP, &EXPERIMENT), (DESTINATION, &PADDING), (FRAGMENT, &ATOMIC), (DESTINATION, &PADDING)],
];

/// A UDP datagram behind a chain of headers.
fn packet(from: &str, to: &str, port: u16, chain: Chain, payload: &[u8]) -> Vec<u8> {
    let (from, to): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), to.parse().unwrap());
    let header = UdpHeader::with_ipv6_checksum(4000, port, &ipv6_header(from, to), payload).unwrap();
    let mut kinds = chain.iter().map(|(kind, _)| *kind).chain([UDP]);
    let first = kinds.next().unwrap();
    let mut behind = Vec::new();
    for (_, body) in chain {
        behind.push(kinds.next().unwrap());
        behind.extend_from_slice(body);
    }
    behind.extend(header.to_bytes());
    behind.extend_from_slice(payload);
    v6(from, to, first, 64, &behind)
}

fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr) -> etherparse::Ipv6Header {
    etherparse::Ipv6Header { source: from.octets(), destination: to.octets(), ..Default::default() }
}

fn receives(socket: &UdpSocket, wanted: &[u8]) -> bool {
    let mut received = [0; 64];
    socket.recv(&mut received).is_ok_and(|length| received[..length] == *wanted)
}

#[test]
fn they_are_judged_by_their_upper_layer() {
    let rule = "IpProtocol: udp, FromPort: 7, ToPort: 7";
    let site = Site::up(scenario(&[&format!("IsEgress: true, {rule}"), rule]));
    let ways = [("t/a", POD_A6, "far", FAR6), ("far", FAR6, "t/a", POD_A6), ("t/a", POD_A6, "t/b", POD_B6)];
    for (from, own, to, address) in ways {
        let (sender, receiver) = (site.namespace(from).unwrap(), site.namespace(to).unwrap());
        let echo = udp_echo(receiver, &format!("[{address}]:7"));
        assert!(answers(sender, "[::]:0", &format!("[{address}]:7"), b"neighbours are known now"));
        let asker = udp(sender, &format!("[{own}]:4000"), PATIENCE);
        let reason = if from == "far" { "denied-ingress" } else { "denied-egress" };
        for (index, chain) in CHAINS.into_iter().enumerate() {
            let payload = format!("{to} chain {index}");
            send(&site, from, &packet(own, address, 7, chain, payload.as_bytes()));
            assert!(receives(&asker, payload.as_bytes()), "{payload} was not answered: {:?}", dropped(&site));

            let mut packets = PacketSocket::open(receiver).unwrap();
            let before = dropped(&site);
            send(&site, from, &packet(own, address, 8, chain, b"[denied]"));
            let counted = || growth(&before, &dropped(&site)).get(reason) == Some(&1);
            assert!(wait_for(counted), "{payload}: {:?}", growth(&before, &dropped(&site)));
            send(&site, from, &packet(own, address, 7, chain, b"[allowed]"));
            let holds = |frame: &[u8], text: &[u8]| frame.windows(text.len()).any(|window| window == text);
            let ours = |frame: &[u8]| holds(frame, b"[denied]") || holds(frame, b"[allowed]");
            assert!(holds(packets.find(PATIENCE, ours).unwrap().unwrap(), b"[allowed]"), "{payload}");
            assert!(receives(&asker, b"[allowed]"));
        }
        drop(echo);
    }
    let flows: Vec<Flow> = list(&site, &json!({"port": 4000, "protocol": "udp"}));
    assert_eq!(flows.len(), 4, "one flow an end in a pod, whatever headers its packets had: {flows:?}");
    site.assert_balanced();
}

fn dropped(site: &Site) -> std::collections::BTreeMap<String, u64> {
    site.status().counters.dropped
}

/// Puts a packet on the wire past the sender's stack, which would not make such headers.
fn send(site: &Site, from: &str, packet: &[u8]) {
    let pod = site.pod("t/a");
    let (branch, vlan) = (site.snapshot.pods[0].mac.octets(), site.snapshot.pods[0].vlan.get());
    let (place, interface, frame) = if from == "far" {
        let frame = ethernet(branch, pod.gateway_mac.unwrap().octets(), IPV6, packet);
        ("vpc", "vpctrunk", tagged(frame, VLAN, vlan))
    } else {
        ("t/a", "eth0", ethernet([2, 0, 0, 0, 0, 9], pod.pod_mac.unwrap().octets(), IPV6, packet))
    };
    inject(site.namespace(place).unwrap(), interface, &vec![frame]);
}
