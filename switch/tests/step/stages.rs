//! The pure step: every kind of packet ends where it must, rewritten as it must be, in exactly one counter.

use crate::harness::*;
use espalier_switch::flow::Now;
use espalier_switch::reason::DropReason;

#[test]
fn an_allowed_connection_crosses_both_ways() {
    let mut bench = Bench::new();
    for (host, web) in [(HOST_IP, WEB_IP), (HOST_IP6, WEB_IP6)] {
        let syn = from_host(WEB, host, web, Load::Syn(4000, 80));
        let out = bench.forwarded(trunk(WEB), &syn, Some(WEB));
        assert_eq!((&out[..6], &out[6..12]), (&POD_MAC[0][..], &VETH_MAC[0][..]));
        assert_eq!(out[12..], syn[12..], "TTL, addresses and checksums stay");

        let reply = tagged(WEB, from_pod(WEB, web, host, Load::SynAck(80, 4000)));
        let out = bench.forwarded(pod(WEB), &reply, None);
        assert_eq!((&out[..6], &out[6..12]), (&GATEWAY_MAC[..], &BRANCH_MAC[0][..]));
        assert_eq!(out[12..], reply[12..]);
    }
    assert_eq!(bench.shard.flows.len(), 2);
}

#[test]
fn a_batch_decides_as_its_packets_one_by_one() {
    let frames = vec![
        (trunk(WEB), from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 80))),
        (pod(WEB), tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Ack(80, 4000)))),
        (trunk(WEB), from_host(WEB, HOST_IP, WEB_IP, Load::Ack(4000, 80))),
        (trunk(WEB), from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 81))),
        (local(WEB), from_pod(WEB, WEB_IP, DB_IP, Load::Syn(4000, 5432))),
        (local(DB), from_pod(DB, DB_IP, WEB_IP, Load::Ack(5432, 4000))),
        (trunk(WEB), from_host(WEB, HOST_IP, WEB_IP, Load::Ping(1))),
    ];
    let mut one_by_one = Bench::new();
    let expected: Vec<_> = frames.iter().flat_map(|(from, frame)| one_by_one.step(*from, frame)).collect();
    let mut at_once = Bench::new();
    let mut got = at_once.batch(frames);
    assert_eq!(got.len(), expected.len());
    for decided in expected {
        let at = got.iter().position(|other| *other == decided).unwrap();
        got.remove(at);
    }
    assert_eq!(at_once.shard.counters.totals, one_by_one.shard.counters.totals);
    assert_eq!(at_once.shard.flows.len(), one_by_one.shard.flows.len());
    assert_eq!(at_once.shard.flows.stats(), one_by_one.shard.flows.stats());
}

#[test]
fn what_no_rule_allows_is_dropped_in_either_direction() {
    let mut bench = Bench::new();
    let near_misses = [
        (HOST_IP, WEB_IP, Load::Syn(4000, 81)),
        (HOST_IP, WEB_IP, Load::Udp(4000, 80)),
        ("10.0.8.9", WEB_IP, Load::Syn(4000, 80)),
        ("2001:db8:8::9", WEB_IP6, Load::Syn(4000, 80)),
        (HOST_IP, WEB_IP, Load::Pong(1)),
        (HOST_IP6, WEB_IP6, Load::Ping(1)),
    ];
    for (source, destination, load) in near_misses {
        let frame = from_host(WEB, source, destination, load);
        assert_eq!(bench.dropped(trunk(WEB), &frame), DropReason::DeniedIngress);
    }
    let out = tagged(DB, from_pod(DB, DB_IP, HOST_IP, Load::Syn(4000, 80)));
    assert_eq!(bench.dropped(pod(DB), &out), DropReason::DeniedEgress);
    assert_eq!(bench.shard.flows.len(), 0);
    assert_eq!(bench.shard.counters.pod(WEB).ingress_dropped.of(DropReason::DeniedIngress), 6);
    assert_eq!(bench.shard.counters.pod(DB).egress_dropped.of(DropReason::DeniedEgress), 1);
}

#[test]
fn pods_of_one_node_meet_both_policies() {
    let mut bench = Bench::new();
    let syn = from_pod(WEB, WEB_IP, DB_IP, Load::Syn(4000, 5432));
    let out = bench.forwarded(local(WEB), &syn, Some(DB));
    assert_eq!((&out[..6], &out[6..12]), (&POD_MAC[1][..], &VETH_MAC[1][..]));
    let reply = from_pod(DB, DB_IP, WEB_IP, Load::Ack(5432, 4000));
    bench.forwarded(local(DB), &reply, Some(WEB));
    assert_eq!(bench.shard.flows.len(), 2, "an entry each: egress at the source, ingress at the destination");

    let syn = from_pod(WEB, WEB_IP, DB_IP, Load::Syn(4000, 5433));
    assert_eq!(bench.dropped(local(WEB), &syn), DropReason::DeniedIngress);
    assert_eq!(bench.shard.counters.pod(DB).ingress_dropped.total(), 1);
    let syn = from_pod(DB, DB_IP, WEB_IP, Load::Syn(4000, 80));
    assert_eq!(bench.dropped(local(DB), &syn), DropReason::DeniedEgress);
    assert_eq!(bench.shard.counters.pod(DB).egress_dropped.total(), 1);
}

