//! Opening and closing ports: frames in every state, vanished interfaces, busy queues, wrong settings.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{DEADLINE, Lab, run, until};
use crate::site::{FRAMES, Role, Site, all_free, config, umem};
use crate::steered::{Steered, packet_of, plain_frame, receive, send_all};
use espalier_xsk::{FrameOwners, FramePool, MAX_FRAME_LEN, Packet, Port, PortConfig, PortError};

#[test]
fn closing_returns_frames_in_every_state() {
    let mut site = Site::new(Role::Pod, 1500);
    // Unread in the RX ring.
    (0..20).for_each(|n| site.far.send(&plain_frame(n, 100)));
    let poll = |port: &Port| {
        let mut fds = [rustix::event::PollFd::new(port, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap()
    };
    until("the RX ring to fill", || poll(&site.port) == 1);
    // Sent, completions unread; then in the TX ring, not flushed; then refused.
    let mut packets: Vec<_> =
        (0..30).map(|n| packet_of(&site.umem, &mut site.pool, &plain_frame(n, 100))).collect();
    site.port.send(&mut packets);
    until("the TX ring to drain", || site.port.flush().unwrap());
    packets.extend((0..40).map(|n| packet_of(&site.umem, &mut site.pool, &plain_frame(n, 100))));
    packets.extend((0..5).map(|_| Packet::single(site.pool.alloc().unwrap())));
    assert_eq!(site.port.send(&mut packets), 45);
    assert_eq!((site.port.in_fill(), site.port.in_tx(), site.port.unsent()), (256, 70, 40));
    let expected = FrameOwners {
        free: FRAMES as usize - 256 - 70 - 5,
        fill: 256,
        rx: 5,
        worker: 0,
        tx: 70,
        total: FRAMES as usize,
    };
    assert_eq!(site.umem.owners(), expected);
    let Site { umem, mut pool, port, far, interface, steering: _steering, lab: _lab } = site;
    let returned = port.close();
    assert_eq!(returned.len(), 256 + 70 + 5);
    assert_eq!(umem.owners().worker, returned.len());
    assert!(returned.iter().all(|frame| frame.len() == 0));
    returned.into_iter().for_each(|frame| pool.free(frame));
    assert_eq!(umem.owners(), all_free());
    // The queue can be taken again at once, and carries traffic.
    let mut port = Port::open(&umem, &interface, 0, &config()).unwrap();
    let frame = plain_frame(99, 100);
    let packets = vec![packet_of(&umem, &mut pool, &frame)];
    send_all(&mut port, &mut pool, packets);
    until("the new port's frame", || far.receive().is_some_and(|got| got == frame));
    close_all(port, &mut pool);
    assert_eq!(umem.owners(), all_free());
}

#[test]
fn the_kernel_writes_nothing_after_a_close() {
    let Site { umem, mut pool, mut port, far, interface, mut steering, lab: _lab } =
        Site::new(Role::Pod, 1500);
    for round in 0..30_u8 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                while !done.load(Ordering::Relaxed) && start.elapsed() < DEADLINE {
                    far.send(&plain_frame(7, 1400));
                }
            });
            // Close in the middle of a flood, mark every frame, and let the flood go on.
            receive(&mut port, &mut pool, 100, 64).into_iter().for_each(|packet| pool.free_packet(packet));
            let mut frames = port.close();
            frames.iter_mut().for_each(|frame| assert!(umem.write(frame, &[round; MAX_FRAME_LEN])));
            let dropped = |steering: &Steered| steering.counters().unwrap().pod_no_socket_drop;
            let before = dropped(&steering);
            until("the flood to go on", || dropped(&steering) > before + 50);
            done.store(true, Ordering::Relaxed);
            for frame in frames {
                assert!(umem.bytes(&frame).iter().all(|byte| *byte == round));
                pool.free(frame);
            }
        });
        assert_eq!(umem.owners(), all_free());
        port = Port::open(&umem, &interface, 0, &config()).unwrap();
        port.refill(&mut pool);
        steering.set_pod_socket(3, port.as_fd()).unwrap();
    }
    close_all(port, &mut pool);
}

