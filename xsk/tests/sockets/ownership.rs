//! Property: whatever is done with tokens, pools and a port, every chunk has exactly one owner, and each owner's count
//! is what the calls so far make it.

use std::os::fd::AsFd;

use espalier_xsk::{
    Frame, FrameOwners, FramePool, Hugepages, InterfaceRef, Packet, Port, PortConfig, Umem, UmemConfig,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::lab::{FarEnd, Lab};
use crate::steered::{Steered, VLAN, plain_frame};

const FRAMES: u32 = 96;

#[derive(Debug, Clone)]
enum Step {
    Alloc(u8),
    Free(u8),
    Split(u8),
    Absorb,
    Refill,
    FarSends(u8),
    Receive(u8),
    Send { packets: u8, segments: u8 },
    SendEmpty,
    Flush,
    Complete,
    Close,
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..40_u8).prop_map(Step::Alloc),
        (1..40_u8).prop_map(Step::Free),
        (1..60_u8).prop_map(Step::Split),
        Just(Step::Absorb),
        Just(Step::Refill),
        (1..20_u8).prop_map(Step::FarSends),
        (1..20_u8).prop_map(Step::Receive),
        ((1..20_u8), (1..4_u8)).prop_map(|(packets, segments)| Step::Send { packets, segments }),
        Just(Step::SendEmpty),
        Just(Step::Flush),
        Just(Step::Complete),
        Just(Step::Close),
        Just(Step::Open),
        Just(Step::Open),
    ]
}

struct World {
    umem: Umem,
    pool: FramePool,
    aside: Vec<FramePool>,
    held: Vec<Frame>,
    outbox: Vec<Packet>,
    port: Option<Port>,
    refused: usize,
}

/// What all cases share.
struct Scene {
    interface: InterfaceRef,
    far: FarEnd,
    steering: Steered,
    _lab: Lab,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let interface = lab.veth("port0", 9001);
        let far = lab.far_end("port0");
        let mut steering = Steered::new();
        steering.attach_pod(&interface, 3, VLAN).unwrap();
        Self { interface, far, steering, _lab: lab }
    }

    fn open(&mut self, umem: &Umem) -> Port {
        let config = PortConfig { rx_ring: 16, tx_ring: 16, keep_filled: 24, ..PortConfig::default() };
        let port = Port::open(umem, &self.interface, 0, &config).unwrap();
        self.steering.set_pod_socket(3, port.as_fd()).unwrap();
        port
    }

    /// Small frames, and such of two and three segments.
    fn far_sends(&self, count: u8) {
        (0..u32::from(count)).for_each(|n| self.far.send(&plain_frame(n, 100 + n as usize % 3 * 4000)));
    }
}

impl World {
    fn new(scene: &mut Scene) -> Self {
        let config =
            UmemConfig { frames: FRAMES, hugepages: Hugepages::Off, fill_ring: 32, completion_ring: 16 };
        let (umem, pool) = Umem::new(&config).unwrap();
        let port = Some(scene.open(&umem));
        Self { umem, pool, aside: Vec::new(), held: Vec::new(), outbox: Vec::new(), port, refused: 0 }
    }

    fn take(&mut self, step: &Step, scene: &mut Scene) {
        match step {
            Step::Alloc(count) => {
                self.held.extend((0..*count).map_while(|_| self.pool.alloc()));
            }
            Step::Free(count) => {
                let keep = self.held.len().saturating_sub(usize::from(*count));
                self.held.drain(keep..).for_each(|frame| self.pool.free(frame));
            }
            Step::Split(count) => self.aside.push(self.pool.split_off(usize::from(*count))),
            Step::Absorb => self.aside.drain(..).for_each(|pool| self.pool.absorb(pool)),
            Step::FarSends(count) => scene.far_sends(*count),
            Step::Close => self.close(),
            Step::Open => {
                if self.port.is_none() {
                    self.port = Some(scene.open(&self.umem));
                }
            }
            on_port => {
                if let Some(mut port) = self.port.take() {
                    self.take_on_port(on_port, &mut port);
                    self.port = Some(port);
                }
            }
        }
    }