#[test]
fn pings_pass_with_their_replies_and_no_further() {
    let mut bench = Bench::new();
    bench.forwarded(trunk(WEB), &from_host(WEB, HOST_IP, WEB_IP, Load::Ping(7)), Some(WEB));
    bench.forwarded(pod(WEB), &tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Pong(7))), None);
    // The pod's own ping under the same identifier is another flow, and its reply comes back.
    bench.forwarded(pod(WEB), &tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Ping(7))), None);
    bench.forwarded(trunk(WEB), &from_host(WEB, HOST_IP, WEB_IP, Load::Pong(7)), Some(WEB));
    let stray = from_host(WEB, HOST_IP, WEB_IP, Load::Pong(8));
    assert_eq!(bench.dropped(trunk(WEB), &stray), DropReason::DeniedIngress);
    // Another question under the identifier of an allowed one needs a rule of its own.
    let time = from_host(WEB, HOST_IP, WEB_IP, Load::AskTime(7));
    assert_eq!(bench.dropped(trunk(WEB), &time), DropReason::DeniedIngress);
    bench.forwarded(pod(WEB), &tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::AskTime(7))), None);
    bench.forwarded(trunk(WEB), &from_host(WEB, HOST_IP, WEB_IP, Load::TellTime(7)), Some(WEB));
}

#[test]
fn services_that_aws_never_filters_need_no_rule_and_make_no_state() {
    let mut bench = Bench::new();
    bench.forwarded(pod(DB), &tagged(DB, from_pod(DB, DB_IP, "10.0.0.2", Load::Udp(4000, 53))), None);
    bench.forwarded(trunk(DB), &from_host(DB, "10.0.0.2", DB_IP, Load::Udp(53, 4000)), Some(DB));
    assert_eq!(bench.shard.flows.len(), 0);
    let near_miss = tagged(DB, from_pod(DB, DB_IP, "10.0.0.3", Load::Udp(4000, 53)));
    assert_eq!(bench.dropped(pod(DB), &near_miss), DropReason::DeniedEgress);
}

#[test]
fn the_source_and_destination_check_is_ec2s() {
    let mut bench = Bench::new();
    let load = Load::Syn(4000, 80);
    for (frame, reason) in [
        (from_pod(WEB, "10.0.1.99", HOST_IP, load), DropReason::SourceAddressForeign),
        (from_pod(WEB, DB_IP, HOST_IP, load), DropReason::SourceAddressForeign),
        (from_pod(WEB, "fe80::1", HOST_IP6, load), DropReason::SourceAddressForeign),
        (frame(([2, 9, 9, 9, 9, 9], VETH_MAC[0]), WEB_IP, HOST_IP, load), DropReason::SourceMacForeign),
        (from_pod(WEB, WEB_IP, "224.0.0.251", load), DropReason::Multicast),
        (from_pod(WEB, WEB_IP, "255.255.255.255", load), DropReason::Multicast),
        (frame((POD_MAC[0], [0xff; 6]), WEB_IP, HOST_IP, load), DropReason::Multicast),
    ] {
        assert_eq!(bench.dropped(pod(WEB), &tagged(WEB, frame)), reason);
    }
    for (frame, reason) in [
        (from_host(WEB, HOST_IP, "10.0.1.99", load), DropReason::DestinationAddressForeign),
        (from_host(WEB, HOST_IP, DB_IP, load), DropReason::DestinationAddressForeign),
        (from_host(DB, HOST_IP, WEB_IP, load), DropReason::DestinationMacForeign),
        (from_host(WEB, WEB_IP, WEB_IP, load), DropReason::SourceAddressForeign),
        (from_host(WEB, "127.0.0.1", WEB_IP, load), DropReason::SourceAddressForeign),
        (from_host(WEB, "ff02::1", WEB_IP6, load), DropReason::SourceAddressForeign),
        (frame((GATEWAY_MAC, [0xff; 6]), HOST_IP, WEB_IP, load), DropReason::Multicast),
    ] {
        assert_eq!(bench.dropped(trunk(WEB), &frame), reason);
    }
    let unknown = espalier_switch::step::From::Trunk { vlan: 103 };
    let frame = from_host(WEB, HOST_IP, WEB_IP, load);
    assert_eq!(bench.dropped(unknown, &frame), DropReason::VlanUnknown);
    let gone = from_pod(WEB, WEB_IP, "10.0.1.12", load);
    assert_eq!(bench.dropped(local(WEB), &gone), DropReason::LocalPodGone);
    let own_tag = tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, load));
    assert_eq!(bench.dropped(local(WEB), &own_tag), DropReason::VlanTagFromSender);
    assert_eq!(bench.dropped(pod(WEB), &tagged(WEB, own_tag)), DropReason::VlanTagFromSender);
}

