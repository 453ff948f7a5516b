//! Both programs on single frames, run by the kernel's test-run call: verdict, bytes, metadata, and that exactly
//! one counter moved by exactly one.

use std::net::Ipv6Addr;

use espalier_xsk::{DryRun, Entrance, SteerFlags, SteerMeta, Steering, Verdict, XdpMode, interface};

use crate::frames::*;
use crate::sandbox::{gains, open, sandbox, unbound_xdp_socket};

const BRANCH: u16 = 117;
const SLOT: u16 = 3;
const LO: u32 = 1;

/// Runs one frame and checks the counter.
fn run(steering: &Steering, entrance: Entrance, frame: &[u8], counter: &str) -> DryRun {
    let before = steering.counters().unwrap();
    let result = steering.dry_run(entrance, LO, 0, frame).unwrap();
    assert_eq!(gains(&before, &steering.counters().unwrap()), [(counter, 1)], "{frame:02x?}");
    result
}

fn pass(frame: &[u8]) -> DryRun {
    DryRun { verdict: Verdict::Pass, meta: None, frame: frame.to_vec() }
}

fn popped(tci: u16, frame: &[u8]) -> DryRun {
    let meta = Some(SteerMeta { tci, flags: SteerFlags::POPPED });
    DryRun { verdict: Verdict::Redirect, meta, frame: frame.to_vec() }
}

fn from_pod(frame: &[u8]) -> DryRun {
    let meta = Some(SteerMeta { tci: BRANCH, flags: SteerFlags::POD });
    DryRun { verdict: Verdict::Redirect, meta, frame: frame.to_vec() }
}

fn on_trunk(test: impl FnOnce(&mut Steering) + Send) {
    sandbox(|| {
        let mut steering = open(XdpMode::Auto);
        steering.set_branch(BRANCH, true).unwrap();
        let socket = unbound_xdp_socket();
        steering.set_trunk_socket(0, &socket).unwrap();
        test(&mut steering);
    });
}

fn on_pod(test: impl FnOnce(&mut Steering) + Send) {
    sandbox(|| {
        let mut steering = open(XdpMode::Generic);
        steering.attach_pod(&interface("lo").unwrap(), SLOT, BRANCH).unwrap();
        let socket = unbound_xdp_socket();
        steering.set_pod_socket(SLOT, &socket).unwrap();
        test(&mut steering);
    });
}

#[test]
fn trunk_leaves_untagged_frames_to_the_kernel() {
    on_trunk(|steering| {
        let shortest = ethernet(ROUTER, IPV4, &[]);
        let priority = tagged(&ipv4([10, 0, 0, 9], 8), VLAN, 0xe000);
        for frame in [ipv4([10, 0, 0, 9], 64), ethernet(BROADCAST, ARP, &[0; 28]), shortest, priority] {
            assert_eq!(run(steering, Entrance::Trunk, &frame, "trunk_untagged_pass"), pass(&frame));
        }
    });
}

#[test]
fn trunk_pops_the_tag_of_a_known_branch() {
    on_trunk(|steering| {
        let shortest = ethernet(ROUTER, 0xffff, &[]);
        for inner in [ipv4([10, 0, 0, 9], 0), ipv4([10, 0, 0, 9], 1472), shortest] {
            for priority in [0, 0xe000, 0x1000] {
                let tci = BRANCH | priority;
                let frame = tagged(&inner, VLAN, tci);
                let got = run(steering, Entrance::Trunk, &frame, "trunk_redirected");
                assert_eq!(got, popped(tci, &inner));
            }
        }
    });
}

#[test]
fn trunk_pops_jumbo_frames_of_several_buffers() {
    on_trunk(|steering| {
        for length in [3600, 4096, 8958, 8973] {
            let inner = ipv4([10, 0, 0, 9], length);
            let frame = tagged(&inner, VLAN, BRANCH);
            assert_eq!(run(steering, Entrance::Trunk, &frame, "trunk_redirected"), popped(BRANCH, &inner));
        }
    });
}

