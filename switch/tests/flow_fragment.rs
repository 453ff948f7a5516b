//! The fragment tracker from outside: every fragment handed in comes back once, with the right verdict or reason.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::rule::Direction::{Egress, Ingress};
use espalier_switch::flow::fragment::{FragmentConfig, FragmentDrop, FragmentKey, Fragments, Later, Part};
use espalier_switch::flow::{Now, PodSlot};
use proptest::prelude::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const POD: PodSlot = PodSlot(0);

type Tracker = Fragments<u32, bool>;

fn config() -> FragmentConfig {
    FragmentConfig {
        pods: 2,
        packets: 6,
        packets_per_pod: 4,
        held: 5,
        held_per_pod: 3,
        hold_ms: 500,
        keep_ms: 30_000,
    }
}

fn tracker() -> Tracker {
    Fragments::new(config()).expect("a few bytes")
}

fn key(slot: PodSlot, id: u32) -> FragmentKey {
    let (source, destination): (IpAddr, IpAddr) =
        (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(10, 0, 0, 1).into());
    FragmentKey::new(slot, Ingress, source, destination, UDP, id)
}

fn part(offset: u16, len: u32, more: bool) -> Part {
    Part { offset, len, more }
}

fn none(reason: FragmentDrop, item: u32) {
    unreachable!("{item} was dropped: {reason:?}");
}

/// A first fragment of 1480 bytes with a verdict; returns what was released.
fn first(tracker: &mut Tracker, key: &FragmentKey, verdict: bool, now: u64) -> Vec<u32> {
    tracker.first(key, UDP, &part(0, 1480, true), Now(now), &mut none).expect("a good first fragment");
    let mut released = Vec::new();
    tracker.decide(key, verdict, Now(now), |item| released.push(item));
    released
}

#[test]
fn later_fragments_inherit_until_the_packet_is_complete() {
    for verdict in [true, false] {
        let mut tracker = tracker();
        let key = key(POD, 1);
        assert!(first(&mut tracker, &key, verdict, 0).is_empty());
        let middle = tracker.later(&key, &part(1480, 1480, true), Now(0), 2, &mut none);
        assert_eq!(middle, Later::Inherit(verdict, 2));
        assert_eq!(tracker.len(), 1);
        let last = tracker.later(&key, &part(2960, 11, false), Now(0), 3, &mut none);
        assert_eq!(last, Later::Inherit(verdict, 3));
        assert!(tracker.is_empty());
    }
}

#[test]
fn fragments_before_the_first_are_released_in_order() {
    let mut tracker = tracker();
    let key = key(POD, 1);
    assert_eq!(tracker.later(&key, &part(2960, 11, false), Now(0), 3, &mut none), Later::Held);
    assert_eq!(tracker.later(&key, &part(1480, 1480, true), Now(0), 2, &mut none), Later::Held);
    assert_eq!(tracker.held(), 2);
    assert_eq!(first(&mut tracker, &key, true, 499), [3, 2]);
    assert_eq!((tracker.len(), tracker.held()), (0, 0));
}

#[test]
fn both_limits_on_held_fragments_hold() {
    let mut tracker = tracker();
    for item in 0..3 {
        let part = part(1480 * (item as u16 + 1), 1480, true);
        assert_eq!(tracker.later(&key(POD, 1), &part, Now(0), item, &mut none), Later::Held);
    }
    let refused = Later::Drop(FragmentDrop::HeldLimit, 9);
    assert_eq!(tracker.later(&key(POD, 1), &part(8000, 8, true), Now(0), 9, &mut none), refused);
    assert_eq!(tracker.later(&key(POD, 2), &part(8000, 8, true), Now(0), 9, &mut none), refused);
    for item in 4..6 {
        let part = part(8000 + 8 * item as u16, 8, true);
        assert_eq!(tracker.later(&key(PodSlot(1), 1), &part, Now(0), item, &mut none), Later::Held);
    }
    assert_eq!(tracker.later(&key(PodSlot(1), 1), &part(9000, 8, true), Now(0), 9, &mut none), refused);
    assert_eq!((tracker.held(), tracker.len()), (5, 2));
}

#[test]
fn orphans_are_dropped_after_the_hold_and_verdicts_after_30_s() {
    let mut tracker = tracker();
    tracker.later(&key(POD, 1), &part(1480, 8, true), Now(0), 1, &mut none);
    first(&mut tracker, &key(POD, 2), true, 0);
    tracker.expire(Now(500), 10, none);
    let mut dropped = Vec::new();
    tracker.expire(Now(501), 10, |reason, item| dropped.push((reason, item)));
    assert_eq!(dropped, [(FragmentDrop::Orphan, 1)]);
    tracker.expire(Now(30_000), 10, none);
    assert_eq!(tracker.len(), 1);
    tracker.expire(Now(30_001), 10, none);
    assert_eq!((tracker.len(), tracker.held()), (0, 0));
}

#[test]
fn a_pod_at_its_number_of_packets_loses_its_oldest() {
    let mut tracker = tracker();
    tracker.later(&key(POD, 0), &part(1480, 8, true), Now(0), 7, &mut none);
    for id in 1..4 {
        first(&mut tracker, &key(POD, id), true, 0);
    }
    first(&mut tracker, &key(PodSlot(1), 9), true, 0);
    let mut dropped = Vec::new();
    let mut note = |reason, item| dropped.push((reason, item));
    assert_eq!(tracker.first(&key(POD, 4), UDP, &part(0, 1480, true), Now(1), &mut note), Ok(()));
    assert_eq!(dropped, [(FragmentDrop::Evicted, 7)]);
    assert_eq!(tracker.len(), 5);
    let survivor = tracker.later(&key(PodSlot(1), 9), &part(1480, 8, false), Now(1), 1, &mut none);
    assert_eq!(survivor, Later::Inherit(true, 1));
    assert_eq!(
        tracker.first(&key(PodSlot(2), 1), UDP, &part(0, 1480, true), Now(1), &mut none),
        Err(FragmentDrop::PacketLimit),
        "no such pod"
    );
}

