//! The step's view of frames that lie in the UMEM.

use espalier_xsk::{Packet, Umem};

use crate::step::Memory;

impl Memory for Umem {
    type Packet = Packet;

    fn head<'a>(&'a self, packet: &'a Packet) -> &'a [u8] {
        self.bytes(packet.head())
    }

    fn head_mut<'a>(&'a self, packet: &'a mut Packet) -> &'a mut [u8] {
        self.bytes_mut(packet.head_mut())
    }

    fn len(&self, packet: &Packet) -> usize {
        packet.len()
    }

    fn segments<'a>(&'a self, packet: &'a Packet) -> impl Iterator<Item = &'a [u8]> {
        Umem::segments(self, packet)
    }
}
