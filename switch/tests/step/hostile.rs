//! Hostile frames: whatever the bytes, the step neither panics nor loses count, and nothing reaches the wrong pod.

use crate::harness::*;
use espalier_switch::step::{From, Outcome};
use proptest::prelude::*;

/// Frames that almost make sense: real ones with bytes changed, cut off or appended.
fn mangled() -> impl Strategy<Value = (From, Vec<u8>)> {
    let seeds = vec![
        (trunk(WEB), from_host(WEB, HOST_IP, WEB_IP, Load::Syn(4000, 80))),
        (trunk(WEB), from_host(WEB, HOST_IP6, WEB_IP6, Load::Ack(4000, 80))),
        (trunk(DB), from_host(DB, HOST_IP, DB_IP, Load::Udp(53, 53))),
        (trunk(WEB), from_host(WEB, HOST_IP, WEB_IP, Load::Ping(1))),
        (pod(WEB), tagged(WEB, from_pod(WEB, WEB_IP, HOST_IP, Load::Udp(1, 2)))),
        (pod(DB), tagged(DB, from_pod(DB, DB_IP6, HOST_IP6, Load::Ping(1)))),
        (local(WEB), from_pod(WEB, WEB_IP, DB_IP, Load::Syn(4000, 5432))),
        (local(DB), from_pod(DB, DB_IP6, WEB_IP6, Load::Pong(3))),
        (local(WEB), [&[0xff; 6][..], &POD_MAC[0], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[9; 20]].concat()),
    ];
    let edits = prop::collection::vec((0..120usize, any::<u8>()), 0..6);
    (prop::sample::select(seeds), edits, 0..140usize, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |((from, mut frame), edits, cut, tail)| {
            for (at, value) in edits {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            frame.truncate(cut.max(1));
            frame.extend(tail);
            (from, frame)
        },
    )
}

fn holds(bench: &mut Bench, from: From, frame: &[u8]) -> Result<(), TestCaseError> {
    let before = bench.shard.counters.totals.rx;
    for (out, outcome) in bench.step(from, frame) {
        if let Outcome::Forward(exit) = outcome {
            let to = exit.pod();
            let (pod, address_at) = match to {
                Some(slot) => (slot, 14),
                None => (from.pod().expect("only pods send to the trunk"), 18),
            };
            let expected = if to.is_some() { POD_MAC[pod.index()] } else { GATEWAY_MAC };
            prop_assert_eq!(&out[..6], &expected[..]);
            if let (Some(slot), 0x45) = (to, out[address_at]) {
                prop_assert_eq!(
                    out[address_at + 19],
                    10 + slot.0 as u8,
                    "delivered to the address's own pod"
                );
            }
        }
    }
    let held = bench.shard.fragments.held() as u64;
    let totals = &bench.shard.counters.totals;
    prop_assert_eq!(totals.rx, before + 1);
    prop_assert_eq!(totals.rx, totals.forwarded + totals.consumed + totals.dropped.total() + held);
    Ok(())
}

proptest! {
    #[test]
    fn mangled_frames_are_counted(frames in prop::collection::vec(mangled(), 1..60)) {
        let mut bench = Bench::new();
        for (from, frame) in frames {
            holds(&mut bench, from, &frame)?;
        }
    }

    #[test]
    fn noise_is_counted(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..40)) {
        let mut bench = Bench::new();
        for frame in frames {
            for from in [trunk(WEB), pod(WEB), local(DB)] {
                holds(&mut bench, from, &frame)?;
            }
        }
    }
}
