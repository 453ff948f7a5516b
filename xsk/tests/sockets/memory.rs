//! UMEM, frame tokens and pools on the real kernel, with no port open.

use crate::lab::Lab;
use espalier_xsk::{
    FrameOwners, Hugepages, MAX_FRAME_LEN, MAX_SEGMENTS, Packet, Umem, UmemConfig, UmemError,
};

fn small(frames: u32) -> UmemConfig {
    UmemConfig { frames, hugepages: Hugepages::Off, fill_ring: 64, completion_ring: 64 }
}

#[test]
fn every_frame_has_bytes_of_its_own() {
    let _lab = Lab::new();
    let (umem, mut pool) = Umem::new(&small(64)).unwrap();
    assert_eq!(umem.owners(), FrameOwners { free: 64, total: 64, ..FrameOwners::default() });
    let mut frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((frames.len(), pool.available()), (64, 0));
    assert_eq!(umem.owners(), FrameOwners { worker: 64, total: 64, ..FrameOwners::default() });
    for (at, frame) in frames.iter_mut().enumerate() {
        assert!(umem.bytes(frame).is_empty());
        assert!(umem.write(frame, &[at as u8; MAX_FRAME_LEN]));
        umem.bytes_mut(frame)[0] = !(at as u8);
    }
    for (at, frame) in frames.iter().enumerate() {
        let bytes = umem.bytes(frame);
        assert_eq!(bytes.len(), MAX_FRAME_LEN);
        assert_eq!(bytes[0], !(at as u8));
        assert!(bytes[1..].iter().all(|byte| *byte == at as u8));
    }
    frames.drain(..).for_each(|frame| pool.free(frame));
    assert_eq!(pool.available(), 64);
    assert_eq!(umem.owners(), FrameOwners { free: 64, total: 64, ..FrameOwners::default() });
}

#[test]
fn lengths_stop_at_the_chunk() {
    let _lab = Lab::new();
    let (umem, mut pool) = Umem::new(&small(8)).unwrap();
    let mut frame = pool.alloc().unwrap();
    assert!(umem.write(&mut frame, b"espalier"));
    assert!(!umem.write(&mut frame, &[0; MAX_FRAME_LEN + 1]));
    assert_eq!(umem.bytes(&frame), b"espalier");
    umem.truncate(&mut frame, 9);
    assert_eq!(umem.bytes(&frame), b"espalier");
    umem.truncate(&mut frame, 3);
    assert_eq!(umem.bytes(&frame), b"esp");
    assert!(umem.set_len(&mut frame, 8));
    assert_eq!(umem.bytes(&frame), b"espalier");
    assert!(!umem.set_len(&mut frame, MAX_FRAME_LEN + 1));
    pool.free(frame);
    // A frame comes out of the pool empty, whatever it held.
    let frame = pool.alloc().unwrap();
    assert_eq!(frame.len(), 0);
    pool.free(frame);
    assert_eq!(umem.max_packet_len(), if umem.scatter_gather() { 19_200 } else { 3_840 });
    assert_eq!(MAX_FRAME_LEN * MAX_SEGMENTS, 19_200);
}

#[test]
fn a_packets_segments_keep_their_order_up_to_the_limit() {
    let _lab = Lab::new();
    let (umem, mut pool) = Umem::new(&small(16)).unwrap();
    let mut frame = |byte| {
        let mut frame = pool.alloc().unwrap();
        assert!(umem.write(&mut frame, &[byte; 10]));
        frame
    };
    let mut packet = Packet::single(frame(0));
    for byte in 1..MAX_SEGMENTS as u8 {
        umem.append(&mut packet, frame(byte)).unwrap();
    }
    let refused = umem.append(&mut packet, frame(99)).unwrap_err();
    assert_eq!(umem.bytes(&refused), [99; 10]);
    pool.free(refused);
    assert_eq!((packet.segment_count(), packet.len()), (MAX_SEGMENTS, 10 * MAX_SEGMENTS));
    let order: Vec<u8> = umem.segments(&packet).map(|data| data[0]).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
    pool.free_packet(packet);
    assert_eq!((pool.available(), umem.owners().free), (16, 16));
}

