//! The flow table from outside: EC2's semantics, shares of pods, aging, listing. All with a clock of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::rule::Direction::{self, Egress, Ingress};
use espalier_switch::flow::tcp_flag::{ACK, FIN, RST, SYN};
use espalier_switch::flow::{
    FlowConfig, FlowHandle, FlowKey, FlowState, FlowTable, Found, Judgement, Lookups, NewFlow, Now, Outcome,
    Over, PacketFacts, PodSlot, PoolConfig, Refused, Timeouts,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const POD: PodSlot = PodSlot(0);
const OTHER_POD: PodSlot = PodSlot(1);

fn config(flows: u32, quota: u32, reserve: u32, half_open: u32) -> FlowConfig {
    let pool = PoolConfig { flows, pod_quota: quota, pod_reserve: reserve };
    let timeouts = Timeouts::NITRO_V6;
    FlowConfig { pods: 2, ipv4: pool, ipv6: pool, half_open_per_pod: half_open, seed: [3, 4], timeouts }
}

fn small() -> FlowConfig {
    config(64, 64, 0, 16)
}

fn table() -> FlowTable {
    FlowTable::new(&small()).expect("the configuration is sound")
}

fn at(seconds: u64) -> Now {
    Now(10_000_000 + seconds * 1000)
}

fn key(slot: PodSlot, protocol: u8, remote_port: u16) -> FlowKey {
    let (local, remote) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 1));
    FlowKey::tcp_udp(slot, local, remote, protocol, 40_000, remote_port)
}

fn packet(direction: Direction, tcp_flags: u8) -> PacketFacts {
    PacketFacts { direction, tcp_flags, bytes: 100 }
}

fn new(first: PacketFacts) -> NewFlow {
    NewFlow {
        initiator: first.direction,
        rule: 7,
        generation: 1,
        tracked: true,
        revoke_on_change: false,
        first,
    }
}

fn hit(table: &FlowTable, key: &FlowKey) -> FlowHandle {
    table.find(key).handle().expect("the flow is in the table")
}

fn send(table: &mut FlowTable, key: &FlowKey, direction: Direction, flags: u8, now: Now) -> Outcome {
    let handle = hit(table, key);
    table.on_packet(handle, &packet(direction, flags), now)
}

/// Opens a TCP connection from the pod.
fn connect(table: &mut FlowTable, key: &FlowKey, now: Now) -> Result<FlowHandle, Refused> {
    let handle = table.insert(key, &new(packet(Egress, SYN)), now)?;
    table.on_packet(handle, &packet(Ingress, SYN | ACK), now);
    assert_eq!(table.on_packet(handle, &packet(Egress, ACK), now), Outcome::Pass(FlowState::Established));
    Ok(handle)
}

#[test]
fn a_connection_is_counted_both_ways() {
    let mut table = table();
    let key = key(POD, TCP, 443);
    assert_eq!(table.find(&key), Found::Miss);
    let handle = connect(&mut table, &key, at(0)).unwrap();
    assert_eq!(table.find(&key), Found::Hit(handle));
    let record = table.record(handle, at(1)).unwrap();
    assert_eq!((record.packets, record.bytes), ([1, 2], [100, 200]));
    assert_eq!((record.key, record.state, record.rule), (key, FlowState::Established, 7));
    assert_eq!((record.initiator(), record.picked_up(), record.revoke_on_change()), (Egress, false, false));
    assert!(record.age_ms.abs_diff(1000) <= 64 && record.idle_ms == record.age_ms);
    assert_eq!((table.rule(handle), table.initiator(handle), table.key(handle)), (7, Egress, key));
    table.remove(handle);
    assert_eq!((table.find(&key), table.len(), table.stats().removed), (Found::Miss, 0, 1));
}

#[test]
fn established_connections_outlive_350_s_only_with_traffic() {
    let mut table = table();
    let key = key(POD, TCP, 443);
    connect(&mut table, &key, at(0)).unwrap();
    for round in 1..=3 {
        assert_eq!(
            send(&mut table, &key, Ingress, ACK, at(349 * round)),
            Outcome::Pass(FlowState::Established)
        );
    }
    assert_eq!(send(&mut table, &key, Ingress, ACK, at(349 * 3 + 351)), Outcome::Over(Over::Expired));
    assert_eq!((table.find(&key), table.stats().expired), (Found::Miss, 1));
}

