//! Looking changes nothing: a traced packet ends as the step then ends it, and a watched shard decides as another does,
//! with every packet that is counted shown once.

use std::collections::HashMap;

use espalier_rules::Decision;
use espalier_switch::counters::Exit;
use espalier_switch::flow::{FlowState, Now};
use espalier_switch::observe::{End, LegSeen, Observer, Sample, Seen, Watch, tap};
use espalier_switch::reason::DropReason;
use espalier_switch::step::{self, From, Outcome};
use proptest::prelude::*;

use crate::harness::*;
use crate::split::{Event, event, frame_of, rules};

/// One shard, watched or not.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.publish(&rules(true));
    bench
}

/// Keeps a copy of all it sees.
struct Keep(std::sync::mpsc::Sender<Sample>);

impl Observer for Keep {
    fn seen(&mut self, seen: &Seen<'_>) -> bool {
        self.0.send(Sample::of(seen)).is_ok()
    }
}

fn expire(bench: &mut Bench) -> Vec<(Vec<u8>, Outcome)> {
    let mut decided = Vec::new();
    step::expire(&Heap, &mut bench.shard, &bench.tables, bench.now, &mut decided);
    decided
}

proptest! {
    /// A fragment's end hangs on others, so fragments are not traced here.
    #[test]
    fn a_trace_tells_what_the_step_then_does(events in prop::collection::vec(event(), 1..60)) {
        let mut bench = bench();
        for event in events {
            match event {
                Event::Wait(seconds) => bench.now = Now(bench.now.0 + seconds * 1000),
                Event::Rules(wide) => bench.publish(&rules(wide)),
                Event::Fragment { .. } => {}
                _ => {}
            }
            let Some((from, frame)) = frame_of(event) else { continue };
            if matches!(event, Event::Fragment { .. }) {
                bench.step(from, &frame);
                continue;
            }
            let before = (bench.shard.counters.totals.clone(), bench.shard.flows.stats(), bench.shard.flows.len());
            let traced = step::trace(&bench.shard, &bench.tables, bench.now, from, frame.clone());
            let after = (bench.shard.counters.totals.clone(), bench.shard.flows.stats(), bench.shard.flows.len());
            prop_assert_eq!(before, after);
            let (frame, outcome) = bench.one(from, &frame);
            prop_assert_eq!((&traced.frame, traced.outcome), (&frame, outcome));
            let seen = traced.seen.unwrap();
            prop_assert_eq!(seen.end, End::Decided(outcome));
            if let Outcome::Drop(DropReason::DeniedEgress | DropReason::DeniedIngress) = outcome {
                prop_assert_eq!(seen.legs.last().unwrap().decision, Some(Decision::Deny));
            }
        }
    }

    #[test]
    fn a_watched_shard_decides_as_another_and_shows_each_packet_once(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let (mut plain, mut watched) = (bench(), bench());
        let (keep, seen) = std::sync::mpsc::channel();
        watched.shard.watch = Some(Box::new(Watch::new(Box::new(Keep(keep)))));
        for event in events {
            for bench in [&mut plain, &mut watched] {
                match event {
                    Event::Wait(seconds) => bench.now = Now(bench.now.0 + seconds * 1000),
                    Event::Rules(wide) => bench.publish(&rules(wide)),
                    _ => {}
                }
            }
            let decided = match frame_of(event) {
                Some((from, frame)) => [plain.step(from, &frame), watched.step(from, &frame)],
                None => [expire(&mut plain), expire(&mut watched)],
            };
            prop_assert_eq!(&decided[0], &decided[1]);
        }
        prop_assert_eq!(&plain.shard.counters.totals, &watched.shard.counters.totals);
        let mut ends: HashMap<End, u64> = HashMap::new();
        seen.try_iter().for_each(|sample| *ends.entry(sample.end).or_default() += 1);
        let totals = &watched.shard.counters.totals;
        let of = |wanted: fn(&Outcome) -> bool| -> u64 {
            let fits = |end: &End| matches!(end, End::Decided(outcome) if wanted(outcome));
            ends.iter().filter(|(end, _)| fits(end)).map(|(_, count)| count).sum()
        };
        prop_assert_eq!(of(|outcome| matches!(outcome, Outcome::Forward(_))), totals.forwarded);
        prop_assert_eq!(of(|outcome| *outcome == Outcome::Consumed), totals.consumed);
        for reason in DropReason::ALL {
            let count = ends.get(&End::Decided(Outcome::Drop(*reason))).copied().unwrap_or_default();
            prop_assert_eq!(count, totals.dropped.of(*reason), "{}", reason.label());
        }
    }
}

