//! Ports on veths in namespaces of their own, with real frames through the kernel: bytes, metadata, counts.

use crate::lab::until;
use crate::site::{Role, Site};
use crate::steered::{TCI, VLAN, bytes_of, ipv4_frame, packet_of, plain_frame, receive, send_all, tagged};
use espalier_xsk::{Packet, SteerFlags, SteerMeta, XdpMode};

#[test]
fn trunk_frames_arrive_untagged_with_their_tag_in_the_metadata() {
    let mut site = Site::new(Role::Trunk, 1500);
    let sent: Vec<_> = (0..300).map(|n| plain_frame(n, 60 + n as usize * 4)).collect();
    for part in sent.chunks(64) {
        part.iter().for_each(|frame| site.far.send(&tagged(frame, TCI)));
        for (frame, packet) in part.iter().zip(receive(&mut site.port, &mut site.pool, part.len(), 7)) {
            assert_eq!(packet.segment_count(), 1);
            assert_eq!(site.umem.bytes(packet.head()), frame);
            let expected = SteerMeta { tci: TCI, flags: SteerFlags::POPPED };
            assert_eq!(site.umem.steer_meta(packet.head()), expected);
            assert_eq!(packet.len(), frame.len());
            site.pool.free_packet(packet);
        }
    }
    assert_eq!(site.port.in_fill(), 256);
    let statistics = site.port.statistics();
    assert_eq!((statistics.rx_dropped, statistics.bad_descriptors), (0, 0));
    site.close();
}

#[test]
fn a_trunk_queue_that_is_behind_takes_no_more_than_a_branchs_share() {
    let mut site = Site::new(Role::Trunk, 1500);
    site.steering.set_branch(VLAN + 1, true).unwrap();
    site.port.set_throttle(site.steering.throttle(0).unwrap());
    // Frames that went to the socket, and those over the branch's share.
    let send_as = |site: &Site, tci: u16, frames: u64| {
        let counts = || {
            let counters = site.steering.counters().unwrap();
            (counters.trunk_redirected, counters.trunk_over_share_drop)
        };
        let before = counts();
        for number in 0..frames {
            site.far.send(&tagged(&plain_frame(number as u32, 60), tci));
            if number % 64 == 63 || number + 1 == frames {
                until("the frames to be steered", || {
                    counts().0 + counts().1 == before.0 + before.1 + number + 1
                });
            }
        }
        (counts().0 - before.0, counts().1 - before.1)
    };
    let send = |site: &Site, frames| send_as(site, TCI, frames);
    let take = |site: &mut Site, count| {
        let packets = receive(&mut site.port, &mut site.pool, count, count);
        packets.into_iter().for_each(|packet| site.pool.free_packet(packet));
    };
    assert_eq!(send(&site, 200), (200, 0), "nobody has looked yet");
    take(&mut site, 10);
    assert_eq!(send(&site, 1), (1, 0));
    assert_eq!(send_as(&site, VLAN + 1, 1), (1, 0));
    assert_eq!(send(&site, 300), (256, 44), "190 of 256 waited");
    (0..3).for_each(|_| take(&mut site, 10));
    assert_eq!(send(&site, 10), (0, 10));
    take(&mut site, 10);
    assert_eq!(send(&site, 70), (64, 6), "another round");
    take(&mut site, 240);
    assert_eq!(send(&site, 300), (300, 0), "16 wait");
    site.close();
}

#[test]
fn generic_mode_carries_the_same_frames_and_metadata() {
    let mut site = Site::in_mode(Role::Trunk, 9001, XdpMode::Generic);
    let sent: Vec<_> = (0..60).map(|n| plain_frame(n, 60 + n as usize * 150)).collect();
    sent.iter().for_each(|frame| site.far.send(&tagged(frame, TCI)));
    for (frame, packet) in sent.iter().zip(receive(&mut site.port, &mut site.pool, sent.len(), 7)) {
        assert_eq!(bytes_of(&site.umem, &packet), *frame);
        let expected = SteerMeta { tci: TCI, flags: SteerFlags::POPPED };
        assert_eq!(site.umem.steer_meta(packet.head()), expected);
        site.pool.free_packet(packet);
    }
    site.close();
}

