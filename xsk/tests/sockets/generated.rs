//! The load generator's programs: the intake gives every frame to its port, live frames leave as they were ordered.

use std::collections::HashSet;

use espalier_xsk::ethtool::{Offload, set_offload};
use espalier_xsk::{Intake, LiveFrames, LiveOrder, LiveProgress, LiveTemplate, Port, TrafficError, XdpMode};

use crate::lab::{FarEnd, Lab, until};
use crate::site::{FRAMES, all_free, config, umem};
use crate::steered::{TCI, bytes_of, plain_frame, receive, tagged};

const STAMP: usize = 40;
const MARK: u32 = 0xe5_9a07;

#[test]
fn the_intake_takes_every_frame_in_both_modes_and_goes_when_dropped() {
    let lab = Lab::new();
    let interface = lab.veth("port0", 9001);
    let far = lab.far_end("port0");
    let (umem, mut pool) = umem();
    let mut port = Port::open(&umem, &interface, 0, &config()).unwrap();
    port.refill(&mut pool);
    for (wanted, mode) in [
        (XdpMode::Auto, XdpMode::Native),
        (XdpMode::Native, XdpMode::Native),
        (XdpMode::Generic, XdpMode::Generic),
    ] {
        let intake = Intake::attach(&interface, wanted, std::slice::from_ref(&port)).unwrap();
        assert_eq!(intake.mode(), mode);
        let second = Intake::attach(&interface, wanted, &[]);
        assert!(matches!(second, Err(TrafficError::Occupied { interface }) if interface == "port0"));
        let frames: Vec<_> = (0..40)
            .map(|n| plain_frame(n, 60 + n as usize * 150))
            .map(|frame| if frame.len() % 4 == 0 { tagged(&frame, TCI) } else { frame })
            .collect();
        frames.iter().for_each(|frame| far.send(frame));
        for (frame, packet) in frames.iter().zip(receive(&mut port, &mut pool, frames.len(), 7)) {
            assert_eq!(bytes_of(&umem, &packet), *frame);
            pool.free_packet(packet);
        }
    }
    port.close().into_iter().for_each(|frame| pool.free(frame));
    assert_eq!((pool.available(), umem.owners()), (FRAMES as usize, all_free()));
}

/// A veth whose far end takes live frames: those want NAPI there, which GRO brings.
fn far_with_napi(lab: &Lab) -> (espalier_xsk::InterfaceRef, FarEnd) {
    let interface = lab.veth("port0", 1500);
    lab.in_far(|| set_offload("port0", Offload::Gro, true)).unwrap();
    let far = lab.far_end("port0");
    (interface, far)
}

fn template(fill: u8, length: u16, flow: u32) -> LiveTemplate {
    let mut head = [0; LiveTemplate::HEAD];
    head[..STAMP].fill(fill);
    // An EtherType for experiments (RFC 9542), so that nobody looks into the frames.
    head[12..14].copy_from_slice(&[0x88, 0xb5]);
    LiveTemplate { head, length, stamp: STAMP as u16, flow }
}

fn order(frames: u64) -> LiveOrder {
    LiveOrder { mark: MARK, frames, interval: 0, slack: 0, length: u64::MAX }
}

/// Mark, flow, sequence number and time of a stamp whose sum is zero.
fn stamp(frame: &[u8]) -> (u32, u32, u64, u64) {
    let bytes = &frame[STAMP..STAMP + 18];
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    let number = |from: usize, to: usize| bytes[from..to].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    (number(0, 3) as u32, number(3, 6) as u32, number(6, 11), number(11, 16))
}

