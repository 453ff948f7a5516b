//! A steering of the test's own, unpinned again when the test ends, also on panic; and frames to send through it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

use espalier_xsk::{FramePool, Packet, Port, Steering, SteeringConfig, Umem, XdpMode};

use crate::lab::until;

/// The branch's VLAN in these tests.
pub(crate) const VLAN: u16 = 77;

/// Its tag as the wire carries it: priority 5, VLAN 77.
pub(crate) const TCI: u16 = 0xa000 | VLAN;

pub(crate) struct Steered(Option<Steering>);

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Steered {
    pub(crate) fn new() -> Self {
        Self::in_mode(XdpMode::Native)
    }

    pub(crate) fn in_mode(mode: XdpMode) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pin_dir = format!("/sys/fs/bpf/xsk-test-{}-{number}", std::process::id()).into();
        let config = SteeringConfig { pin_dir, mode, max_pods: 8 };
        Self(Some(Steering::open(&config).expect("the steering loads on this kernel")))
    }
}

impl Deref for Steered {
    type Target = Steering;

    fn deref(&self) -> &Steering {
        self.0.as_ref().expect("only drop takes the steering")
    }
}

impl DerefMut for Steered {
    fn deref_mut(&mut self) -> &mut Steering {
        self.0.as_mut().expect("only drop takes the steering")
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Steering::unpin_all)
            && !std::thread::panicking()
        {
            panic!("the pins stay behind: {error}");
        }
    }
}

/// An Ethernet frame of `len` bytes: numbered, with a payload that shows any byte out of place.
pub(crate) fn plain_frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02];
    frame.extend_from_slice(&0x88b5_u16.to_be_bytes());
    frame.extend_from_slice(&number.to_be_bytes());
    frame.extend((frame.len()..len).map(|at| (at as u32).wrapping_mul(31).wrapping_add(number) as u8));
    frame.truncate(len);
    frame
}

/// The frame of an IPv4 packet to a unicast address that is not local to any node.
pub(crate) fn ipv4_frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = plain_frame(number, len);
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    frame[30..34].copy_from_slice(&[192, 0, 2, 9]);
    frame
}

/// The frame with an 802.1Q tag.
pub(crate) fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let mut with_tag = frame[..12].to_vec();
    with_tag.extend_from_slice(&0x8100_u16.to_be_bytes());
    with_tag.extend_from_slice(&tci.to_be_bytes());
    with_tag.extend_from_slice(&frame[12..]);
    with_tag
}

/// Receives exactly `count` packets, `batch` at a time.
pub(crate) fn receive(port: &mut Port, pool: &mut FramePool, count: usize, batch: usize) -> Vec<Packet> {
    let mut packets = Vec::new();
    until("packets to arrive", || {
        let wanted = batch.min(count - packets.len());
        port.receive(&mut packets, wanted);
        port.refill(pool);
        packets.len() == count
    });
    packets
}

/// Makes a packet of the bytes, in as many frames as it takes.
pub(crate) fn packet_of(umem: &Umem, pool: &mut FramePool, bytes: &[u8]) -> Packet {
    let mut frames = bytes.chunks(espalier_xsk::MAX_FRAME_LEN).map(|chunk| {
        let mut frame = pool.alloc().expect("the pool has frames");
        assert!(umem.write(&mut frame, chunk));
        frame
    });
    let mut packet = Packet::single(frames.next().expect("a packet has bytes"));
    frames.for_each(|frame| umem.append(&mut packet, frame).expect("the packet has room"));
    packet
}

/// All bytes of the packet.
pub(crate) fn bytes_of(umem: &Umem, packet: &Packet) -> Vec<u8> {
    umem.segments(packet).flatten().copied().collect()
}

/// Sends everything and waits until every frame is back in the pool.
pub(crate) fn send_all(port: &mut Port, pool: &mut FramePool, mut packets: Vec<Packet>) {
    until("packets to be sent and completed", || {
        port.send(&mut packets);
        port.flush().expect("the interface is there");
        port.complete(pool);
        packets.is_empty() && port.in_tx() == 0
    });
    assert_eq!(port.unsent(), 0);
}
