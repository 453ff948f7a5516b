//! Attaching and detaching: modes and the reported fallback, refusals with their reasons, and what `detach` and
//! `unpin_all` leave behind.

use std::path::Path;

use espalier_xsk::{Attachment, SteeredPod, Steering, SteeringConfig, SteeringError, XdpMode, interface};

use crate::sandbox::{config, ip, open, program_id, sandbox, veth};

const fn moves_between_threads<T: Send>() {}
const _: () = moves_between_threads::<Steering>();

#[test]
fn a_veth_is_steered_natively() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let mut steering = open(XdpMode::Auto);
        let got = steering.attach_pod(&node, 2, 100).unwrap();
        assert_eq!(got, Attachment { mode: XdpMode::Native, fallback: None, adopted: false });
        let pod = SteeredPod { interface: node.index, slot: 2, vlan: 100, mode: XdpMode::Native };
        assert_eq!(steering.pods().collect::<Vec<_>>(), [pod]);
        let link = ip("link show node0");
        assert!(link.contains(" xdp ") && !link.contains("xdpgeneric"), "{link}");
    });
}

#[test]
fn falling_back_to_generic_is_reported_and_never_done_when_native_is_asked_for() {
    sandbox(|| {
        let lo = interface("lo").unwrap();
        let mut steering = open(XdpMode::Native);
        let refused = steering.attach_trunk(&lo).unwrap_err();
        assert!(matches!(refused, SteeringError::Attach { mode: XdpMode::Native, .. }), "{refused}");
        assert_eq!((steering.trunk(), program_id("lo")), (None, None));
        drop(steering);

        let mut steering = open(XdpMode::Auto);
        let got = steering.attach_trunk(&lo).unwrap();
        assert_eq!(got.mode, XdpMode::Generic);
        let reason = got.fallback.unwrap();
        assert!(reason.contains("driver has no native XDP"), "{reason}");
        assert_eq!(steering.trunk(), Some((lo.index, XdpMode::Generic)));
        assert!(ip("link show lo").contains("xdpgeneric"));
    });
}

#[test]
fn a_program_of_somebody_else_is_not_touched() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let other = SteeringConfig { pin_dir: "/sys/fs/bpf/other".into(), ..config(XdpMode::Generic) };
        let mut other = Steering::open(&other).unwrap();
        other.attach_trunk(&node).unwrap();
        let theirs = program_id("node0");
        for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
            let mut steering = open(mode);
            let refused = steering.attach_pod(&node, 0, 7).unwrap_err();
            assert!(matches!(&refused, SteeringError::Occupied { interface } if interface == "node0"));
            assert_eq!(steering.pods().count(), 0);
        }
        assert_eq!(program_id("node0"), theirs);
    });
}

#[test]
fn one_pod_a_slot_and_vlans_and_slots_in_range() {
    sandbox(|| {
        let (first, _) = veth("node0", "pod0");
        let (second, _) = veth("node1", "pod1");
        let mut steering = open(XdpMode::Auto);
        steering.attach_pod(&first, 15, 4094).unwrap();
        let taken = steering.attach_pod(&second, 15, 5).unwrap_err();
        assert!(matches!(taken, SteeringError::SlotTaken { slot: 15, holder } if holder == first.index));
        let slot = steering.attach_pod(&second, 16, 5).unwrap_err();
        assert!(matches!(slot, SteeringError::Slot { slot: 16, max_pods: 16 }));
        for vlan in [0, 4095, 65535] {
            let error = steering.attach_pod(&second, 1, vlan).unwrap_err();
            assert!(matches!(error, SteeringError::Vlan(v) if v == vlan));
            assert!(matches!(steering.set_branch(vlan, true), Err(SteeringError::Vlan(v)) if v == vlan));
        }
        assert_eq!(program_id("node1"), None);
        for max_pods in [0, 65537] {
            let config = SteeringConfig { max_pods, ..config(XdpMode::Auto) };
            assert!(matches!(Steering::open(&config), Err(SteeringError::MaxPods(n)) if n == max_pods));
        }
    });
}

#[test]
fn a_steered_pod_changes_slot_and_vlan_in_place() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let mut steering = open(XdpMode::Auto);
        steering.attach_pod(&node, 1, 100).unwrap();
        let program = program_id("node0");
        let got = steering.attach_pod(&node, 4, 200).unwrap();
        assert!(got.adopted);
        assert_eq!(program_id("node0"), program);
        drop(steering);
        let steering = open(XdpMode::Auto);
        let pods: Vec<_> = steering.pods().map(|pod| (pod.interface, pod.slot, pod.vlan)).collect();
        assert_eq!(pods, [(node.index, 4, 200)]);
    });
}

#[test]
fn detaching_works_at_once_and_again_and_again() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let mut steering = open(XdpMode::Auto);
        for round in 0..100 {
            steering.attach_pod(&node, 1, 100).unwrap_or_else(|e| panic!("round {round}: {e}"));
            steering.detach_pod(node.index).unwrap();
        }
        assert_eq!((program_id("node0"), steering.pods().count()), (None, 0));
        assert!(matches!(steering.detach_pod(node.index), Err(SteeringError::NotAttached(_))));
        steering.detach_trunk().unwrap();
    });
}

#[test]
fn a_vanished_interface_can_still_be_detached() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let mut steering = open(XdpMode::Auto);
        steering.attach_pod(&node, 1, 100).unwrap();
        ip("link del node0");
        steering.detach_pod(node.index).unwrap();
        let (again, _) = veth("node0", "pod0");
        steering.attach_pod(&again, 1, 100).unwrap();
    });
}

#[test]
fn another_trunk_takes_the_place_of_the_first() {
    sandbox(|| {
        let (first, _) = veth("node0", "far0");
        let (second, _) = veth("node1", "far1");
        let mut steering = open(XdpMode::Auto);
        steering.attach_trunk(&first).unwrap();
        steering.attach_trunk(&second).unwrap();
        assert_eq!(steering.trunk(), Some((second.index, XdpMode::Native)));
        assert_eq!(program_id("node0"), None);
        assert!(program_id("node1").is_some());
        steering.detach_trunk().unwrap();
        assert_eq!((steering.trunk(), program_id("node1")), (None, None));
    });
}

#[test]
fn nothing_is_left_after_unpin_all() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        let (trunk, _) = veth("node1", "far1");
        let own_mount =
            std::env::temp_dir().join(format!("espalier-steering-{}-{}", std::process::id(), line!()));
        for pin_dir in [Path::new("/sys/fs/bpf/espalier"), Path::new("/sys/fs/bpf/a/b"), &own_mount] {
            let config = SteeringConfig { pin_dir: pin_dir.to_owned(), ..config(XdpMode::Auto) };
            let mut steering = Steering::open(&config).unwrap();
            steering.attach_pod(&node, 1, 100).unwrap();
            steering.attach_trunk(&trunk).unwrap();
            drop(steering);
            assert!(program_id("node0").is_some() && program_id("node1").is_some(), "pinned");
            Steering::open(&config).unwrap().unpin_all().unwrap();
            assert_eq!((program_id("node0"), program_id("node1")), (None, None));
            assert!(!pin_dir.exists(), "{}", pin_dir.display());

            Steering::open(&config).unwrap().attach_pod(&node, 1, 100).unwrap();
            Steering::remove_pins(pin_dir).unwrap();
            assert_eq!(program_id("node0"), None);
            assert!(!pin_dir.exists(), "{}", pin_dir.display());
            Steering::remove_pins(pin_dir).unwrap();
        }
    });
}