#[test]
fn trunk_leaves_unknown_vlans_to_the_kernel() {
    on_trunk(|steering| {
        for vlan in [1, BRANCH - 1, BRANCH + 1, 4094, 4095] {
            let frame = tagged(&ipv4([10, 0, 0, 9], 8), VLAN, vlan);
            assert_eq!(run(steering, Entrance::Trunk, &frame, "trunk_unknown_vlan_pass"), pass(&frame));
        }
        steering.set_branch(BRANCH, false).unwrap();
        let frame = tagged(&ipv4([10, 0, 0, 9], 8), VLAN, BRANCH);
        assert_eq!(run(steering, Entrance::Trunk, &frame, "trunk_unknown_vlan_pass"), pass(&frame));
    });
}

#[test]
fn trunk_takes_off_only_the_outer_tag() {
    on_trunk(|steering| {
        for inner_tpid in [VLAN, SERVICE_VLAN] {
            let inner = tagged(&ipv4([10, 0, 0, 9], 8), inner_tpid, 5);
            let frame = tagged(&inner, VLAN, BRANCH);
            assert_eq!(run(steering, Entrance::Trunk, &frame, "trunk_redirected"), popped(BRANCH, &inner));
        }
        let service = tagged(&ipv4([10, 0, 0, 9], 8), SERVICE_VLAN, BRANCH);
        assert_eq!(run(steering, Entrance::Trunk, &service, "trunk_service_tag_pass"), pass(&service));
    });
}

#[test]
fn trunk_drops_a_tag_cut_short() {
    on_trunk(|steering| {
        let whole = tagged(&ethernet(ROUTER, IPV4, &[]), VLAN, BRANCH);
        for length in 14..18 {
            let got = run(steering, Entrance::Trunk, &whole[..length], "trunk_malformed_drop");
            assert_eq!(got.verdict, Verdict::Drop, "{length} bytes");
        }
        assert_eq!(run(steering, Entrance::Trunk, &whole, "trunk_redirected").verdict, Verdict::Redirect);
    });
}

#[test]
fn trunk_drops_branch_frames_when_no_socket_takes_them() {
    on_trunk(|steering| {
        let frame = tagged(&ipv4([10, 0, 0, 9], 8), VLAN, BRANCH);
        steering.clear_trunk_socket(0).unwrap();
        steering.clear_trunk_socket(0).unwrap();
        let got = run(steering, Entrance::Trunk, &frame, "trunk_no_socket_drop");
        assert_eq!(got.verdict, Verdict::Drop);

        let socket = unbound_xdp_socket();
        steering.set_trunk_socket(0, &socket).unwrap();
        assert_eq!(run(steering, Entrance::Trunk, &frame, "trunk_redirected").verdict, Verdict::Redirect);
        drop(socket);
        let got = run(steering, Entrance::Trunk, &frame, "trunk_no_socket_drop");
        assert_eq!(got.verdict, Verdict::Drop, "a closed socket leaves the map by itself");
    });
}

