//! Offloads and queues of real veths, and that they are those of the calling thread's namespace.

use espalier_xsk::ethtool::{Channels, Offload, channels, offloads, set_offload};
use espalier_xsk::{InterfaceError, XdpMode, interface};

use crate::sandbox::{ip, open, sandbox, veth};

#[test]
fn transmit_checksums_go_off_and_on() {
    sandbox(|| {
        let (_, pod) = veth("node0", "pod0");
        assert!(offloads(&pod.name).unwrap().tx_checksum);
        set_offload(&pod.name, Offload::TxChecksum, false).unwrap();
        let now = offloads(&pod.name).unwrap();
        assert!(!now.tx_checksum);
        assert!(!now.tso, "segmentation by the device needs its checksums");
        assert!(offloads("node0").unwrap().tx_checksum, "the other end keeps its own");
        set_offload(&pod.name, Offload::TxChecksum, true).unwrap();
        assert!(offloads(&pod.name).unwrap().tx_checksum);
    });
}

#[test]
fn every_offload_can_be_set_and_read() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        for on in [false, true] {
            set_offload(&node.name, Offload::TxChecksum, true).unwrap();
            set_offload(&node.name, Offload::ScatterGather, on).unwrap();
            set_offload(&node.name, Offload::Tso, on).unwrap();
            set_offload(&node.name, Offload::Gso, on).unwrap();
            set_offload(&node.name, Offload::Gro, on).unwrap();
            set_offload(&node.name, Offload::TxVlan, on).unwrap();
            set_offload(&node.name, Offload::RxVlan, on).unwrap();
            let now = offloads(&node.name).unwrap();
            assert_eq!([now.scatter_gather, now.tso, now.gso, now.gro, now.tx_vlan, now.rx_vlan], [on; 6]);
        }
    });
}

#[test]
fn native_steering_turns_the_pods_segmentation_off_but_not_its_checksums() {
    sandbox(|| {
        let (node, pod) = veth("node0", "pod0");
        assert!(offloads(&pod.name).unwrap().tso);
        let mut steering = open(XdpMode::Native);
        steering.attach_pod(&node, 0, 1).unwrap();
        let now = offloads(&pod.name).unwrap();
        assert!(!now.tso);
        assert!(now.tx_checksum, "the pod's frames carry partial checksums");
    });
}

#[test]
fn queues_are_counted() {
    sandbox(|| {
        ip("link add node0 numrxqueues 3 numtxqueues 2 type veth peer name pod0");
        let got = channels("node0").unwrap();
        assert_eq!(got, Channels { rx: 3, tx: 2, max_rx: 3, max_tx: 2 });
        assert!(
            matches!(channels("lo"), Err(InterfaceError::Refused { .. })),
            "lo has no channels to tell of"
        );
    });
}

#[test]
fn interfaces_are_those_of_the_threads_namespace() {
    sandbox(|| {
        let (node, _) = veth("node0", "pod0");
        ip("link set node0 mtu 9001 address 02:00:00:00:00:07");
        let now = interface("node0").unwrap();
        assert_eq!((now.index, now.mtu, now.mac), (node.index, 9001, [2, 0, 0, 0, 0, 7]));
        assert_eq!(now.driver.as_deref(), Some("veth"));
        sandbox(|| assert!(matches!(interface("node0"), Err(InterfaceError::Missing { .. }))));
    });
}