fn trace(bench: &Bench, from: From, frame: Vec<u8>) -> (Vec<LegSeen>, Outcome) {
    let traced = step::trace(&bench.shard, &bench.tables, bench.now, from, frame);
    (traced.seen.unwrap().legs, traced.outcome)
}

#[test]
fn a_trace_between_pods_shows_both_policies_and_the_flow_it_would_begin() {
    let mut bench = Bench::new();
    let syn = from_pod(WEB, WEB_IP, DB_IP, Load::Syn(4000, 5432));
    let (legs, outcome) = trace(&bench, local(WEB), syn.clone());
    assert!(matches!(outcome, Outcome::Forward(Exit::Pod(DB))));
    let [out, into] = &legs[..] else { panic!("{legs:?}") };
    assert_eq!((out.slot, into.slot), (WEB, DB));
    for leg in [out, into] {
        assert!(matches!(leg.decision, Some(Decision::Allow { tracked: true, .. })), "{leg:?}");
        assert_eq!((leg.before, leg.verdict), (None, Ok(())));
        assert_eq!(leg.after.unwrap().state, FlowState::SynSent);
    }
    assert!(bench.shard.flows.is_empty());

    // The same again once the flow is there: nobody is asked any more.
    bench.forwarded(local(WEB), &syn, Some(DB));
    let answer = from_pod(DB, DB_IP, WEB_IP, Load::SynAck(5432, 4000));
    let (legs, _) = trace(&bench, local(DB), answer);
    assert!(legs.iter().all(|leg| leg.decision.is_none() && leg.before.is_some()), "{legs:?}");
}

#[test]
fn a_trace_of_a_pod_in_audit_mode_says_what_would_be_denied_and_that_it_passes() {
    let mut bench = Bench::new();
    let denied = from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 81));
    assert_eq!(trace(&bench, trunk(WEB), denied.clone()).1, Outcome::Drop(DropReason::DeniedIngress));
    let audited = SNAPSHOT.replacen("vlan: 101,", "vlan: 101, audit: true,", 1);
    assert_ne!(audited, SNAPSHOT);
    bench.publish(&audited);
    let (legs, outcome) = trace(&bench, trunk(WEB), denied.clone());
    assert!(matches!(outcome, Outcome::Forward(Exit::Pod(WEB))), "{outcome:?}");
    assert_eq!((legs[0].verdict, legs[0].audited), (Err(DropReason::DeniedIngress), true));
    bench.forwarded(trunk(WEB), &denied, Some(WEB));
}

#[test]
fn a_trace_says_when_the_pod_has_no_room_for_another_flow() {
    let mut bench = Bench::new();
    let udp = |port| tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Udp(port, 53)));
    let mut port = 1000;
    while matches!(bench.one(pod(WEB), &udp(port)).1, Outcome::Forward(_)) {
        port += 1;
    }
    let (legs, outcome) = trace(&bench, pod(WEB), udp(9));
    assert_eq!(outcome, Outcome::Drop(DropReason::FlowQuota));
    assert_eq!(legs[0].verdict, Err(DropReason::FlowQuota));
    assert!(matches!(trace(&bench, pod(WEB), udp(1000)).1, Outcome::Forward(_)));
}

#[test]
fn a_tap_that_nobody_reads_leaves_the_shard_unwatched() {
    let mut bench = Bench::new();
    let (tap, mut samples) = tap(128, Box::new(|seen| seen.end.dropped().is_some()));
    bench.shard.watch = Some(Box::new(Watch::new(Box::new(tap))));
    bench.forwarded(trunk(WEB), &from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 80)), Some(WEB));
    bench.dropped(trunk(WEB), &from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 81)));
    let sample = samples.next(Sample::clone).unwrap();
    assert_eq!(sample.end.dropped(), Some(DropReason::DeniedIngress));
    assert_eq!(sample.bytes, from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 81)));
    assert!(samples.next(|_| ()).is_none());
    drop(samples);
    bench.dropped(trunk(WEB), &from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 81)));
    assert!(bench.shard.watch.is_none());
}