#[test]
fn a_half_closed_connection_keeps_the_established_timeout() {
    let mut table = table();
    let key = key(POD, TCP, 443);
    connect(&mut table, &key, at(0)).unwrap();
    send(&mut table, &key, Egress, FIN | ACK, at(0));
    assert_eq!(send(&mut table, &key, Ingress, ACK, at(340)), Outcome::Pass(FlowState::HalfClosed));
    assert_eq!(send(&mut table, &key, Ingress, FIN | ACK, at(341)), Outcome::Pass(FlowState::Closing));
    assert_eq!(send(&mut table, &key, Egress, ACK, at(342)), Outcome::Pass(FlowState::Closing));
    assert_eq!(send(&mut table, &key, Egress, SYN, at(343)), Outcome::Over(Over::Reopened));
    assert_eq!((table.find(&key), table.stats().reopened), (Found::Miss, 1));
}

#[test]
fn ports_in_time_wait_expire() {
    let mut table = table();
    let key = key(POD, TCP, 443);
    connect(&mut table, &key, at(0)).unwrap();
    send(&mut table, &key, Egress, FIN | ACK, at(1));
    send(&mut table, &key, Ingress, FIN | ACK, at(1));
    assert_eq!(send(&mut table, &key, Egress, ACK, at(62)), Outcome::Over(Over::Expired));
}

#[test]
fn udp_becomes_a_stream_with_the_second_exchange() {
    let mut table = table();
    let key = key(POD, UDP, 53);
    table.insert(&key, &new(packet(Egress, 0)), at(0)).unwrap();
    for reply in 1..5 {
        assert_eq!(
            send(&mut table, &key, Ingress, 0, at(reply)),
            Outcome::Pass(FlowState::Udp),
            "one request"
        );
    }
    assert_eq!(send(&mut table, &key, Egress, 0, at(33)), Outcome::Pass(FlowState::UdpStream));
    assert_eq!(send(&mut table, &key, Ingress, 0, at(212)), Outcome::Pass(FlowState::UdpStream));
    assert_eq!(send(&mut table, &key, Ingress, 0, at(393)), Outcome::Over(Over::Expired));
}

#[test]
fn a_single_udp_exchange_is_over_after_30_s() {
    let mut table = table();
    let key = key(POD, UDP, 53);
    table.insert(&key, &new(packet(Egress, 0)), at(0)).unwrap();
    assert_eq!(send(&mut table, &key, Ingress, 0, at(30)), Outcome::Pass(FlowState::Udp));
    assert_eq!(send(&mut table, &key, Ingress, 0, Now(at(60).0 + 128)), Outcome::Over(Over::Expired));
}

#[test]
fn other_protocols_are_over_after_600_s() {
    let mut table = table();
    let (local, remote): (IpAddr, IpAddr) = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
    let key = FlowKey::addresses_only(POD, local, remote, GRE);
    table.insert(&key, &new(packet(Egress, 0)), at(0)).unwrap();
    assert_eq!(send(&mut table, &key, Ingress, 0, at(600)), Outcome::Pass(FlowState::Other));
    assert_eq!(send(&mut table, &key, Ingress, 0, at(1201)), Outcome::Over(Over::Expired));
}

#[test]
fn a_pods_timeouts_are_its_own_and_hold_at_once() {
    let mut table = table();
    let (ours, theirs) = (key(POD, TCP, 443), key(OTHER_POD, TCP, 443));
    connect(&mut table, &ours, at(0)).unwrap();
    connect(&mut table, &theirs, at(0)).unwrap();
    assert!(table.set_timeouts(POD, Timeouts::NITRO.with_tcp_established(60).unwrap()));
    assert!(!table.set_timeouts(PodSlot(2), Timeouts::NITRO));
    assert_eq!(table.timeouts(POD).unwrap().tcp_established(), 60);
    assert_eq!(send(&mut table, &ours, Egress, ACK, at(61)), Outcome::Over(Over::Expired));
    assert_eq!(send(&mut table, &theirs, Egress, ACK, at(61)), Outcome::Pass(FlowState::Established));
}