#[test]
fn pod_frames_arrive_tagged_unless_the_switch_answers_them() {
    let mut site = Site::new(Role::Pod, 1500);
    for number in 0..100 {
        let frame = match number % 2 {
            0 => ipv4_frame(number, 200),
            _ => plain_frame(number, 200),
        };
        site.far.send(&frame);
        let bytes = match number % 2 {
            0 => tagged(&frame, VLAN),
            _ => frame,
        };
        let packet = receive(&mut site.port, &mut site.pool, 1, 1).remove(0);
        assert_eq!(site.umem.bytes(packet.head()), bytes);
        assert_eq!(site.umem.steer_meta(packet.head()), SteerMeta { tci: VLAN, flags: SteerFlags::POD });
        site.pool.free_packet(packet);
    }
    site.close();
}

#[test]
fn frames_leave_as_they_were_written() {
    let mut site = Site::new(Role::Pod, 1500);
    let sent: Vec<_> = (0..700).map(|n| plain_frame(n, 60 + n as usize * 2)).collect();
    let packets = sent.iter().map(|frame| packet_of(&site.umem, &mut site.pool, frame)).collect();
    send_all(&mut site.port, &mut site.pool, packets);
    for frame in &sent {
        let mut got = None;
        until("a frame at the far end", || {
            got = site.far.receive();
            got.is_some()
        });
        assert_eq!(got.as_ref(), Some(frame));
    }
    assert_eq!(site.far.receive(), None);
    assert_eq!(site.port.statistics().tx_invalid_descs, 0);
    site.close();
}

#[test]
fn jumbo_frames_cross_both_ways_in_several_segments() {
    let mut site = Site::new(Role::Trunk, 9001);
    assert!(site.umem.scatter_gather(), "this kernel is new enough for XDP_USE_SG");
    for (number, len) in [(1, 8000), (2, 9001 + 14), (3, 3840), (4, 3841), (5, 60), (6, 9001 + 14)] {
        let frame = plain_frame(number, len);
        site.far.send(&tagged(&frame, TCI));
        let mut packets = receive(&mut site.port, &mut site.pool, 1, 1);
        assert_eq!(packets[0].segment_count(), len.div_ceil(3840), "{len} bytes");
        assert_eq!(packets[0].len(), len);
        assert_eq!(bytes_of(&site.umem, &packets[0]), frame);
        let expected = SteerMeta { tci: TCI, flags: SteerFlags::POPPED };
        assert_eq!(site.umem.steer_meta(packets[0].head()), expected);
        // Back out as it came, byte for byte, without touching it.
        packets.push(packet_of(&site.umem, &mut site.pool, &frame));
        send_all(&mut site.port, &mut site.pool, packets);
        for _ in 0..2 {
            let mut got = None;
            until("a jumbo frame at the far end", || {
                got = site.far.receive();
                got.is_some()
            });
            assert_eq!(got.as_ref(), Some(&frame), "{len} bytes");
        }
    }
    site.close();
}

#[test]
fn a_burst_of_jumbo_frames_is_cut_between_packets_only() {
    let mut site = Site::new(Role::Pod, 9001);
    let sent: Vec<_> = (0..60).map(|n| plain_frame(n, 3000 + n as usize * 100)).collect();
    sent.iter().for_each(|frame| site.far.send(frame));
    // One packet at a time, so that a batch ends inside nearly every packet.
    for (frame, packet) in sent.iter().zip(receive(&mut site.port, &mut site.pool, 60, 1)) {
        assert_eq!(bytes_of(&site.umem, &packet), *frame);
        site.pool.free_packet(packet);
    }
    site.close();
}

#[test]
fn packets_that_cannot_be_sent_come_back_counted() {
    let mut site = Site::new(Role::Pod, 1500);
    let good = plain_frame(1, 100);
    let empty = Packet::single(site.pool.alloc().unwrap());
    let mut half_empty = packet_of(&site.umem, &mut site.pool, &good);
    site.umem.append(&mut half_empty, site.pool.alloc().unwrap()).unwrap();
    let mut packets = vec![empty, packet_of(&site.umem, &mut site.pool, &good), half_empty];
    assert_eq!(site.port.send(&mut packets), 3);
    assert!(packets.is_empty());
    assert_eq!((site.port.in_tx(), site.port.unsent(), site.umem.owners().rx), (1, 1, 3));
    until("the good frame to leave", || {
        site.port.flush().unwrap();
        site.port.complete(&mut site.pool);
        site.port.in_tx() == 0
    });
    let statistics = site.port.statistics();
    assert_eq!((statistics.tx_refused, statistics.tx_invalid_descs), (2, 0));
    assert_eq!(site.umem.owners().rx, 0);
    until("the good frame to arrive", || site.far.receive().is_some_and(|frame| frame == good));
    site.close();
}