#[test]
fn live_frames_leave_in_turn_with_headers_and_stamps_of_their_own() {
    let lab = Lab::new();
    let (interface, far) = far_with_napi(&lab);
    let templates = [template(0x11, 60, 3), template(0x22, 1400, 70_000), template(0x33, 90, 5)];
    let mut live = LiveFrames::load(&interface, &templates).unwrap();
    // Fewer at a time than a veth's ring holds (256): live frames know no back-pressure.
    for round in 0..5 {
        live.order(&LiveOrder { mark: MARK + round, ..order(200) }).unwrap();
        live.run(150, 32).unwrap();
        let half = live.meter().progress().unwrap();
        assert_eq!((half.frames, half.failed), (150, 0));
        live.run(10_000, 64).unwrap();
        let whole = live.meter().progress().unwrap();
        assert_eq!((whole.frames, whole.bytes), (200, 67 * 60 + 67 * 1400 + 66 * 90));
        let (mut seen, mut last) = (0, 0);
        until("every frame at the far end", || {
            while let Some(frame) = far.receive() {
                let template = &templates[seen % 3];
                let (mark, flow, sequence, time) = stamp(&frame);
                assert_eq!((mark, flow, sequence), (MARK + round, template.flow, seen as u64));
                assert!(time >= last, "times only grow");
                assert_eq!(frame.len(), usize::from(template.length));
                assert_eq!(frame[..STAMP], template.head[..STAMP]);
                assert!(
                    frame[STAMP + 18..].iter().all(|byte| *byte == 0),
                    "nothing but zeros after the stamp"
                );
                (seen, last) = (seen + 1, time);
            }
            seen == 200
        });
    }
    assert_eq!(far.receive(), None);
}

#[test]
fn live_frames_keep_their_interval_and_their_length() {
    let lab = Lab::new();
    let (interface, far) = far_with_napi(&lab);
    let mut live = LiveFrames::load(&interface, &[template(1, 64, 0)]).unwrap();
    let millisecond = 1_000_000;
    let paced = LiveOrder { interval: millisecond << 16, ..order(20) };
    live.order(&paced).unwrap();
    assert_eq!(live.meter().progress().unwrap(), LiveProgress::default(), "nothing has begun");
    until("twenty frames a millisecond apart", || {
        live.run(100_000, 64).unwrap();
        live.meter().progress().unwrap().frames == 20
    });
    let LiveProgress { start, last, .. } = live.meter().progress().unwrap();
    assert!(last >= start + 19 * millisecond, "{} ns", last - start);
    live.order(&LiveOrder { length: 5 * millisecond, ..paced }).unwrap();
    until("the order's end", || {
        live.run(10_000, 64).unwrap();
        now() > live.meter().progress().unwrap().start + 5 * millisecond
    });
    assert!(live.meter().progress().unwrap().frames <= 5);
    let total = 20 + live.meter().progress().unwrap().frames;
    let mut numbers = Vec::new();
    until("what was sent at the far end", || {
        numbers.extend(std::iter::from_fn(|| far.receive()).map(|frame| stamp(&frame).2));
        numbers.len() as u64 >= total
    });
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 20, "the second order counts from 0 again");
}

/// The kernel has a grace period before the first turn. It once counted as time of the order: a tenth of a short one.
#[test]
fn an_order_begins_with_its_first_turn() {
    let lab = Lab::new();
    let (interface, _far) = far_with_napi(&lab);
    let mut live = LiveFrames::load(&interface, &[template(1, 64, 0)]).unwrap();
    let paced = LiveOrder { interval: 1_000_000 << 16, length: 1, ..order(20) };
    for _ in 0..3 {
        live.order(&paced).unwrap();
        let ordered = now();
        live.run(1000, 64).unwrap();
        let LiveProgress { frames, start, last, .. } = live.meter().progress().unwrap();
        assert_eq!((frames, last), (1, start), "the first frame is due in the first turn");
        assert!((ordered..now()).contains(&start), "{start} is not after {ordered}");
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[test]
fn templates_that_cannot_be_sent_are_refused() {
    let lab = Lab::new();
    let (interface, _far) = far_with_napi(&lab);
    let refused =
        |templates: &[LiveTemplate]| LiveFrames::load(&interface, templates).unwrap_err().to_string();
    assert!(refused(&[]).contains("no template"));
    assert!(refused(&[template(1, 57, 0)]).contains("57 bytes"));
    assert!(refused(&[LiveTemplate { stamp: 80, ..template(1, 200, 0) }]).contains("byte 80"));
    assert!(refused(&[template(1, LiveTemplate::MAX_LENGTH + 1, 0)]).contains("at most 3400"));
    let mut longest = LiveFrames::load(&interface, &[template(1, LiveTemplate::MAX_LENGTH, 0)]).unwrap();
    longest.order(&order(1)).unwrap();
    longest.run(1, 1).unwrap();
    assert_eq!(longest.meter().progress().unwrap().frames, 1);
}