#[test]
fn only_untracked_and_revocable_flows_are_judged_again() {
    let mut table = table();
    let mut flow = new(packet(Ingress, ACK));
    let tracked = table.insert(&key(POD, TCP, 1), &flow, at(0)).unwrap();
    flow.revoke_on_change = true;
    let revocable = table.insert(&key(POD, TCP, 2), &flow, at(0)).unwrap();
    (flow.revoke_on_change, flow.tracked) = (false, false);
    let untracked = table.insert(&key(POD, TCP, 3), &flow, at(0)).unwrap();
    for handle in [tracked, revocable, untracked] {
        assert!(!table.needs_judgement(handle, 1));
    }
    assert_eq!(
        [tracked, revocable, untracked].map(|handle| table.needs_judgement(handle, 2)),
        [false, true, true]
    );
    assert_eq!(table.state(untracked), Some(FlowState::Untracked));
    let still = Judgement { rule: 9, generation: 2, tracked: true, revoke_on_change: false };
    table.renew(revocable, &still, at(1));
    table.renew(untracked, &still, at(1));
    for handle in [revocable, untracked] {
        assert!(!table.needs_judgement(handle, 3), "tracked and no longer revocable");
        assert_eq!(table.rule(handle), 9);
        assert_eq!(table.state(handle), Some(FlowState::PickedUp));
    }
}

#[test]
fn a_revoked_connection_stays_down_until_its_rule_is_back_or_a_new_one_opens() {
    let mut table = table();
    let key = key(POD, TCP, 80);
    let handle = connect(&mut table, &key, at(0)).unwrap();
    send(&mut table, &key, Ingress, FIN | ACK, at(0));
    table.revoke(handle, 2, at(0));
    assert!(!table.needs_judgement(handle, 2) && table.needs_judgement(handle, 3));
    for seconds in [0, 500, 1000] {
        assert_eq!(
            send(&mut table, &key, Egress, ACK, at(seconds)),
            Outcome::Revoked,
            "neither end keeps it up"
        );
    }
    assert_eq!(table.record(handle, at(1000)).unwrap().packets, [2, 2], "what is dropped is not counted");
    let back = Judgement { rule: 9, generation: 3, tracked: true, revoke_on_change: true };
    table.renew(handle, &back, at(1000));
    assert_eq!(send(&mut table, &key, Egress, ACK, at(1000)), Outcome::Pass(FlowState::HalfClosed));
    table.revoke(handle, 4, at(1000));
    assert_eq!(send(&mut table, &key, Egress, SYN, at(1001)), Outcome::Over(Over::Reopened));
    assert!(table.is_empty());
}

#[test]
fn a_flow_that_is_over_is_neither_renewed_nor_revoked() {
    let mut table = table();
    for (port, revoked) in [(1, false), (2, true)] {
        let key = key(POD, UDP, port);
        let untracked = NewFlow { tracked: false, ..new(packet(Egress, 0)) };
        let handle = table.insert(&key, &untracked, at(0)).unwrap();
        match revoked {
            true => table.revoke(handle, 2, at(61)),
            false => table.renew(
                handle,
                &Judgement { rule: 9, generation: 2, tracked: true, revoke_on_change: false },
                at(61),
            ),
        }
        assert_eq!(table.on_packet(handle, &packet(Egress, 0), at(61)), Outcome::Over(Over::Gone));
    }
    assert_eq!((table.len(), table.stats().expired), (0, 2));
}

#[test]
fn a_flow_tracked_later_has_the_state_its_traffic_shows() {
    let mut table = table();
    let key = key(POD, TCP, 80);
    let flow = NewFlow { tracked: false, ..new(packet(Ingress, SYN)) };
    let handle = table.insert(&key, &flow, at(0)).unwrap();
    assert_eq!(send(&mut table, &key, Egress, SYN | ACK, at(0)), Outcome::Pass(FlowState::Untracked));
    let now_tracked = Judgement { rule: 9, generation: 2, tracked: true, revoke_on_change: false };
    table.renew(handle, &now_tracked, at(0));
    assert_eq!(send(&mut table, &key, Ingress, ACK, at(300)), Outcome::Pass(FlowState::Established));
}

#[test]
fn the_oldest_half_open_connection_of_the_same_pod_goes() {
    let mut table = FlowTable::new(&config(64, 64, 0, 4)).unwrap();
    let established = key(POD, TCP, 443);
    connect(&mut table, &established, at(0)).unwrap();
    let neighbour = key(OTHER_POD, TCP, 9);
    table.insert(&neighbour, &new(packet(Ingress, SYN)), at(0)).unwrap();
    for port in 1000..2000 {
        table.insert(&key(POD, TCP, port), &new(packet(Ingress, SYN)), at(1)).unwrap();
    }
    assert_eq!((table.half_open_of(POD), table.len_of(POD), table.len()), (4, 5, 6));
    assert_eq!(table.stats().evicted_half_open, 996);
    for port in 1996..2000 {
        hit(&table, &key(POD, TCP, port));
    }
    hit(&table, &established);
    hit(&table, &neighbour);
}