#[test]
fn a_branch_has_its_share_of_a_queue_whose_reader_is_behind() {
    const OTHER: u16 = BRANCH + 1;
    on_trunk(|steering| {
        steering.set_branch(OTHER, true).unwrap();
        assert!(steering.throttle(256).unwrap_err().to_string().contains("queue 256"), "there are 256");
        let mut throttle = steering.throttle(0).unwrap();
        let passes = |vlan, frames: usize| {
            let frame = tagged(&ipv4([10, 0, 0, 9], 8), VLAN, vlan);
            let before = steering.counters().unwrap();
            let passed = (0..frames)
                .filter(|_| {
                    let run = steering.dry_run(Entrance::Trunk, 1, 0, &frame).unwrap();
                    run.verdict == Verdict::Redirect
                })
                .count();
            let after = steering.counters().unwrap();
            assert_eq!(after.trunk_redirected - before.trunk_redirected, passed as u64);
            let over_share = after.trunk_over_share_drop - before.trunk_over_share_drop;
            assert_eq!(over_share, (frames - passed) as u64);
            passed
        };
        let mut read = |batches, waiting| (0..batches).for_each(|_| throttle.read(waiting, 2048));
        assert_eq!(passes(BRANCH, 300), 300);
        read(1, 1025);
        assert_eq!(passes(BRANCH, 300), 300, "it is alone");
        assert_eq!(passes(OTHER, 10), 10);
        assert_eq!(passes(BRANCH, 300), 256, "so many at once, and one branch's share is none of another's");
        read(3, 1025);
        assert_eq!(passes(BRANCH, 10), 0);
        read(1, 1025);
        assert_eq!(passes(BRANCH, 70), 64, "so many a round");
        read(2 * 4, 2048);
        assert_eq!(passes(BRANCH, 200), 128);
        assert_eq!(passes(OTHER, 300), 256, "what was not used is kept, but no more than so many at once");
        read(4, 257);
        assert_eq!(passes(OTHER, 70), 64, "a reader that was behind has caught up when an eighth waits");
        read(1, 256);
        assert_eq!(passes(BRANCH, 300), 300);
        assert_eq!(passes(OTHER, 1), 1);
        read(1, 1024);
        assert_eq!(passes(BRANCH, 300), 300);
        read(4 * 65_536, 1025);
        assert_eq!((passes(OTHER, 300), passes(BRANCH, 300)), (300, 256), "it was alone again until now");
        read(1, 1025);
        assert_eq!(passes(BRANCH, 70), 64);
        drop(throttle);
        assert_eq!(passes(BRANCH, 300), 300, "without a reader nobody waits for one");
    });
}

#[test]
fn pod_frames_to_elsewhere_get_the_branch_tag() {
    on_pod(|steering| {
        let far: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let echo_request = [128, 0, 0, 0, 0, 1, 0, 1];
        let cases = [
            ipv4([10, 0, 0, 9], 0),
            ipv4([10, 0, 0, 9], 1472),
            ipv4([10, 0, 0, 9], 8973),
            ipv6(far, 6, &[0; 20]),
            ipv6(far, 17, &[7; 8000]),
            ipv6(far, 58, &echo_request),
            // Behind an extension header nothing is taken for neighbour discovery; the switch sees the whole packet.
            ipv6(far, 0, &[58, 0, 5, 2, 0, 0, 1, 0, 135, 0, 0, 0]),
            ethernet(ROUTER, IPV6, &ipv6(far, 59, &[])[14..]),
        ];
        for frame in cases {
            let got = run(steering, Entrance::Pod, &frame, "pod_redirected_tagged");
            assert_eq!(got, from_pod(&tagged(&frame, VLAN, BRANCH)));
        }
    });
}

#[test]
fn pod_frames_the_switch_answers_or_refuses_stay_untagged() {
    on_pod(|steering| {
        let router: Ipv6Addr = "fe80::1".parse().unwrap();
        let mut cases = vec![
            ethernet(BROADCAST, ARP, &[0; 28]),
            ethernet(ROUTER, ARP, &[0; 28]),
            ethernet(ROUTER, 0x88cc, &[1; 40]),
            ethernet(ROUTER, 40, &[0xaa; 40]),
            ethernet(BROADCAST, IPV4, &ipv4([255; 4], 8)[14..]),
            ethernet([0x33, 0x33, 0, 0, 0, 1], IPV6, &ipv6(router, 17, &[0; 8])[14..]),
            ethernet(ROUTER, IPV4, &[]),
            ipv6(router, 58, &[]),
        ];
        for kind in 133..=137 {
            cases.push(ipv6(router, 58, &[kind, 0, 0, 0, 0, 0, 0, 0]));
        }
        for cut in [15, 33] {
            cases.push(ipv4([10, 0, 0, 9], 8)[..cut].to_vec());
            cases.push(ipv6(router, 17, &[])[..cut + 20].to_vec());
        }
        for frame in cases {
            let got = run(steering, Entrance::Pod, &frame, "pod_redirected_untagged");
            assert_eq!(got, from_pod(&frame));
        }
    });
}