#[test]
fn tiny_and_malformed_fragments_are_refused() {
    let mut tracker = tracker();
    let key = key(POD, 1);
    let mut try_first = |protocol, part| tracker.first(&key, protocol, &part, Now(0), &mut none);
    assert_eq!(try_first(TCP, part(0, 16, true)), Err(FragmentDrop::Tiny));
    assert_eq!(try_first(UDP, part(0, 20, true)), Err(FragmentDrop::Malformed), "not a multiple of 8");
    assert_eq!(try_first(UDP, part(0, 0, true)), Err(FragmentDrop::Malformed));
    assert_eq!(try_first(TCP, part(0, 24, true)), Ok(()));
    let too_long = tracker.later(&key, &part(65_528, 8, false), Now(0), 1, &mut none);
    assert_eq!(too_long, Later::Drop(FragmentDrop::Malformed, 1));
}

#[test]
fn an_overlap_spoils_the_packet_a_duplicate_does_not() {
    let mut tracker = tracker();
    let key = key(POD, 1);
    first(&mut tracker, &key, true, 0);
    let mut later = |part, item| tracker.later(&key, &part, Now(0), item, &mut none);
    assert_eq!(later(part(8, 8, true), 1), Later::Drop(FragmentDrop::Duplicate, 1));
    assert_eq!(later(part(1480, 8, true), 2), Later::Inherit(true, 2));
    assert_eq!(later(part(1480, 16, true), 3), Later::Drop(FragmentDrop::Overlap, 3));
    assert_eq!(later(part(1488, 16, false), 4), Later::Drop(FragmentDrop::Overlap, 4));
}

#[test]
fn a_first_fragment_over_a_held_one_drops_both() {
    let mut tracker = tracker();
    let key = key(POD, 1);
    assert_eq!(tracker.later(&key, &part(8, 1480, true), Now(0), 1, &mut none), Later::Held);
    let mut dropped = Vec::new();
    let mut note = |reason, item| dropped.push((reason, item));
    let got = tracker.first(&key, TCP, &part(0, 24, true), Now(0), &mut note);
    assert_eq!(got, Err(FragmentDrop::Overlap));
    assert_eq!(dropped, [(FragmentDrop::Overlap, 1)]);
    assert_eq!(tracker.held(), 0);
}

#[test]
fn families_tell_packets_apart_as_their_standards_say() {
    let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let key = |address, protocol, id| FragmentKey::new(POD, Egress, address, address, protocol, id);
    assert_ne!(key(v4, TCP, 1), key(v4, UDP, 1));
    assert_eq!(key(v6, TCP, 1), key(v6, UDP, 1));
    assert_ne!(key(v6, TCP, 1), key(v6, TCP, 0x1_0001));
    assert!(
        part(0, 100, false).is_whole() && !part(0, 104, true).is_whole() && !part(8, 8, false).is_whole()
    );
}

#[test]
fn a_removed_pod_leaves_nothing() {
    let mut tracker = tracker();
    tracker.later(&key(POD, 1), &part(1480, 8, true), Now(0), 1, &mut none);
    first(&mut tracker, &key(POD, 2), true, 0);
    first(&mut tracker, &key(PodSlot(1), 2), true, 0);
    let mut dropped = Vec::new();
    tracker.remove_pod(POD, |reason, item| dropped.push((reason, item)));
    assert_eq!(dropped, [(FragmentDrop::PodRemoved, 1)]);
    assert_eq!((tracker.len(), tracker.held()), (1, 0));
}

proptest! {
    /// Whatever comes in whatever order: nothing is lost, nothing comes back twice, no limit is passed.
    #[test]
    fn every_fragment_comes_back_once(
        packets in prop::collection::vec(
            (0_u16..3, 0_u32..6, 0_u16..6, 1_u32..4, any::<bool>(), 0_u64..400), 1..200)
    ) {
        let mut tracker = tracker();
        let (mut back, mut given, mut clock) = (HashSet::new(), HashSet::new(), 0);
        for (item, (slot, id, offset, len, more, wait)) in packets.into_iter().enumerate() {
            let item = item as u32;
            clock += wait;
            let now = Now(clock);
            let key = key(PodSlot(slot), id);
            let part = part(offset * 24, len * 24, more);
            if offset == 0 {
                let mut ends = Vec::new();
                if tracker.first(&key, TCP, &part, now, &mut |_, item| ends.push(item)).is_ok() {
                    tracker.decide(&key, true, now, |item| ends.push(item));
                }
                for item in ends {
                    prop_assert!(back.insert(item));
                }
            } else {
                given.insert(item);
                let mut ends = Vec::new();
                match tracker.later(&key, &part, now, item, &mut |_, item| ends.push(item)) {
                    Later::Held => {}
                    Later::Inherit(_, item) | Later::Drop(_, item) => ends.push(item),
                }
                for item in ends {
                    prop_assert!(back.insert(item));
                }
            }
            let mut ends = Vec::new();
            tracker.expire(now, 1, |_, item| ends.push(item));
            for item in ends {
                prop_assert!(back.insert(item));
            }
            prop_assert!(tracker.len() <= 6 && tracker.held() <= 5);
            prop_assert_eq!(given.len() - back.len(), tracker.held());
        }
        tracker.expire(Now(clock + 31_000), 1000, |_, item| { back.insert(item); });
        prop_assert_eq!(back, given);
        prop_assert!(tracker.is_empty());
    }
}