#[test]
fn quota_and_reserve_hold_exactly() {
    let mut table = FlowTable::new(&config(10, 8, 3, 4)).unwrap();
    let udp = new(packet(Egress, 0));
    for port in 0..7 {
        table.insert(&key(POD, UDP, port), &udp, at(0)).unwrap();
    }
    assert_eq!(
        table.insert(&key(POD, UDP, 7), &udp, at(0)),
        Err(Refused::Full),
        "three are reserved for the other"
    );
    for port in 0..3 {
        table.insert(&key(OTHER_POD, UDP, port), &udp, at(0)).unwrap();
    }
    assert_eq!(table.insert(&key(OTHER_POD, UDP, 3), &udp, at(0)), Err(Refused::Full));
    assert!(!table.remove_pod(OTHER_POD, 2));
    assert!(table.remove_pod(OTHER_POD, 2));
    assert_eq!(table.insert(&key(POD, UDP, 7), &udp, at(0)), Err(Refused::Full), "the reserve is kept free");
    assert_eq!((table.len(), table.stats().refused_full, table.stats().removed), (7, 3, 3));

    let mut table = FlowTable::new(&config(10, 4, 1, 4)).unwrap();
    for port in 0..4 {
        table.insert(&key(POD, UDP, port), &udp, at(0)).unwrap();
    }
    assert_eq!(table.insert(&key(POD, UDP, 4), &udp, at(0)), Err(Refused::PodQuota));
    assert_eq!(table.insert(&key(PodSlot(2), UDP, 4), &udp, at(0)), Err(Refused::PodUnknown));
    assert_eq!(table.stats().refused_quota, 1);
    assert!(
        table.insert(&key(POD, UDP, 4), &udp, at(31)).is_ok(),
        "one that is over makes room without a sweep"
    );
    assert_eq!((table.len_of(POD), table.stats().expired), (4, 1));
}

#[test]
fn a_full_pod_gives_up_its_untracked_then_its_finished_flows() {
    let mut table = FlowTable::new(&config(16, 4, 0, 4)).unwrap();
    let untracked = NewFlow { tracked: false, ..new(packet(Ingress, SYN)) };
    table.insert(&key(POD, TCP, 1), &untracked, at(0)).unwrap();
    for port in [2, 3, 4] {
        connect(&mut table, &key(POD, TCP, port), at(0)).unwrap();
    }
    send(&mut table, &key(POD, TCP, 3), Ingress, RST, at(0));
    assert_eq!(table.insert(&key(POD, TCP, 5), &untracked, at(1)), Err(Refused::PodQuota));
    connect(&mut table, &key(POD, TCP, 6), at(1)).unwrap();
    assert_eq!((table.find(&key(POD, TCP, 1)), table.stats().evicted_untracked), (Found::Miss, 1));
    connect(&mut table, &key(POD, TCP, 7), at(1)).unwrap();
    assert_eq!((table.find(&key(POD, TCP, 3)), table.stats().evicted_finished), (Found::Miss, 1));
    assert_eq!(connect(&mut table, &key(POD, TCP, 8), at(1)), Err(Refused::PodQuota));
    for port in [2, 4, 6, 7] {
        hit(&table, &key(POD, TCP, port));
    }
}

#[test]
fn a_sweep_stays_within_its_budget_and_frees_every_flow_that_is_over() {
    let mut table = table();
    for port in 0..40 {
        table.insert(&key(POD, UDP, port), &new(packet(Egress, 0)), at(0)).unwrap();
    }
    for port in 0..10 {
        send(&mut table, &key(POD, UDP, port), Ingress, 0, at(20));
    }
    assert_eq!(table.sweep(at(29), 1000), 0);
    let mut freed = 0;
    for _ in 0..20 {
        let swept = table.sweep(at(45), 8);
        assert!(swept <= 8);
        freed += swept;
    }
    assert_eq!((freed, table.len(), table.stats().expired), (30, 10, 30));
    let mut now = at(45).0;
    while !table.is_empty() {
        now += 1000;
        table.sweep(Now(now), 64);
        assert!(now < at(20 + 30 + 9).0, "an entry is free after 1 1/4 timeouts");
    }
}