#[test]
fn what_cannot_leave_is_counted_where_it_got_stuck() {
    let mut bench = Bench::with(&SNAPSHOT.replace(", gateway: {mac: '02:ee:00:00:00:01'}", ""));
    let ping = from_host(WEB, HOST_IP, WEB_IP, Load::Ping(1));
    assert_eq!(bench.dropped(trunk(WEB), &ping), DropReason::PodUnresolved);
    let out = tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Syn(1, 2)));
    assert_eq!(bench.dropped(pod(WEB), &out), DropReason::GatewayUnresolved);
    // The pod's own frame has taught the switch its MAC.
    bench.forwarded(trunk(WEB), &ping, Some(WEB));

    let mut bench = Bench::new();
    let mut long = from_host(WEB, HOST_IP, WEB_IP, Load::Udp(4000, 7));
    long.resize(14 + 1501, 0);
    assert_eq!(bench.dropped(trunk(WEB), &long), DropReason::PacketTooBig);
    bench.shard.links.detached(WEB);
    assert_eq!(bench.dropped(trunk(WEB), &ping), DropReason::PortDown);
}

#[test]
fn a_checksum_left_to_the_nic_is_completed() {
    let mut bench = Bench::new();
    for (destination, from, to) in [(HOST_IP, pod(WEB), None), (DB_IP, local(WEB), Some(DB))] {
        let whole = from_pod(WEB, WEB_IP, destination, Load::Syn(4000, 5432));
        let mut partial = whole.clone();
        // The pseudo-header's sum: addresses, protocol and length (RFC 9293 section 3.1).
        let words = partial[26..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum = words.sum::<u32>() + 6 + (partial.len() - 34) as u32;
        let folded = (sum & 0xffff) + (sum >> 16);
        partial[50..52].copy_from_slice(&(folded as u16).to_be_bytes());
        assert_ne!(partial, whole);
        let frame = if to.is_none() { tagged(WEB, partial) } else { partial };
        let out = bench.forwarded(from, &frame, to);
        assert_eq!(out[out.len() - (whole.len() - 14)..], whole[14..]);
    }
}

#[test]
fn a_rule_that_goes_stops_untracked_flows_at_once_and_leaves_tracked_ones() {
    let world = SNAPSHOT.replace("ToPort: 80, CidrIpv4: 10.0.9.0/24", "ToPort: 80, CidrIpv4: 0.0.0.0/0");
    let gone = |snapshot: &str| {
        let kept = snapshot.lines().filter(|line| !line.contains("sgr-80,"));
        kept.collect::<Vec<_>>().join("\n").replace("generation: 1", "generation: 2")
    };
    let syn = from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 80));
    let ack = from_host(WEB, HOST_IP, WEB_IP, Load::Ack(4000, 80));

    let mut tracked = Bench::new();
    tracked.forwarded(trunk(WEB), &syn, Some(WEB));
    tracked.publish(&gone(SNAPSHOT));
    tracked.forwarded(trunk(WEB), &ack, Some(WEB));

    let mut untracked = Bench::with(&world);
    untracked.shard.links.link_mut(WEB).pod_mac = Some(POD_MAC[0]);
    untracked.forwarded(trunk(WEB), &syn, Some(WEB));
    untracked.publish(&gone(&world));
    assert_eq!(untracked.dropped(trunk(WEB), &ack), DropReason::FlowRevoked);
    assert_eq!(untracked.dropped(trunk(WEB), &syn), DropReason::DeniedIngress);

    let revoke =
        SNAPSHOT.replace("securityGroups: [sg-web]", "onRuleChange: revoke, securityGroups: [sg-web]");
    let mut revoked = Bench::with(&revoke);
    revoked.shard.links.link_mut(WEB).pod_mac = Some(POD_MAC[0]);
    revoked.forwarded(trunk(WEB), &syn, Some(WEB));
    revoked.publish(&gone(&revoke));
    assert_eq!(revoked.dropped(trunk(WEB), &ack), DropReason::FlowRevoked);
    // The pod may send anywhere, but does not thereby keep the connection that was revoked.
    let answer = tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Ack(80, 4000)));
    assert_eq!(revoked.dropped(pod(WEB), &answer), DropReason::FlowRevoked);
    assert_eq!(revoked.dropped(trunk(WEB), &ack), DropReason::FlowRevoked);
    // The rule comes back, and so does the connection.
    revoked.publish(&revoke.replace("generation: 1", "generation: 3"));
    revoked.forwarded(trunk(WEB), &ack, Some(WEB));
}

