//! One steered port on a veth, its far end, and the UMEM and pool behind it.

use std::os::fd::AsFd;

use espalier_xsk::{
    FrameOwners, FramePool, Hugepages, InterfaceRef, Port, PortConfig, Umem, UmemConfig, XdpMode,
};

use crate::lab::{FarEnd, Lab};
use crate::steered::{Steered, VLAN};

pub(crate) const FRAMES: u32 = 1024;

pub(crate) fn umem() -> (Umem, FramePool) {
    let config =
        UmemConfig { frames: FRAMES, hugepages: Hugepages::Off, fill_ring: 512, completion_ring: 512 };
    Umem::new(&config).unwrap()
}

pub(crate) fn config() -> PortConfig {
    PortConfig { rx_ring: 512, tx_ring: 512, keep_filled: 256, ..PortConfig::default() }
}

/// One steered port and what it takes to keep it going. The port is closed by hand, the rest by drop.
pub(crate) struct Site {
    pub(crate) umem: Umem,
    pub(crate) pool: FramePool,
    pub(crate) port: Port,
    pub(crate) far: FarEnd,
    pub(crate) interface: InterfaceRef,
    pub(crate) steering: Steered,
    pub(crate) lab: Lab,
}

pub(crate) enum Role {
    Trunk,
    Pod,
}

impl Site {
    pub(crate) fn new(role: Role, mtu: u32) -> Self {
        Self::in_mode(role, mtu, XdpMode::Native)
    }

    pub(crate) fn in_mode(role: Role, mtu: u32, mode: XdpMode) -> Self {
        let lab = Lab::new();
        let interface = lab.veth("port0", mtu);
        let far = lab.far_end("port0");
        let (umem, mut pool) = umem();
        let mut port = Port::open(&umem, &interface, 0, &config()).unwrap();
        assert_eq!(port.refill(&mut pool), 256);
        assert_eq!(port.refill(&mut pool), 0);
        let mut steering = Steered::in_mode(mode);
        match role {
            Role::Trunk => {
                steering.set_branch(VLAN, true).unwrap();
                steering.attach_trunk(&interface).unwrap();
                steering.set_trunk_socket(0, port.as_fd()).unwrap();
            }
            Role::Pod => {
                steering.attach_pod(&interface, 3, VLAN).unwrap();
                steering.set_pod_socket(3, port.as_fd()).unwrap();
            }
        }
        Self { umem, pool, port, far, interface, steering, lab }
    }

    /// Closes the port and checks that not one frame is missing.
    pub(crate) fn close(self) {
        let Self { umem, mut pool, port, steering: _steering, lab: _lab, .. } = self;
        port.close().into_iter().for_each(|frame| pool.free(frame));
        assert_eq!(pool.available(), FRAMES as usize);
        assert_eq!(umem.owners(), all_free());
    }
}

pub(crate) fn all_free() -> FrameOwners {
    FrameOwners { free: FRAMES as usize, total: FRAMES as usize, ..FrameOwners::default() }
}