#[test]
fn closing_waits_for_every_duplicate_of_the_descriptor() {
    let Site { umem, mut pool, port, far, steering: _steering, lab: _lab, .. } = Site::new(Role::Pod, 1500);
    let duplicate = port.as_fd().try_clone_to_owned().unwrap();
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The kernel goes on receiving into the port's frames all this time.
            (0..20).for_each(|n| far.send(&plain_frame(n, 100)));
            std::thread::sleep(Duration::from_millis(50));
            gone.store(true, Ordering::SeqCst);
            drop(duplicate);
        });
        let frames = port.close();
        assert!(gone.load(Ordering::SeqCst));
        assert_eq!(frames.len(), 256);
        frames.into_iter().for_each(|frame| pool.free(frame));
    });
    assert_eq!(umem.owners(), all_free());
}

#[test]
fn a_port_outlives_its_interface_and_the_umem_outlives_both() {
    let lab = Lab::new();
    let (umem, mut pool) = umem();
    // The first port of a UMEM is the one libxdp would tie it to.
    let first = lab.veth("gone", 1500);
    let mut port = Port::open(&umem, &first, 0, &config()).unwrap();
    port.refill(&mut pool);
    let mut packets: Vec<_> = (0..9).map(|n| packet_of(&umem, &mut pool, &plain_frame(n, 100))).collect();
    port.send(&mut packets);
    run("ip", &["link", "del", "gone"]);
    let error = port.flush().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    assert_eq!((port.unsent(), port.in_tx()), (9, 9));
    // While the dead port is still open, a port on another interface works.
    let second = lab.veth("stays", 1500);
    let far = lab.far_end("stays");
    let mut other = Port::open(&umem, &second, 0, &config()).unwrap();
    let frame = plain_frame(1, 100);
    let packets = vec![packet_of(&umem, &mut pool, &frame)];
    send_all(&mut other, &mut pool, packets);
    until("the second port's frame", || far.receive().is_some_and(|got| got == frame));
    close_all(port, &mut pool);
    close_all(other, &mut pool);
    assert_eq!(umem.owners(), all_free());
    let missing = Port::open(&umem, &first, 0, &config());
    assert!(matches!(missing, Err(PortError::InterfaceChanged { name, .. }) if name == "gone"));
    // The name alone is not enough: it may stand for another interface by now.
    let renamed = lab.veth("gone", 1500);
    assert_ne!(renamed.index, first.index);
    assert!(matches!(Port::open(&umem, &first, 0, &config()), Err(PortError::InterfaceChanged { .. })));
}

#[test]
fn a_busy_queue_is_waited_for_up_to_the_deadline() {
    let lab = Lab::new();
    let interface = lab.veth("busy", 1500);
    let (umem, mut pool) = umem();
    let port = Port::open(&umem, &interface, 0, &config()).unwrap();
    let (other_umem, other_pool) = crate::site::umem();
    let impatient = PortConfig { bind_deadline: Duration::from_millis(20), ..config() };
    let twice = Port::open(&umem, &interface, 0, &impatient).map(Port::close);
    assert!(matches!(twice, Err(PortError::InUse { queue: 0, .. })), "{twice:?}");
    let busy = Port::open(&other_umem, &interface, 0, &impatient).map(Port::close);
    assert!(matches!(busy, Err(PortError::Busy { queue: 0, .. })), "{busy:?}");
    let patient = PortConfig { bind_deadline: DEADLINE, ..config() };
    let (closed, waiting) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("the other thread to try", || waiting.load(Ordering::SeqCst));
            closed.store(true, Ordering::SeqCst);
            close_all(port, &mut pool);
        });
        waiting.store(true, Ordering::SeqCst);
        let port = Port::open(&other_umem, &interface, 0, &patient).unwrap();
        assert!(closed.load(Ordering::SeqCst));
        assert_eq!(port.close().len(), 0);
    });
    drop(other_pool);
    assert_eq!(umem.owners(), all_free());
}

#[test]
fn bad_settings_are_refused_by_name() {
    let lab = Lab::new();
    let interface = lab.veth("port0", 1500);
    let (umem, _pool) = umem();
    let open = |queue, config: PortConfig| Port::open(&umem, &interface, queue, &config).map(Port::close);
    let ring = open(0, PortConfig { rx_ring: 100, ..config() });
    assert!(matches!(ring, Err(PortError::RingSize { ring: "RX", value: 100 })));
    let target = open(0, PortConfig { keep_filled: 513, ..config() });
    assert!(matches!(target, Err(PortError::KeepFilled { keep_filled: 513, fill_ring: 512 })));
    let queue = open(64, config());
    assert!(matches!(queue, Err(PortError::Bind { queue: 64, .. })));
}

fn close_all(port: Port, pool: &mut FramePool) {
    port.close().into_iter().for_each(|frame| pool.free(frame));
}
