//! A thousand pods come and go under traffic: frames, descriptors and memory end where they began.
//!
//! A binary of its own: descriptors and memory are counted for the whole process.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "sockets/lab.rs"]
mod lab;
#[path = "sockets/steered.rs"]
#[expect(dead_code, reason = "these tests look at ports, not at what the steering does to frames")]
mod steered;

use std::os::fd::AsFd;

use espalier_xsk::{
    FrameOwners, FramePool, Hugepages, InterfaceRef, Port, PortConfig, PortStatistics, Umem, UmemConfig,
};
use lab::{FarEnd, Lab, until};
use steered::{Steered, VLAN, ipv4_frame, packet_of, plain_frame, receive};

const FRAMES: u32 = 4096;
const CYCLES: u32 = 1000;

/// Cycles before the first measurement: the allocator and the kernel's caches have their size then.
const WARM_UP: u32 = 50;

/// The steering is attached and detached every so many cycles: each time costs two of the kernel's grace periods.
const STEER_EVERY: u32 = 10;

/// What the issue allows for a thousand cycles.
const RSS_GROWTH_LIMIT: usize = 4 << 20;

struct Stage {
    umem: Umem,
    pool: FramePool,
    interface: InterfaceRef,
    far: FarEnd,
    steering: Steered,
}

impl Stage {
    /// Attach, traffic both ways, detach with frames in every state.
    fn cycle(&mut self, number: u32) {
        let config = PortConfig { rx_ring: 512, tx_ring: 512, keep_filled: 128, ..PortConfig::default() };
        let mut port = Port::open(&self.umem, &self.interface, 0, &config).unwrap();
        if number.is_multiple_of(STEER_EVERY) {
            self.steering.attach_pod(&self.interface, 1, VLAN).unwrap();
        }
        self.steering.set_pod_socket(1, port.as_fd()).unwrap();
        assert_eq!(port.refill(&mut self.pool), 128);
        (0..8).for_each(|n| self.far.send(&ipv4_frame(number + n, 100)));
        for packet in receive(&mut port, &mut self.pool, 8, 3) {
            self.pool.free_packet(packet);
        }
        let mut packets: Vec<_> =
            (0..16).map(|n| packet_of(&self.umem, &mut self.pool, &plain_frame(n, 100))).collect();
        port.send(&mut packets);
        until("packets to be sent", || port.flush().unwrap());
        until("packets to arrive", || {
            while self.far.receive().is_some() {}
            port.complete(&mut self.pool) > 0
        });
        // Left behind: frames in the RX ring, in the TX ring and perhaps in the completion ring.
        (0..4).for_each(|n| self.far.send(&ipv4_frame(number + n, 100)));
        packets.extend((0..4).map(|n| packet_of(&self.umem, &mut self.pool, &plain_frame(n, 100))));
        port.send(&mut packets);
        let PortStatistics { bad_descriptors, tx_invalid_descs, .. } = port.statistics();
        assert_eq!((bad_descriptors, tx_invalid_descs), (0, 0));
        self.steering.clear_pod_socket(1).unwrap();
        if number % STEER_EVERY == STEER_EVERY - 1 {
            self.steering.detach_pod(self.interface.index).unwrap();
        }
        port.close().into_iter().for_each(|frame| self.pool.free(frame));
        let expected =
            FrameOwners { free: FRAMES as usize, total: FRAMES as usize, ..FrameOwners::default() };
        assert_eq!(self.umem.owners(), expected, "cycle {number}");
        assert_eq!(self.pool.available(), FRAMES as usize);
    }
}

#[test]
fn a_thousand_ports_leave_nothing_behind() {
    let lab = Lab::new();
    let interface = lab.veth("pod0", 1500);
    let far = lab.far_end("pod0");
    let config =
        UmemConfig { frames: FRAMES, hugepages: Hugepages::Off, fill_ring: 512, completion_ring: 512 };
    let (umem, pool) = Umem::new(&config).unwrap();
    let mut stage = Stage { umem, pool, interface, far, steering: Steered::new() };
    (0..WARM_UP).for_each(|number| stage.cycle(number));
    let (descriptors, sockets) = (open_descriptors(), open_sockets());
    let (memory, heap) = (resident_bytes(), heap_bytes());
    (0..CYCLES).for_each(|number| stage.cycle(number));
    assert_eq!((open_descriptors(), open_sockets()), (descriptors, sockets));
    let growth = resident_bytes().saturating_sub(memory);
    let heap_growth = heap_bytes().saturating_sub(heap);
    println!("{CYCLES} cycles: {growth} bytes more resident, {heap_growth} more on the heap");
    assert!(heap_growth < CYCLES as usize * 1024, "{heap_growth} bytes more on the heap");
    assert!(growth < RSS_GROWTH_LIMIT, "{growth} bytes more after {CYCLES} cycles");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn open_sockets() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Exact, where VmRSS of /proc/self/status lags behind.
fn resident_bytes() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// What malloc has given out; xsk-rs keeps the ring handles of every socket it ever made.
fn heap_bytes() -> usize {
    // SAFETY: the call takes no arguments and only reads the allocator's counters.
    unsafe { libc::mallinfo2() }.uordblks
}
