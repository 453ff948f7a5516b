//! The receiving end of the tests: one AF_XDP socket with memory of its own.

use espalier_xsk::{
    FramePool, Hugepages, InterfaceRef, Packet, Port, PortConfig, SteerMeta, Umem, UmemConfig,
};

use crate::sandbox::wait_until;

/// A socket on queue 0 of an interface, with everything it needs.
pub(crate) struct Tap {
    umem: Umem,
    pool: FramePool,
    pub(crate) port: Port,
}

impl Tap {
    pub(crate) fn open(interface: &InterfaceRef) -> Tap {
        let config = UmemConfig { frames: 1024, hugepages: Hugepages::Off, ..UmemConfig::default() };
        let (umem, mut pool) = Umem::new(&config).unwrap();
        let config = PortConfig { rx_ring: 512, tx_ring: 512, keep_filled: 512, ..PortConfig::default() };
        let mut port = Port::open(&umem, interface, 0, &config).unwrap();
        assert_eq!(port.refill(&mut pool), 512);
        Tap { umem, pool, port }
    }

    /// The next packet: its metadata, its bytes, and how many segments it came in.
    pub(crate) fn receive(&mut self) -> (SteerMeta, Vec<u8>, usize) {
        let mut got: Vec<Packet> = Vec::new();
        wait_until("a packet on the socket", || self.port.receive(&mut got, 1) == 1);
        let packet = got.remove(0);
        let bytes = self.umem.segments(&packet).flatten().copied().collect();
        let result = (self.umem.steer_meta(packet.head()), bytes, packet.segment_count());
        self.pool.free_packet(packet);
        self.port.refill(&mut self.pool);
        result
    }

    pub(crate) fn close(self) {
        let Tap { mut pool, port, umem } = self;
        port.close().into_iter().for_each(|frame| pool.free(frame));
        assert_eq!(pool.available(), umem.owners().total, "every frame is back");
    }
}
