//! Packets on the heap, each in one piece: for traces, replay and tests.

use super::Memory;

/// Frames as plain bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heap;

impl Memory for Heap {
    type Packet = Vec<u8>;

    fn head<'a>(&'a self, packet: &'a Vec<u8>) -> &'a [u8] {
        packet
    }

    fn head_mut<'a>(&'a self, packet: &'a mut Vec<u8>) -> &'a mut [u8] {
        packet
    }

    fn len(&self, packet: &Vec<u8>) -> usize {
        packet.len()
    }

    fn segments<'a>(&'a self, packet: &'a Vec<u8>) -> impl Iterator<Item = &'a [u8]> {
        std::iter::once(&packet[..])
    }
}
