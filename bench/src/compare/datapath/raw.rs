//! The AF_XDP limit: a forwarder on the same ports and the same steering as the switch that looks at nothing.
//!
//! The steering pops and pushes the tags, as for the switch; this takes frames from one port and hands them to the
//! other. What the switch adds, parsing, tracking and judging, is what it is compared for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use espalier_lab::netns::NetNs;
use espalier_pktgen::endpoint::pin;
use espalier_switch::packet::has_tag;
use espalier_xsk::{
    FramePool, Hugepages, Packet, Port, PortConfig, Steering, SteeringConfig, Umem, UmemConfig, XdpMode,
};

use super::huge_pages::{self, HugePages};
use super::site::{A, B, SUBJECT_CORE, Site, TRUNK};

/// What can be varied to look for the best forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuning {
    /// Packets taken from a port at a time.
    pub(super) batch: usize,
    /// Entries of the rings, and frames kept ready to receive into.
    pub(super) ring: u32,
    /// Frames in all.
    pub(super) frames: u32,
}

impl Tuning {
    /// What was found to be best; see docs/PERFORMANCE.md.
    pub(super) const BEST: Self = Self { batch: 256, ring: 2048, frames: 32_768 };
}

/// A running forwarder; ends when dropped.
pub(super) struct Forwarder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    pins: PathBuf,
    _pages: HugePages,
}

/// The ports, in the order of [`TARGETS`].
struct Engine {
    umem: Umem,
    pool: FramePool,
    ports: Vec<Port>,
    steering: Steering,
    tuning: Tuning,
}

/// Places of the ports.
const TRUNK_PORT: usize = 0;
const A_PORT: usize = 1;
const B_PORT: usize = 2;

impl Forwarder {
    /// Starts forwarding between the trunk and the pods of the site.
    pub(super) fn start(site: &Site, tuning: Tuning) -> Result<Self> {
        let pages = HugePages::reserve(huge_pages::FOR_FRAMES)?;
        let stop = Arc::new(AtomicBool::new(false));
        let pins = PathBuf::from(format!("/sys/fs/bpf/espalier-{}", site.node.name()));
        let (ready, started) = channel();
        let work = {
            let (node, stop, pins) = (NetNs::existing(site.node.name()), Arc::clone(&stop), pins.clone());
            move || node.run(|| work(tuning, &pins, &stop, &ready))?
        };
        let thread = std::thread::Builder::new().name("raw".to_owned()).spawn(work)?;
        let begun = started.recv().is_ok();
        let mut forwarder = Self { stop, thread: Some(thread), pins, _pages: pages };
        if begun {
            Ok(forwarder)
        } else {
            Err(forwarder.end().err().context("the raw forwarder did not start")?)
        }
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let ended = thread.join().unwrap_or_else(|_| Err(anyhow!("the raw forwarder panicked")));
        // A leftover of a forwarder that failed is no reason to fail twice.
        let _ = Steering::remove_pins(&self.pins);
        ended
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn work(tuning: Tuning, pins: &Path, stop: &AtomicBool, ready: &Sender<()>) -> Result<()> {
    pin(Some(SUBJECT_CORE))?;
    let mut engine = Engine::open(tuning, pins)?;
    // Whoever waits may have given up.
    let _ = ready.send(());
    let outcome = engine.run(stop);
    engine.close();
    outcome
}

impl Engine {
    fn open(tuning: Tuning, pins: &Path) -> Result<Self> {
        let (umem, mut pool) = Umem::new(&UmemConfig {
            frames: tuning.frames,
            hugepages: Hugepages::On,
            fill_ring: tuning.ring,
            completion_ring: tuning.ring,
        })?;
        let mode = XdpMode::Native;
        let mut steering = Steering::open(&SteeringConfig { pin_dir: pins.to_owned(), mode, max_pods: 2 })?;
        let config = PortConfig {
            rx_ring: tuning.ring,
            tx_ring: tuning.ring,
            keep_filled: tuning.ring,
            ..PortConfig::default()
        };
        let mut open = |name: &str| -> Result<_> {
            let interface = espalier_xsk::interface(name)?;
            let mut port = Port::open(&umem, &interface, 0, &config)?;
            port.refill(&mut pool);
            Ok((interface, port))
        };
        let (trunk, trunk_port) = open(TRUNK)?;
        steering.set_trunk_socket(0, &trunk_port)?;
        let mut ports = vec![trunk_port];
        for (slot, pod) in (0..).zip([A, B]) {
            let (interface, port) = open(pod.veth)?;
            steering.set_pod_socket(slot, &port)?;
            steering.attach_pod(&interface, slot, pod.vlan)?;
            steering.set_branch(pod.vlan, true)?;
            steering.set_local_address(pod.address.into(), true)?;
            ports.push(port);
        }
        steering.attach_trunk(&trunk)?;
        Ok(Self { umem, pool, ports, steering, tuning })
    }

    fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        let mut packets = Vec::with_capacity(self.tuning.batch);
        while !stop.load(Ordering::Relaxed) {
            for from in [TRUNK_PORT, A_PORT, B_PORT] {
                if self.ports[from].receive(&mut packets, self.tuning.batch) == 0 {
                    continue;
                }
                // One pod sends and one receives, so the first packet stands for its batch.
                let to = self.target(from, &packets[0]);
                self.forward(to, &mut packets)?;
                let Self { ports, pool, .. } = self;
                ports[from].refill(pool);
            }
        }
        Ok(())
    }

    fn target(&self, from: usize, packet: &Packet) -> usize {
        match from {
            TRUNK_PORT if self.umem.steer_meta(packet.head()).vlan() == B.vlan => B_PORT,
            TRUNK_PORT => A_PORT,
            _ if has_tag(self.umem.bytes(packet.head())) => TRUNK_PORT,
            A_PORT => B_PORT,
            _ => A_PORT,
        }
    }

    fn forward(&mut self, to: usize, packets: &mut Vec<Packet>) -> Result<()> {
        let port = &mut self.ports[to];
        port.complete(&mut self.pool);
        port.send(packets);
        port.flush().context("the raw forwarder cannot send")?;
        // The ring is full: the receiver does not keep up.
        packets.drain(..).for_each(|packet| self.pool.free_packet(packet));
        Ok(())
    }

    fn close(self) {
        let Self { mut pool, ports, steering, .. } = self;
        // What cannot be detached goes with the namespace.
        let _ = steering.unpin_all();
        for port in ports {
            port.close().into_iter().for_each(|frame| pool.free(frame));
        }
    }
}