    fn take_on_port(&mut self, step: &Step, port: &mut Port) {
        match step {
            // What was refused goes to the fill ring first.
            Step::Refill => self.refused -= port.refill(&mut self.pool).min(self.refused),
            Step::Receive(max) => {
                let before = self.outbox.len();
                let got = port.receive(&mut self.outbox, usize::from(*max));
                assert_eq!(self.outbox.len(), before + got);
                assert!(got <= usize::from(*max));
            }
            Step::Send { packets, segments } => self.send(port, *packets, *segments),
            Step::SendEmpty => {
                let Some(frame) = self.pool.alloc() else { return };
                assert_eq!(port.send(&mut vec![Packet::single(frame)]), 1);
                self.refused += 1;
            }
            Step::Flush => _ = port.flush().unwrap(),
            Step::Complete => {
                let (free, in_tx) = (self.pool.available(), port.in_tx());
                let returned = port.complete(&mut self.pool);
                assert_eq!(self.pool.available(), free + returned);
                assert_eq!(port.in_tx() + returned, in_tx + self.refused);
                self.refused = 0;
            }
            other => unreachable!("{other:?} needs no port"),
        }
    }

    fn send(&mut self, port: &mut Port, packets: u8, segments: u8) {
        for number in 0..packets {
            let Some(mut head) = self.held.pop() else { break };
            assert!(self.umem.write(&mut head, &plain_frame(number.into(), 90)));
            let mut packet = Packet::single(head);
            for mut frame in (1..segments).map_while(|_| self.held.pop()) {
                assert!(self.umem.write(&mut frame, &[number; 50]));
                self.umem.append(&mut packet, frame).unwrap();
            }
            self.outbox.push(packet);
        }
        let before = segments_of(&self.outbox) + port.in_tx();
        port.send(&mut self.outbox);
        assert_eq!(segments_of(&self.outbox) + port.in_tx(), before);
        assert!(port.unsent() <= 16);
    }

    fn close(&mut self) {
        let Some(port) = self.port.take() else { return };
        let held = port.in_fill() + port.in_tx() + self.refused;
        let frames = port.close();
        assert_eq!(frames.len(), held);
        frames.into_iter().for_each(|frame| self.pool.free(frame));
        self.refused = 0;
    }

    fn check(&self) {
        let expected = FrameOwners {
            free: self.pool.available() + self.aside.iter().map(FramePool::available).sum::<usize>(),
            fill: self.port.as_ref().map_or(0, Port::in_fill),
            rx: self.refused,
            worker: self.held.len() + segments_of(&self.outbox),
            tx: self.port.as_ref().map_or(0, Port::in_tx),
            total: FRAMES as usize,
        };
        let owners = self.umem.owners();
        assert_eq!(owners, expected);
        assert_eq!(owners.sum(), owners.total);
    }

    /// Everything goes home, and every chunk is there exactly once.
    fn end(mut self) {
        self.close();
        let Self { umem, mut pool, aside, held, outbox, .. } = self;
        aside.into_iter().for_each(|other| pool.absorb(other));
        held.into_iter().for_each(|frame| pool.free(frame));
        outbox.into_iter().for_each(|packet| pool.free_packet(packet));
        let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        let mut indices: Vec<_> = frames.iter().map(Frame::index).collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..FRAMES));
        frames.into_iter().for_each(|frame| pool.free(frame));
        assert_eq!(umem.owners().free, FRAMES as usize);
    }
}

fn segments_of(packets: &[Packet]) -> usize {
    packets.iter().map(Packet::segment_count).sum()
}

#[test]
fn every_chunk_has_one_owner_whatever_happens() {
    let scene = std::cell::RefCell::new(Scene::new());
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let steps = proptest::collection::vec(step(), 1..80);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        let scene = &mut *scene.borrow_mut();
        let mut world = World::new(scene);
        world.check();
        for step in &steps {
            world.take(step, scene);
            world.check();
        }
        world.end();
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
