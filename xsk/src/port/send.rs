//! The sending half of a port: TX ring out, completion ring in.
//!
//! Packets go into the ring whole or not at all, and only such as the kernel accepts: it skips an invalid
//! descriptor without completing it, which would lose the frame.

use std::io;

use arrayvec::ArrayVec;

use super::{BATCH, Port};
use crate::frame::{CHUNK_SIZE, MAX_SEGMENTS, Packet};
use crate::pool::FramePool;
use crate::umem::Owner;

/// XDP_PKT_CONTD of linux include/uapi/linux/if_xdp.h: the packet goes on in the next descriptor.
const XDP_PKT_CONTD: u32 = 1;

/// System calls of one flush beyond what the ring's size and the kernel's budget ask for.
const FLUSH_SLACK: u32 = 2;

/// A batch in the scratch descriptors.
struct Staged {
    packets: usize,
    descriptors: usize,
}

impl Port {
    /// Takes packets from the front, as many whole ones as the TX ring has room for, and returns how many; the rest
    /// stays. The kernel sees them with the next [`Port::flush`]. A packet that cannot be sent (an empty frame, or
    /// several frames without scatter-gather) is taken, counted, and comes back with the completions.
    pub fn send(&mut self, packets: &mut Vec<Packet>) -> usize {
        let mut taken = 0;
        while taken < packets.len() {
            let staged = self.stage_send(&packets[taken..]);
            if staged.packets == 0 {
                break;
            }
            // SAFETY: each descriptor is the current one of a chunk whose token is in `packets`, so nobody else has
            // it; the tokens end below, before anybody can use them again.
            let produced = unsafe { self.tx.produce(&self.scratch[..staged.descriptors]) };
            debug_assert_eq!(produced, staged.descriptors, "the TX ring had room for the batch");
            if produced != staged.descriptors {
                break;
            }
            for packet in &packets[taken..taken + staged.packets] {
                self.hand_over(packet);
            }
            taken += staged.packets;
        }
        for packet in packets.drain(..taken) {
            packet.retire();
        }
        taken
    }

    /// Wakes the kernel until it has taken everything in the TX ring or stops making progress (the send buffer, the
    /// completion ring or the device is full, or the interface is down). `Ok(true)` means all was taken.
    ///
    /// # Errors
    /// What the kernel answers beyond those, ENXIO above all: the interface is gone.
    pub fn flush(&mut self) -> io::Result<bool> {
        let mut calls = self.tx_ring / self.tx_budget.min(self.tx_ring) + FLUSH_SLACK;
        while self.unsent > 0 && calls > 0 {
            if self.tx.needs_wakeup() {
                self.tx.wakeup()?;
            }
            let left = (self.tx_ring - self.tx.nb_free_exact()) as usize;
            let stuck = left >= self.unsent;
            self.unsent = left;
            if stuck {
                break;
            }
            calls -= 1;
        }
        Ok(self.unsent == 0)
    }

    /// Puts the frames the kernel is done with back into the pool and returns how many.
    pub fn complete(&mut self, pool: &mut FramePool) -> usize {
        if pool.umem().tag() != self.umem.tag() {
            debug_assert!(false, "a port was given the frame pool of another UMEM");
            return 0;
        }
        let mut returned = self.spare.len();
        self.spare.drain(..).for_each(|index| pool.push(index));
        loop {
            // SAFETY: the completion ring belongs to this port's UMEM, and the descriptors are only overwritten.
            let got = unsafe { self.completion.consume(&mut self.scratch[..]) };
            if got == 0 {
                return returned;
            }
            for desc in &self.scratch[..got] {
                let chunks = self.umem.chunks();
                let ours = chunks
                    .index_of(desc.addr())
                    .filter(|index| chunks.owner(*index) == Owner::Tx(self.socket));
                match ours {
                    Some(index) => {
                        pool.push(index);
                        self.in_tx -= 1;
                        returned += 1;
                    }
                    None => self.counts.bad_descriptors += 1,
                }
            }
        }
    }

    /// Writes descriptors of as many packets as fit into the ring and the scratch space.
    fn stage_send(&mut self, packets: &[Packet]) -> Staged {
        let room = (self.tx.nb_free(BATCH as u32) as usize).min(BATCH);
        let mut staged = Staged { packets: 0, descriptors: 0 };
        for packet in packets {
            if self.sendable(packet) {
                let last = packet.segment_count() - 1;
                if staged.descriptors + last >= room {
                    break;
                }
                for (at, index) in self.umem.chain(packet).enumerate() {
                    // SAFETY: the packet is borrowed and stands for the chunk's token, so its holder is our caller.
                    let mut desc = unsafe { self.umem.chunks().current(index) };
                    desc.set_options(if at < last { XDP_PKT_CONTD } else { 0 });
                    debug_assert!(
                        at > 0 || desc.addr() % CHUNK_SIZE == packet.head().offset(),
                        "token and descriptor agree"
                    );
                    self.scratch[staged.descriptors] = desc;
                    staged.descriptors += 1;
                }
            }
            staged.packets += 1;
        }
        staged
    }

    fn sendable(&self, packet: &Packet) -> bool {
        self.umem.owns(packet.head())
            && match packet.segment_count() {
                1 => packet.len() > 0,
                _ => self.umem.scatter_gather() && self.umem.segments(packet).all(|data| !data.is_empty()),
            }
    }

    /// Records who has a packet's chunks now: the kernel, or the port if the packet was refused.
    fn hand_over(&mut self, packet: &Packet) {
        if self.sendable(packet) {
            for index in self.umem.chain(packet) {
                self.umem.chunks().set_owner(index, Owner::Tx(self.socket));
            }
            self.in_tx += packet.segment_count();
            self.unsent += packet.segment_count();
            return;
        }
        self.counts.tx_refused += 1;
        let chunks: ArrayVec<u32, MAX_SEGMENTS> = self.umem.chain(packet).collect();
        chunks.into_iter().for_each(|index| self.keep_spare(index));
    }
}