#[test]
fn a_tag_of_the_pods_own_never_looks_like_ours() {
    on_pod(|steering| {
        let plain = ipv4([10, 0, 0, 9], 8);
        let (to_all, to_local) = (ethernet(BROADCAST, ARP, &[0; 28]), ipv4([10, 0, 0, 11], 8));
        steering.set_local_address("10.0.0.11".parse().unwrap(), true).unwrap();
        for inner in [&plain, &to_all, &to_local] {
            for frame in [tagged(inner, VLAN, BRANCH), tagged(inner, VLAN, 0)] {
                for cut in [14, 16, frame.len()] {
                    let got = run(steering, Entrance::Pod, &frame[..cut], "pod_redirected_tagged");
                    assert_eq!(got, from_pod(&tagged(&frame[..cut], VLAN, BRANCH)), "ours comes first");
                }
            }
        }
        let service = tagged(&plain, SERVICE_VLAN, BRANCH);
        assert_eq!(run(steering, Entrance::Pod, &service, "pod_redirected_untagged"), from_pod(&service));
    });
}

#[test]
fn pod_frames_to_local_addresses_stay_untagged() {
    on_pod(|steering| {
        let v6: Ipv6Addr = "fd00::b".parse().unwrap();
        let frames = [ipv4([10, 0, 0, 11], 8), ipv6(v6, 6, &[0; 20]), ipv6(v6, 58, &[128, 0, 0, 0])];
        let neighbours = [ipv4([10, 0, 0, 12], 8), ipv6("fd00::c".parse().unwrap(), 6, &[0; 20])];
        for address in ["10.0.0.11", "fd00::b"] {
            steering.set_local_address(address.parse().unwrap(), true).unwrap();
        }
        for frame in &frames {
            let got = run(steering, Entrance::Pod, frame, "pod_redirected_untagged");
            assert_eq!(got, from_pod(frame));
        }
        for frame in &neighbours {
            run(steering, Entrance::Pod, frame, "pod_redirected_tagged");
        }
        for address in ["::ffff:10.0.0.11", "fd00::b", "fd00::b"] {
            steering.set_local_address(address.parse().unwrap(), false).unwrap();
        }
        assert!(steering.local_addresses().is_empty());
        for frame in &frames {
            run(steering, Entrance::Pod, frame, "pod_redirected_tagged");
        }
    });
}

#[test]
fn pod_frames_nobody_can_take_are_dropped() {
    on_pod(|steering| {
        let frame = ipv4([10, 0, 0, 9], 8);
        steering.clear_pod_socket(SLOT).unwrap();
        let got = run(steering, Entrance::Pod, &frame, "pod_no_socket_drop");
        assert_eq!(got.verdict, Verdict::Drop);

        let socket = unbound_xdp_socket();
        steering.set_pod_socket(SLOT, &socket).unwrap();
        steering.detach_pod(LO).unwrap();
        let got = run(steering, Entrance::Pod, &frame, "pod_unknown_interface_drop");
        assert_eq!(got, DryRun { verdict: Verdict::Drop, meta: None, frame });
    });
}

#[test]
fn pod_frames_of_another_queue_are_dropped() {
    sandbox(|| {
        crate::sandbox::ip("link add node0 numrxqueues 2 type veth peer name pod0");
        let node = interface("node0").unwrap();
        let mut steering = open(XdpMode::Generic);
        steering.attach_pod(&node, SLOT, BRANCH).unwrap();
        let socket = unbound_xdp_socket();
        steering.set_pod_socket(SLOT, &socket).unwrap();
        let before = steering.counters().unwrap();
        let frame = ipv4([10, 0, 0, 9], 8);
        let verdicts =
            [0, 1].map(|queue| steering.dry_run(Entrance::Pod, node.index, queue, &frame).unwrap());
        assert_eq!(verdicts.map(|run| run.verdict), [Verdict::Redirect, Verdict::Drop]);
        let gained = gains(&before, &steering.counters().unwrap());
        assert_eq!(gained, [("pod_redirected_tagged", 1), ("pod_other_queue_drop", 1)]);
    });
}
