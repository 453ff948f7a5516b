//! The receiving half of a port: fill ring out, RX ring in.
//!
//! Nothing the kernel says is taken on trust: a descriptor must name a chunk this port gave away for receiving and
//! bytes inside it. Segments of one packet are put together across calls.

use super::{BATCH, Port};
use crate::frame::{CHUNK_SIZE, Frame, Packet};
use crate::pool::FramePool;
use crate::umem::Owner;

impl Port {
    /// Gives frames to the kernel for receiving until it has [`crate::PortConfig::keep_filled`] of them, the fill
    /// ring is full or the pool is empty. Returns how many were given.
    pub fn refill(&mut self, pool: &mut FramePool) -> usize {
        if pool.umem().tag() != self.umem.tag() {
            debug_assert!(false, "a port was given the frame pool of another UMEM");
            return 0;
        }
        let mut given = 0;
        while self.in_fill < self.keep_filled {
            let want = (self.keep_filled - self.in_fill).min(BATCH);
            let room = self.fill.nb_free(want as u32) as usize;
            let staged = self.stage_fill(pool, want.min(room));
            if staged == 0 {
                break;
            }
            // SAFETY: each descriptor is the home of a chunk that `stage_fill` took from the pool or the spares, so
            // nobody else has it.
            let produced = unsafe { self.fill.produce(&self.scratch[..staged]) };
            debug_assert_eq!(produced, staged, "the fill ring had room for the batch");
            self.in_fill += produced;
            given += produced;
        }
        given
    }

    /// Appends up to `max` whole packets to `out` and returns how many. A packet whose end has not arrived waits
    /// in the port. Allocates only if `out` must grow.
    pub fn receive(&mut self, out: &mut Vec<Packet>, max: usize) -> usize {
        let mut taken = 0;
        while taken < max {
            // Never more descriptors than packets still wanted: each may end a packet.
            let want = (max - taken).min(BATCH);
            // SAFETY: the RX ring belongs to this port's UMEM, and the descriptors are only overwritten.
            let got = unsafe { self.rx.consume(&mut self.scratch[..want]) };
            if got == 0 {
                break;
            }
            for at in 0..got {
                if let Some(packet) = self.assemble(self.scratch[at]) {
                    self.deliver(packet, out);
                    taken += 1;
                }
            }
        }
        taken
    }

    fn stage_fill(&mut self, pool: &mut FramePool, want: usize) -> usize {
        let owner = Owner::Fill(self.socket);
        for at in 0..want {
            let index = match self.spare.pop() {
                Some(index) => {
                    self.umem.chunks().set_owner(index, owner);
                    index
                }
                None => match pool.pop(owner) {
                    Some(index) => index,
                    None => return at,
                },
            };
            self.scratch[at] = self.umem.chunks().home(index);
        }
        want
    }

    /// Adds one descriptor to the packet under way; gives the packet when this was its end.
    fn assemble(&mut self, desc: xsk_rs::FrameDesc) -> Option<Packet> {
        let more = desc.has_more_frames();
        let Some(frame) = self.accept(desc) else {
            self.abandon(more);
            return None;
        };
        if self.discarding {
            self.discarding = more;
            self.keep_spare(frame.retire());
            return None;
        }
        let packet = match self.partial.take() {
            None => Packet::single(frame),
            Some(mut packet) => match packet.push(frame) {
                Ok(()) => packet,
                Err(frame) => {
                    self.counts.rx_oversized += 1;
                    self.keep_spare(frame.retire());
                    self.partial = Some(packet);
                    self.abandon(more);
                    return None;
                }
            },
        };
        if more {
            self.partial = Some(packet);
            return None;
        }
        Some(packet)
    }

    /// Throws away the packet under way, and what is still to come of it.
    fn abandon(&mut self, more: bool) {
        if let Some(packet) = self.partial.take() {
            packet.into_frames().for_each(|frame| self.keep_spare(frame.retire()));
        }
        self.discarding = more;
    }

    /// Turns a descriptor of the kernel's into a token, if it is a right one.
    fn accept(&mut self, desc: xsk_rs::FrameDesc) -> Option<Frame> {
        let chunks = self.umem.chunks();
        let held = chunks
            .index_of(desc.addr())
            .filter(|index| chunks.pass(*index, Owner::Fill(self.socket), Owner::Rx(self.socket)));
        let Some(index) = held else {
            self.counts.bad_descriptors += 1;
            return None;
        };
        self.in_fill -= 1;
        let (offset, len) = (desc.addr() % CHUNK_SIZE, desc.lengths().data());
        if len > CHUNK_SIZE - offset {
            self.counts.bad_descriptors += 1;
            self.keep_spare(index);
            return None;
        }
        // SAFETY: the kernel gave the chunk back to this port, and the descriptor lies inside it.
        unsafe { chunks.set_current(index, desc) };
        // SAFETY: the owner word said that the kernel had the chunk for this port, so no token of it exists; offset
        // and length were checked above.
        Some(unsafe { Frame::new(index, self.umem.tag(), offset as u16, len as u16) })
    }

    fn deliver(&self, packet: Packet, out: &mut Vec<Packet>) {
        for frame in packet.segments() {
            self.umem.chunks().set_owner(frame.index(), Owner::Worker);
        }
        out.push(packet);
    }
}