#[test]
fn flows_that_end_together_are_freed_together() {
    let mut table = FlowTable::new(&config(4096, 4096, 0, 16)).unwrap();
    for port in 0..2000 {
        table.insert(&key(PodSlot(port % 2), UDP, port), &new(packet(Egress, 0)), at(0)).unwrap();
    }
    let mut calls = 0;
    while !table.is_empty() {
        assert!(table.sweep(at(31), 64) <= 64);
        calls += 1;
        assert!(calls < 100, "{} are left", table.len());
    }
    assert_eq!(table.sweep(at(31), 64), 0);
}

#[test]
fn a_batch_finds_what_single_lookups_find() {
    let mut table = FlowTable::new(&config(4096, 4096, 0, 4096)).unwrap();
    for port in (0..4000).step_by(2) {
        table.insert(&key(POD, TCP, port), &new(packet(Egress, SYN)), at(0)).unwrap();
    }
    let keys: Vec<_> = (0..4000).map(|port| key(POD, TCP, port)).collect();
    let mut lookups = Lookups::default();
    keys.iter().for_each(|key| {
        lookups.add(*key);
    });
    lookups.look(&table);
    let find = |table: &FlowTable, place: u32| table.find_sought(lookups.get(place).unwrap());
    for (port, key) in keys.iter().enumerate() {
        let found = find(&table, port as u32);
        assert_eq!(found, table.find(key));
        assert_eq!(matches!(found, Found::Hit(_)), port % 2 == 0, "{port}");
    }
    // What was looked for stays right when the table changes.
    let (first, third) = (find(&table, 0), find(&table, 2));
    let reused = first.handle().unwrap();
    table.remove(reused);
    let user = (1..4000).step_by(2).find(|place| {
        table.insert(&keys[*place as usize], &new(packet(Egress, SYN)), at(0)).unwrap() == reused
    });
    let user = user.expect("the entry is used again");
    assert_eq!(find(&table, 0), Found::Miss);
    assert_eq!(find(&table, user), Found::Hit(reused));
    assert_eq!(find(&table, 2), third);
    let before = table.record(reused, at(0));
    assert!(!table.pass_steady(lookups.get(0).unwrap(), 1, &packet(Egress, ACK), at(0)));
    assert_eq!(
        table.record(reused, at(0)),
        before,
        "a packet of the old flow does not count for the new one"
    );
}

/// Some of a full table's flows do not lie where they are looked for first.
#[test]
fn a_packet_of_each_flow_of_a_full_table_is_a_usual_one() {
    const FLOWS: u16 = 4096;
    let config = config(FLOWS.into(), FLOWS.into(), 0, FLOWS.into());
    let ipv6 = PoolConfig { flows: 1, pod_quota: 1, pod_reserve: 0 };
    let mut table = FlowTable::new(&FlowConfig { ipv6, ..config }).unwrap();
    let mut lookups = Lookups::default();
    for port in 0..FLOWS {
        let key = key(POD, TCP, port);
        connect(&mut table, &key, at(0)).unwrap();
        lookups.add(key);
    }
    lookups.look(&table);
    for place in 0..FLOWS.into() {
        let sought = lookups.get(place).unwrap();
        assert!(table.pass_steady(sought, 1, &packet(Ingress, ACK), at(1)), "{place}");
        let record = table.record(table.find_sought(sought).handle().unwrap(), at(1)).unwrap();
        assert_eq!(record.packets, [2, 2], "{place}");
    }
}

#[test]
fn a_listing_shows_each_live_flow_once() {
    let mut table = table();
    for port in 0..20 {
        table.insert(&key(POD, UDP, port), &new(packet(Egress, 0)), at(0)).unwrap();
    }
    let v6 = FlowKey::tcp_udp(OTHER_POD, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, UDP, 1, 2);
    table.insert(&v6, &new(packet(Egress, 0)), at(40)).unwrap();
    send(&mut table, &key(POD, UDP, 3), Ingress, 0, at(20));
    let (mut cursor, mut seen, mut pages) = (Some(0), Vec::new(), 0);
    while let Some(from) = cursor {
        cursor = table.page(from, 7, at(45), |_, record| seen.push(record.key));
        pages += 1;
    }
    assert_eq!(seen, [key(POD, UDP, 3), v6]);
    assert_eq!(pages, small().entries().iter().sum::<u32>().div_ceil(7));
}

#[test]
fn the_memory_is_what_the_configuration_says() {
    let config = FlowConfig::sized(1000, 8, [1, 2]);
    assert_eq!(FlowTable::new(&config).unwrap().memory_bytes(), config.memory_bytes());
}
