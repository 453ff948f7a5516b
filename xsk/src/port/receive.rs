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
        if let Some(throttle) = &mut self.throttle {
            let room = self.keep_filled.min(self.rx_ring as usize);
            throttle.read(self.rx.nb_avail_exact() as usize, room);
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
            // Any place in the chunk stands for all of it (linux net/xdp/xsk_buff_pool.c, `xp_check_aligned`).
            // SAFETY: the chunk is this port's.
            self.scratch[at] = unsafe { self.umem.chunks().current(index) };
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
            Some(mut packet) => match self.umem.append(&mut packet, frame) {
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
            self.umem.retire(packet).into_iter().for_each(|index| self.keep_spare(index));
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
        for index in self.umem.chain(&packet) {
            self.umem.chunks().set_owner(index, Owner::Worker);
        }
        out.push(packet);
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::UnshareFlags;
    use xsk_rs::FrameDesc;

    use super::*;
    use crate::frame::MAX_SEGMENTS;
    use crate::port::PortConfig;
    use crate::umem::{FrameOwners, Hugepages, Umem, UmemConfig};

    /// A port on the loopback of a namespace of its own: no packet ever arrives, so the test plays the kernel.
    struct Quiet {
        port: Port,
        pool: FramePool,
        umem: Umem,
        outside: FrameDesc,
    }

    const FRAMES: u32 = 64;
    const FILLED: u32 = 32;

    impl Quiet {
        fn new() -> Self {
            // SAFETY: the flags hold no FILES, the one flag the function's contract is about.
            let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
            unshared.expect("tests run with CAP_SYS_ADMIN");
            let make = |frames| {
                let config =
                    UmemConfig { frames, hugepages: Hugepages::Off, fill_ring: 64, completion_ring: 64 };
                Umem::new(&config).unwrap()
            };
            // The larger UMEM's donor takes the loopback first, so that the other's goes elsewhere.
            let larger = make(2 * FRAMES);
            let (umem, mut pool) = make(FRAMES);
            let outside = larger.0.chunks().home(FRAMES);
            drop(larger);
            let lo = crate::interface("lo").unwrap();
            let config = PortConfig { keep_filled: FILLED, ..PortConfig::default() };
            let mut port = Port::open(&umem, &lo, 0, &config).unwrap();
            assert_eq!(port.refill(&mut pool), FILLED as usize);
            Self { port, pool, umem, outside }
        }

        /// A descriptor as the kernel would write it for the n-th chunk that was filled.
        fn desc(&self, nth: u32, more: bool) -> FrameDesc {
            let mut desc = self.umem.chunks().home(nth);
            desc.set_options(u32::from(more));
            desc
        }

        /// Every frame goes home, whatever state it was in.
        fn end(mut self) {
            self.port.close().into_iter().for_each(|frame| self.pool.free(frame));
            let all = FrameOwners { free: 64, total: 64, ..FrameOwners::default() };
            assert_eq!((self.umem.owners(), self.pool.available()), (all, 64));
        }
    }

    #[test]
    fn descriptors_of_chunks_the_kernel_does_not_have_are_refused() {
        let mut quiet = Quiet::new();
        let never_given = quiet.desc(FILLED, false);
        for wrong in [never_given, quiet.outside] {
            assert!(quiet.port.assemble(wrong).is_none());
        }
        let right = quiet.desc(0, false);
        let packet = quiet.port.assemble(right).unwrap();
        assert!(quiet.port.assemble(right).is_none(), "a chunk comes back once");
        assert_eq!(quiet.port.statistics().bad_descriptors, 3);
        assert_eq!(quiet.port.in_fill(), FILLED as usize - 1);
        quiet.pool.free_packet(packet);
        quiet.end();
    }

    #[test]
    fn packets_of_too_many_segments_are_dropped_whole() {
        let mut quiet = Quiet::new();
        for nth in 0..MAX_SEGMENTS as u32 + 3 {
            assert!(quiet.port.assemble(quiet.desc(nth, nth < MAX_SEGMENTS as u32 + 2)).is_none());
        }
        assert_eq!(quiet.port.statistics().rx_oversized, 1);
        assert_eq!(quiet.umem.owners().rx, MAX_SEGMENTS + 3);
        assert_eq!(quiet.port.assemble(quiet.desc(20, true)).map(|packet| packet.len()), None);
        let packet = quiet.port.assemble(quiet.desc(21, false)).unwrap();
        assert_eq!(packet.segment_count(), 2);
        let mut out = Vec::new();
        quiet.port.deliver(packet, &mut out);
        assert_eq!(quiet.umem.owners().worker, 2);
        // What was dropped is given to the kernel again before the pool is asked.
        let before = quiet.pool.available();
        assert_eq!(quiet.port.refill(&mut quiet.pool), MAX_SEGMENTS + 3 + 2);
        assert_eq!(quiet.pool.available(), before - 2);
        out.into_iter().for_each(|packet| quiet.pool.free_packet(packet));
        quiet.end();
    }

    #[test]
    fn a_bad_descriptor_spoils_its_packet_only() {
        let mut quiet = Quiet::new();
        assert!(quiet.port.assemble(quiet.desc(0, true)).is_none());
        let mut bad = quiet.outside;
        bad.set_options(1);
        assert!(quiet.port.assemble(bad).is_none());
        assert!(quiet.port.assemble(quiet.desc(1, true)).is_none());
        assert!(quiet.port.assemble(quiet.desc(2, false)).is_none());
        let packet = quiet.port.assemble(quiet.desc(3, false)).unwrap();
        assert_eq!(packet.head().index(), 3);
        assert_eq!(quiet.umem.owners().rx, 4);
        quiet.pool.free_packet(packet);
        quiet.end();
    }

    #[test]
    fn closing_returns_the_packet_under_way() {
        let mut quiet = Quiet::new();
        assert!(quiet.port.assemble(quiet.desc(0, true)).is_none());
        assert!(quiet.port.assemble(quiet.desc(1, true)).is_none());
        assert_eq!(quiet.umem.owners().rx, 2);
        quiet.end();
    }
}