/// An ICMP "fragmentation needed" from a router, about a packet.
fn too_big(about: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let header = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    etherparse::PacketBuilder::ethernet2(GATEWAY_MAC, BRANCH_MAC[0])
        .ipv4([10, 9, 9, 9], [10, 0, 1, 10], 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(header))
        .write(&mut frame, &about[..28])
        .unwrap();
    frame
}

#[test]
fn icmp_errors_pass_with_the_flow_they_are_about() {
    let mut bench = Bench::new();
    let out = from_pod(WEB, WEB_IP, HOST_IP, Load::Syn(4000, 443));
    bench.forwarded(pod(WEB), &tagged(WEB, out.clone()), None);
    bench.forwarded(trunk(WEB), &too_big(&out[14..]), Some(WEB));
    let other = from_pod(WEB, WEB_IP, HOST_IP, Load::Syn(4001, 443));
    assert_eq!(bench.dropped(trunk(WEB), &too_big(&other[14..])), DropReason::IcmpErrorUnrelated);
    let forged = from_pod(WEB, DB_IP, HOST_IP, Load::Syn(4000, 443));
    assert_eq!(bench.dropped(trunk(WEB), &too_big(&forged[14..])), DropReason::IcmpErrorUnrelated);
    assert_eq!(bench.shard.flows.len(), 1);
    bench.shard.related_errors = false;
    assert_eq!(bench.dropped(trunk(WEB), &too_big(&out[14..])), DropReason::IcmpErrorUnrelated);
}

/// Cuts an IPv4 packet into fragments of `size` payload bytes.
pub(crate) fn fragments(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &frame[34..];
    let cuts: Vec<_> = payload.chunks(size).collect();
    let last = cuts.len() - 1;
    let fragment = |(index, part): (usize, &&[u8])| {
        let mut out = frame[..34].to_vec();
        out.extend_from_slice(part);
        out[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        let field = (index * size / 8) as u16 | if index == last { 0 } else { 0x2000 };
        out[20..22].copy_from_slice(&field.to_be_bytes());
        out[24..26].fill(0);
        let sum = espalier_switch::checksum::of(&out[14..34]);
        out[24..26].copy_from_slice(&sum.to_be_bytes());
        out
    };
    cuts.iter().enumerate().map(fragment).collect()
}

fn big_udp(port: u16) -> Vec<Vec<u8>> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(GATEWAY_MAC, BRANCH_MAC[0])
        .ipv4([10, 0, 9, 9], [10, 0, 1, 10], 64)
        .udp(4000, port)
        .write(&mut frame, &[7; 56])
        .unwrap();
    fragments(&frame, 24)
}

#[test]
fn fragments_follow_their_first_in_any_order() {
    let mut bench = Bench::new();
    let [first, second, third] = <[Vec<u8>; 3]>::try_from(big_udp(7)).unwrap();
    assert!(bench.step(trunk(WEB), &third).is_empty(), "held until the first comes");
    assert_eq!(bench.step(trunk(WEB), &first).len(), 2);
    bench.forwarded(trunk(WEB), &second, Some(WEB));
    assert_eq!(bench.shard.counters.totals.forwarded, 3);

    let [first, second, third] = <[Vec<u8>; 3]>::try_from(big_udp(8)).unwrap();
    assert_eq!(bench.dropped(trunk(WEB), &first), DropReason::DeniedIngress);
    assert_eq!(bench.dropped(trunk(WEB), &second), DropReason::DeniedIngress);
    assert!(matches!(bench.dropped(trunk(WEB), &second), DropReason::FragmentInvalid));
    assert_eq!(bench.dropped(trunk(WEB), &third), DropReason::DeniedIngress);
}

#[test]
fn a_fragment_whose_first_never_comes_is_dropped_after_a_while() {
    let mut bench = Bench::new();
    assert!(bench.step(trunk(WEB), &big_udp(7)[1]).is_empty());
    let mut decided = Vec::new();
    bench.now = Now(bench.now.0 + 400);
    espalier_switch::step::expire(&Heap, &mut bench.shard, &bench.tables, bench.now, &mut decided);
    assert!(decided.is_empty());
    bench.now = Now(bench.now.0 + 400);
    espalier_switch::step::expire(&Heap, &mut bench.shard, &bench.tables, bench.now, &mut decided);
    assert_eq!(decided.len(), 1);
    let totals = &bench.shard.counters.totals;
    assert_eq!(totals.dropped.of(DropReason::FragmentOrphan), 1);
    assert!(totals.balances());
}
