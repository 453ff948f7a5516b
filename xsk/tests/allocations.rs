//! The packet path allocates nothing once it runs: receive, send, flush, complete and refill, jumbo frames included.
//!
//! A binary of its own, for its allocator.

#![expect(clippy::panic, reason = "helpers of tests fail the test")]

#[path = "sockets/lab.rs"]
mod lab;
#[path = "sockets/steered.rs"]
#[expect(dead_code, reason = "these tests look at allocations, not at what the steering does to frames")]
mod steered;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::AsFd;

use espalier_xsk::{Hugepages, Port, PortConfig, Umem, UmemConfig};
use lab::{DEADLINE, Lab};
use steered::{Steered, VLAN, plain_frame};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local that needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the block came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Packets echoed before counting and while counting.
const WARM_UP: usize = 200;
const COUNTED: usize = 1000;

#[test]
fn the_packet_path_allocates_nothing() {
    let lab = Lab::new();
    let interface = lab.veth("port0", 9001);
    let far = lab.far_end("port0");
    let config = UmemConfig { frames: 1024, hugepages: Hugepages::Off, fill_ring: 512, completion_ring: 512 };
    let (umem, mut pool) = Umem::new(&config).unwrap();
    let config = PortConfig { rx_ring: 512, tx_ring: 512, keep_filled: 512, ..PortConfig::default() };
    let mut port = Port::open(&umem, &interface, 0, &config).unwrap();
    port.refill(&mut pool);
    let mut steering = Steered::new();
    steering.attach_pod(&interface, 0, VLAN).unwrap();
    steering.set_pod_socket(0, port.as_fd()).unwrap();
    let frames = [plain_frame(1, 64), plain_frame(2, 1514), plain_frame(3, 9015)];
    let mut packets = Vec::with_capacity(64);
    let (mut echoed, mut allocated) = (0, 0);
    let start = std::time::Instant::now();
    while echoed < WARM_UP + COUNTED {
        assert!(start.elapsed() < DEADLINE, "{echoed} packets came back before the deadline");
        frames.iter().for_each(|frame| far.send(frame));
        let before = ALLOCATIONS.get();
        let got = port.receive(&mut packets, 64);
        port.send(&mut packets);
        port.flush().unwrap();
        port.complete(&mut pool);
        port.refill(&mut pool);
        if echoed >= WARM_UP {
            allocated += ALLOCATIONS.get() - before;
        }
        echoed += got;
        while far.receive().is_some() {}
    }
    assert_eq!(allocated, 0);
    packets.into_iter().for_each(|packet| pool.free_packet(packet));
    port.close().into_iter().for_each(|frame| pool.free(frame));
    assert_eq!(umem.owners().free, 1024);
}
