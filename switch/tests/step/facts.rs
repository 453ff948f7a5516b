//! Facts told without a listener that keeps up: what finds no room is counted, and the packets fare as if nobody listened.

use espalier_switch::counters::Totals;
use espalier_switch::facts;
use espalier_switch::flow::FlowState;
use espalier_switch::packet::Upper;
use espalier_switch::reason::DropReason;

use crate::harness::*;

/// Room of each ring.
const ROOM: usize = 4;
/// Packets or flows that are told of.
const TOLD: u16 = 10;

/// Connections that are denied, from as many ports.
fn deny(bench: &mut Bench) {
    for port in 0..TOLD {
        let frame = from_host(WEB, HOST_IP, WEB_IP, Load::Syn(port, 81));
        assert_eq!(bench.dropped(trunk(WEB), &frame), DropReason::DeniedIngress);
    }
}

fn totals(bench: &Bench) -> Totals {
    bench.shard.counters.totals.clone()
}

#[test]
fn packets_that_find_no_room_are_counted_and_the_rest_told_in_order() {
    let mut unheard = Bench::new();
    deny(&mut unheard);
    let mut bench = Bench::new();
    let (teller, mut listener) = facts::ring(ROOM);
    bench.shard.facts = Some(teller);
    deny(&mut bench);
    assert_eq!(totals(&bench), totals(&unheard));
    assert_eq!(listener.lost(), u64::from(TOLD) - ROOM as u64);
    let told: Vec<_> = listener.by_ref().collect();
    for (port, fact) in told.iter().enumerate() {
        assert_eq!((fact.slot, fact.verdict), (WEB, Err(DropReason::DeniedIngress)));
        assert!(matches!(fact.upper, Upper::Tcp { source, .. } if usize::from(source) == port), "{fact:?}");
    }
    assert_eq!(told.len(), ROOM);
    // There is room again.
    deny(&mut bench);
    assert_eq!(listener.by_ref().count(), ROOM);
    assert_eq!(listener.lost(), 2 * (u64::from(TOLD) - ROOM as u64));
}

#[test]
fn flows_whose_end_finds_no_room_end_all_the_same() {
    let mut bench = Bench::new();
    let (teller, listener) = facts::ring(ROOM);
    bench.shard.flows.ended = Some(teller);
    for port in 0..TOLD {
        bench.forwarded(trunk(WEB), &from_host(WEB, HOST_IP, WEB_IP, Load::Syn(port, 80)), Some(WEB));
    }
    assert!(bench.shard.flows.remove_pod(WEB, usize::MAX));
    assert!(bench.shard.flows.is_empty());
    assert_eq!(listener.lost(), u64::from(TOLD) - ROOM as u64);
    let states: Vec<_> = listener.map(|ended| ended.flow.state).collect();
    assert_eq!(states, [FlowState::SynSent; ROOM]);
}