#[test]
fn pools_split_and_join_without_loss() {
    let _lab = Lab::new();
    let (umem, mut pool) = Umem::new(&small(100)).unwrap();
    let mut second = pool.split_off(30);
    assert_eq!((pool.available(), second.available()), (70, 30));
    let mut third = second.split_off(1000);
    assert_eq!((second.available(), third.available()), (0, 30));
    assert!(second.alloc().is_none());
    let mut packet = Packet::single(third.alloc().unwrap());
    umem.append(&mut packet, third.alloc().unwrap()).unwrap();
    // A frame may go back into another pool of its UMEM, on another thread.
    let second = std::thread::spawn(move || {
        second.free_packet(packet);
        second
    });
    let second = second.join().unwrap();
    assert_eq!((second.available(), third.available()), (2, 28));
    pool.absorb(second);
    pool.absorb(third);
    assert_eq!(pool.available(), 100);
    assert_eq!(umem.owners().free, 100);
}

#[test]
fn one_worker_frees_what_another_takes_without_end() {
    let _lab = Lab::new();
    let (umem, pool) = Umem::new(&small(2000)).unwrap();
    let mut pools = pool.share(3);
    assert!(
        pools.iter().all(|pool| pool.available() >= 2000 - 2000 / 8),
        "the depot is there for each of them"
    );
    let (taking, giving) = pools.split_at_mut(1);
    for _ in 0..100 {
        let frames: Vec<_> = (0..500).map(|_| taking[0].alloc().unwrap()).collect();
        assert_eq!(umem.owners().worker, 500);
        frames.into_iter().for_each(|frame| giving[0].free(frame));
        assert_eq!(umem.owners().free, 2000);
    }
}

#[test]
fn several_umems_live_in_one_namespace() {
    let _lab = Lab::new();
    // The first one's donor takes the loopback; the others must find another place.
    let umems: Vec<_> = (0..3).map(|_| Umem::new(&small(16)).unwrap()).collect();
    for (umem, pool) in &umems {
        assert_eq!(pool.available(), 16);
        assert_eq!(umem.scatter_gather(), umems[0].0.scatter_gather());
    }
}

#[test]
fn bad_settings_are_refused_by_name() {
    let _lab = Lab::new();
    assert!(matches!(Umem::new(&small(0)), Err(UmemError::NoFrames)));
    let ring = UmemConfig { completion_ring: 100, ..small(16) };
    assert!(matches!(Umem::new(&ring), Err(UmemError::RingSize { ring: "completion", value: 100 })));
    let huge = UmemConfig { hugepages: Hugepages::On, ..small(100) };
    assert!(matches!(Umem::new(&huge), Err(UmemError::PartialHugepage { frames: 100 })));
}

#[test]
fn huge_pages_are_used_where_the_machine_has_them() {
    let _lab = Lab::new();
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free: u32 = free.map_or(0, |text| text.trim().parse().unwrap());
    let config = UmemConfig { frames: 512, ..small(512) };
    let auto = Umem::new(&UmemConfig { hugepages: Hugepages::Auto, ..config.clone() }).unwrap();
    if free == 0 {
        assert!(!auto.0.hugepages());
        let required = Umem::new(&UmemConfig { hugepages: Hugepages::On, ..config });
        assert!(matches!(required, Err(UmemError::Memory { frames: 512, hugepages: true, .. })));
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "used with UMEM")]
fn mixing_up_umems_is_noticed() {
    let _lab = Lab::new();
    let (_first, mut pool) = Umem::new(&small(4)).unwrap();
    let (second, _other) = Umem::new(&small(4)).unwrap();
    let frame = pool.alloc().unwrap();
    let _ = second.bytes(&frame);
}
