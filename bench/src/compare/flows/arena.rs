//! Frames in one piece of memory, made once: what the UMEM is to the worker, without a kernel.
//!
//! The step sees them through [`Memory`]. A packet is as large as the worker's own, so that moving it costs the same.

use std::marker::PhantomData;

use espalier_switch::flow::PodSlot;
use espalier_switch::packet::has_tag;
use espalier_switch::step::{From, Memory};
use espalier_xsk::{SteerFlags, SteerMeta};

/// Gives the step access to frames that borrow the arena.
#[derive(Debug, Default)]
pub(super) struct Arena<'f>(PhantomData<Frame<'f>>);

/// Bytes of a frame that may be written: more than any packet of these benches has.
const MOST: usize = 128;

/// A frame of the arena.
#[derive(Debug)]
pub(super) struct Frame<'f> {
    bytes: &'f mut [u8; MOST],
    len: u16,
    meta: SteerMeta,
}

const _: () = assert!(size_of::<Frame<'_>>() == size_of::<espalier_xsk::Packet>());

impl<'f> Frame<'f> {
    /// `memory` cut into frames of `stride` bytes, at least [`MOST`].
    pub(super) fn cut(memory: &'f mut [u8], stride: usize) -> impl Iterator<Item = Self> {
        let whole = memory.chunks_exact_mut(stride).filter_map(|frame| frame.first_chunk_mut());
        whole.map(|bytes| Self { bytes, len: 0, meta: SteerMeta::default() })
    }

    /// Where it comes from, read as the worker reads it.
    pub(super) fn from(&self) -> From {
        let SteerMeta { tci, flags } = self.meta;
        match flags.contains(SteerFlags::POD) {
            true => From::Pod { slot: PodSlot(tci), tagged: has_tag(self.bytes) },
            false => From::Trunk { vlan: tci },
        }
    }

    /// Has it come from the trunk, with this VLAN.
    pub(super) fn come_from_trunk(&mut self, vlan: u16) {
        self.meta = SteerMeta { tci: vlan, flags: SteerFlags::POPPED };
    }

    /// Has it come from a pod, for the trunk.
    pub(super) fn come_from_pod(&mut self, slot: PodSlot) {
        self.meta = SteerMeta { tci: slot.0, flags: SteerFlags::POD };
    }

    /// Becomes a copy of `frame`; the caller changes it further.
    pub(super) fn copy(&mut self, frame: &[u8]) -> &mut [u8] {
        let len = frame.len().min(MOST);
        self.len = len as u16;
        self.bytes[..len].copy_from_slice(&frame[..len]);
        &mut self.bytes[..len]
    }
}

impl<'f> Memory for Arena<'f> {
    type Packet = Frame<'f>;

    fn head<'a>(&'a self, packet: &'a Frame<'f>) -> &'a [u8] {
        &packet.bytes[..packet.len.into()]
    }

    fn head_mut<'a>(&'a self, packet: &'a mut Frame<'f>) -> &'a mut [u8] {
        &mut packet.bytes[..packet.len.into()]
    }

    fn len(&self, packet: &Frame<'f>) -> usize {
        packet.len.into()
    }

    fn segments<'a>(&'a self, packet: &'a Frame<'f>) -> impl Iterator<Item = &'a [u8]> {
        std::iter::once(self.head(packet))
    }
}
