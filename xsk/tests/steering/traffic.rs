//! Real frames over veths, through the attached programs into real sockets, both modes, up to MTU 9001.

use std::os::fd::AsFd;

use espalier_xsk::{SteerFlags, SteerMeta, XdpMode};

use crate::frames::*;
use crate::sandbox::*;
use crate::tap::Tap;

const BRANCH: u16 = 117;
const SLOT: u16 = 3;

fn trunk_and_pod_carry_frames(mode: XdpMode) {
    sandbox(|| {
        let (node, pod) = veth("node0", "pod0");
        let (trunk, far) = veth("node1", "far1");
        for name in ["node0", "pod0", "node1", "far1"] {
            ip(&format!("link set {name} mtu 9001"));
        }
        let mut steering = open(mode);
        assert_eq!(steering.attach_pod(&node, SLOT, BRANCH).unwrap().mode, mode);
        assert_eq!(steering.attach_trunk(&trunk).unwrap().mode, mode);
        steering.set_branch(BRANCH, true).unwrap();
        let (mut pod_tap, mut trunk_tap) = (Tap::open(&node), Tap::open(&trunk));
        steering.set_pod_socket(SLOT, &pod_tap.port).unwrap();
        steering.set_trunk_socket(0, pod_tap.port.as_fd()).unwrap();
        steering.set_trunk_socket(0, &trunk_tap.port).unwrap();
        let (pod, far) = (PacketSocket::new(&pod), PacketSocket::new(&far));
        let before = steering.counters().unwrap();

        // 8973 bytes of payload, UDP and IP headers: 9001, the largest packet.
        for (length, most) in [(0, 1), (1472, 1), (3500, 2), (7972, 3), (8973, 3)] {
            let frame = ipv4([10, 0, 0, 9], length);
            pod.send(&frame);
            let (meta, bytes, segments) = pod_tap.receive();
            assert_eq!(meta, SteerMeta { tci: BRANCH, flags: SteerFlags::POD });
            assert_eq!(bytes, tagged(&frame, VLAN, BRANCH), "{length}");
            assert!(segments <= most, "{length} bytes in {segments} segments");

            far.send(&tagged(&frame, VLAN, BRANCH | 0x2000));
            let (meta, bytes, _) = trunk_tap.receive();
            assert_eq!(meta, SteerMeta { tci: BRANCH | 0x2000, flags: SteerFlags::POPPED });
            assert_eq!(bytes, frame, "{length}");
        }
        pod.send(&ethernet(BROADCAST, ARP, &[0; 46]));
        assert_eq!(pod_tap.receive().0, SteerMeta { tci: BRANCH, flags: SteerFlags::POD });

        let gained = gains(&before, &steering.counters().unwrap());
        let expected =
            [("trunk_redirected", 5), ("pod_redirected_tagged", 5), ("pod_redirected_untagged", 1)];
        assert_eq!(gained, expected);

        // What is not a branch's goes on to the node's stack as it came, at any size.
        let stack = PacketSocket::new(&trunk);
        for frame in [ipv4([10, 0, 0, 9], 8973), tagged(&ipv4([10, 0, 0, 9], 8973), VLAN, BRANCH + 1)] {
            far.send(&frame);
            wait_until("the frame in the stack", || {
                let got = stack.receive();
                got.is_some_and(|got| {
                    got.len() >= 9015 && got[got.len() - 8973..] == frame[frame.len() - 8973..]
                })
            });
        }

        // A closed socket leaves its slot by itself.
        pod_tap.close();
        pod.send(&ipv4([10, 0, 0, 9], 0));
        wait_until("the frame to be dropped", || steering.counters().unwrap().pod_no_socket_drop == 1);
        trunk_tap.close();
    });
}

#[test]
fn frames_cross_in_native_mode() {
    trunk_and_pod_carry_frames(XdpMode::Native);
}

#[test]
fn frames_cross_in_generic_mode() {
    trunk_and_pod_carry_frames(XdpMode::Generic);
}
