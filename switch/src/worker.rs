//! One pinned thread that owns a trunk queue, its pods' ports, flows and counters, and moves their packets.
//!
//! Nothing here is shared: the manager talks to a worker over a channel that is read between batches, and a table is
//! given back when the next one is in use, so the caller of [`Handle::publish`] knows that its grace period is over.
//! Ports with traffic are polled; idle ones wait in epoll, so that hundreds of quiet pods cost nothing.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use espalier_xsk::{FramePool, Packet, Umem};
use rustix::event::epoll;
use rustix::fd::OwnedFd;

use crate::clock;
use crate::flow::fragment::{FragmentConfig, Fragments};
use crate::flow::{FlowTable, Now, PodSlot};
use crate::step::{self, Decided, Outcome, Shard, ShardParts};
use crate::tables::Tables;

mod command;
mod flows;
mod memory;
mod port;
mod shares;

pub use command::{Command, Handle, Report, WorkerGone};
pub use flows::{FlowMatch, FlowStretch, RuleSpan};
use port::{Cargo, Place, WorkerPort};
use shares::FrameShares;

/// Packets taken from one port at a time.
const BATCH: usize = 64;
/// Empty rounds after which a port waits in epoll.
const COLD_AFTER: u32 = 32;
/// Busy rounds between two looks at the ports that wait in epoll and at the commands.
const ROUNDS_PER_LOOK: u32 = 8;
/// Flow entries looked at for expiry in a round.
const SWEEP_BUDGET: usize = 64;
/// Flows of a pod that is gone, forgotten between two batches.
const REMOVAL_BUDGET: usize = 1024;
const TOO_FEW_FRAMES: &str =
    "fewer than 16 frames for each pod there is place for: raise --frames or lower --max-pods";
const LONGEST_SLEEP: Duration = Duration::from_millis(250);
/// Sleep while the kernel has packets that it has not sent, or has not given back.
const UNSENT_SLEEP: Duration = Duration::from_micros(500);

/// What a worker is made of.
pub struct WorkerConfig {
    /// Its index.
    pub index: usize,
    /// The core to pin it to.
    pub core: Option<usize>,
    /// How long it polls without work before it sleeps.
    pub spin: Duration,
    /// Pods it has place for.
    pub slots: u16,
    /// Whether ICMP errors about a live flow pass without a rule.
    pub related_errors: bool,
    /// Frames kept ready to receive into.
    pub fill: FillConfig,
}

/// Frames kept ready to receive into.
#[derive(Debug, Clone, Copy)]
pub struct FillConfig {
    /// For the trunk.
    pub trunk: u32,
    /// For a pod, at most.
    pub pod: u32,
    /// For all pods, who share them.
    pub pods: u32,
}

/// The worker's own state; it lives on its thread.
pub struct Worker {
    umem: Umem,
    pool: FramePool,
    shard: Shard<Packet>,
    decided: Decided<Packet>,
    tables: Option<Arc<Tables>>,
    ports: Vec<Option<WorkerPort>>,
    /// Places of the ports that are polled.
    hot: Vec<Place>,
    /// Places of the ports that have packets to send or to reclaim.
    sending: Vec<Place>,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    epoll: OwnedFd,
    spin: Duration,
    shares: FrameShares,
    received: Vec<Packet>,
    batches: u64,
    sleeps: u64,
}

/// What a round found to do.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Round {
    Busy,
    Idle,
}

impl Worker {
    /// Starts the thread.
    pub fn start(
        config: &WorkerConfig,
        umem: Umem,
        pool: FramePool,
        flows: FlowTable,
    ) -> std::io::Result<(Handle, JoinHandle<()>)> {
        let (handle, commands) = Handle::new(config.index, config.core)?;
        let fragments = Fragments::new(FragmentConfig::for_pods(config.slots))
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        let slots = usize::from(config.slots);
        let shares = FrameShares::new(&config.fill, umem.owners().total, config.slots)
            .ok_or_else(|| std::io::Error::other(TOO_FEW_FRAMES))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, handle.wake(), Place::WAKE.as_event(), epoll::EventFlags::IN)?;
        let worker = Self {
            umem,
            pool,
            shard: Shard::new(ShardParts { flows, fragments, related_errors: config.related_errors, slots }),
            decided: Vec::with_capacity(BATCH),
            tables: None,
            ports: (0..=slots).map(|_| None).collect(),
            hot: Vec::with_capacity(slots + 1),
            sending: Vec::with_capacity(slots + 1),
            commands,
            wake: handle.wake_owned(),
            epoll,
            spin: config.spin,
            shares,
            received: Vec::with_capacity(BATCH),
            batches: 0,
            sleeps: 0,
        };
        let core = config.core;
        let thread =
            std::thread::Builder::new().name(format!("worker-{}", config.index)).spawn(move || {
                if let Some(id) = core.map(|id| core_affinity::CoreId { id })
                    && !core_affinity::set_for_current(id)
                {
                    tracing::warn!(core = id.id, "cannot pin the worker to its core; it runs unpinned");
                }
                worker.run();
            })?;
        Ok((handle, thread))
    }

    fn run(mut self) {
        let mut idle_since = None;
        let mut rounds = 0;
        loop {
            let now = clock::now();
            if rounds == 0 {
                if !self.obey() {
                    return;
                }
                self.look(Duration::ZERO);
                rounds = ROUNDS_PER_LOOK;
            }
            rounds -= 1;
            if self.round(now) == Round::Busy {
                idle_since = None;
                continue;
            }
            let since = *idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.spin {
                self.sleep(now);
                idle_since = None;
                rounds = 0;
            }
        }
    }

    /// Everything once: receive and step, send, reclaim, refill, and the work that comes with time.
    fn round(&mut self, now: Now) -> Round {
        let mut busy = false;
        let mut index = 0;
        while let Some(place) = self.hot.get(index).copied() {
            match self.receive(place, now) {
                0 if self.may_wait(place) => {
                    self.hot.swap_remove(index);
                }
                received => {
                    busy |= received > 0;
                    index += 1;
                }
            }
        }
        if let Some(tables) = &self.tables {
            self.shard.links.ask(tables, now, |frame| self.shard.originated.push(frame));
        }
        step::expire(&mut self.shard, now, &mut self.decided);
        self.carry_out();
        self.queue_originated();
        self.transmit();
        self.shard.flows.sweep(now, SWEEP_BUDGET);
        if busy { Round::Busy } else { Round::Idle }
    }

    /// Whether a port that is empty can be left to epoll. Without frames to receive into it would never wake anybody.
    fn may_wait(&mut self, place: Place) -> bool {
        let Some(port) = self.ports[place.index()].as_mut() else { return true };
        !self.shares.is_starved(port.in_fill()) && port.cools(COLD_AFTER)
    }

    /// Takes one batch from a port through the step. Returns how many packets there were.
    fn receive(&mut self, place: Place, now: Now) -> usize {
        let Some(port) = self.ports[place.index()].as_mut() else { return 0 };
        let mut received = std::mem::take(&mut self.received);
        let count = port.receive(&mut received, BATCH);
        if count > 0 {
            self.batches += 1;
        }
        let (shard, decided) = (&mut self.shard, &mut self.decided);
        let from = |packet: &Packet| place.from(self.umem.steer_meta(packet.head()));
        match &self.tables {
            Some(tables) => step::step(&self.umem, shard, tables, now, from, &mut received, decided),
            None => step::without_tables(&self.umem, shard, from, &mut received, decided),
        }
        self.received = received;
        self.carry_out();
        self.refill(place, count);
        count
    }

    /// Does with the packets what the step decided.
    fn carry_out(&mut self) {
        let mut decided = std::mem::take(&mut self.decided);
        for (packet, outcome) in decided.drain(..) {
            match outcome {
                Outcome::Forward { to, blame } => {
                    let cargo = Cargo::Forwarded { blame, bytes: packet.len() };
                    self.enqueue(Place::of(to), packet, cargo);
                }
                Outcome::Consumed | Outcome::Drop(_) => self.pool.free_packet(packet),
            }
        }
        self.decided = decided;
    }

    fn enqueue(&mut self, place: Place, packet: Packet, cargo: Cargo) {
        match self.ports[place.index()].as_mut() {
            Some(port) => {
                if port.enqueue(packet, cargo) {
                    self.sending.push(place);
                }
            }
            None => {
                self.pool.free_packet(packet);
                cargo.lost(&mut self.shard.counters, crate::reason::DropReason::PortDown);
            }
        }
    }

    /// Turns the responder's frames into packets. One that finds no free frame is not sent: whoever waits asks again.
    fn queue_originated(&mut self) {
        while let Some(frame) = self.shard.originated.pop() {
            let Some(mut fresh) = self.pool.alloc() else { continue };
            if !self.umem.write(&mut fresh, &frame.bytes) {
                self.pool.free(fresh);
                continue;
            }
            self.enqueue(Place::of(frame.to), Packet::single(fresh), Cargo::Originated);
        }
    }

    fn transmit(&mut self) {
        let mut index = 0;
        while let Some(place) = self.sending.get(index).copied() {
            let port = self.ports[place.index()].as_mut();
            if port.is_some_and(|port| port.transmit(&mut self.pool, &mut self.shard.counters, place)) {
                index += 1;
            } else {
                self.sending.swap_remove(index);
            }
        }
    }

    /// Waits for packets, commands or time.
    fn sleep(&mut self, now: Now) {
        let mut pause = if self.sending.is_empty() { LONGEST_SLEEP } else { UNSENT_SLEEP };
        if let Some(next) = self.shard.links.next() {
            pause = pause.min(clock::until(now, next));
        }
        self.sleeps += 1;
        self.look(pause);
    }

    /// Finds the ports that have packets, waiting up to `pause` for the first.
    fn look(&mut self, pause: Duration) {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: Place::WAKE.as_event() }; 64];
        let pause =
            rustix::event::Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
        // An interrupted wait is a wait that found nothing.
        let count = epoll::wait(&self.epoll, &mut events[..], Some(&pause)).unwrap_or(0);
        for event in &events[..count] {
            let place = Place::of_event(event.data);
            if place == Place::WAKE {
                // The counter is reset so that the next command wakes again; the commands are read by `obey`.
                let _reset = rustix::io::read(&self.wake, &mut [0; 8]);
                continue;
            }
            if self.ports.get(place.index()).is_some_and(Option::is_some) && !self.hot.contains(&place) {
                self.hot.push(place);
            }
        }
    }

    /// The port in a pod's place, if any.
    fn take_port(&mut self, place: Place) -> Option<espalier_xsk::Port> {
        let port = self.ports[place.index()].take()?;
        self.hot.retain(|hot| *hot != place);
        self.sending.retain(|sending| *sending != place);
        self.count_pods();
        // The socket may already be unusable; then epoll has dropped it by itself.
        let _removed = epoll::delete(&self.epoll, port.fd());
        Some(port.dismantle(&mut self.pool, &mut self.shard.counters))
    }

    fn put_port(&mut self, place: Place, port: espalier_xsk::Port) -> std::io::Result<()> {
        let port = WorkerPort::new(port);
        epoll::add(&self.epoll, port.fd(), place.as_event(), epoll::EventFlags::IN)?;
        self.ports[place.index()] = Some(port);
        self.count_pods();
        self.refill(place, usize::MAX);
        self.hot.push(place);
        Ok(())
    }

    /// Gives a port that received so many packets frames for others, as far as the rest can spare them.
    fn refill(&mut self, place: Place, received: usize) {
        let free = self.pool.available();
        let Some(port) = self.ports[place.index()].as_mut() else { return };
        if received == 0 && !self.shares.is_starved(port.in_fill()) {
            return;
        }
        let target = match place {
            Place::TRUNK => self.shares.of_trunk(),
            _ => self.shares.of_pod(port.in_fill(), received, free),
        };
        port.refill(&mut self.pool, target);
    }

    fn count_pods(&mut self) {
        self.shares.set_attached(self.ports.iter().skip(1).flatten().count());
    }

    /// Forgets some of a pod's flows; with the last of them everything else about it. Says whether it is done.
    fn free_slot(&mut self, slot: PodSlot) -> bool {
        let done = self.shard.flows.remove_pod(slot, REMOVAL_BUDGET);
        if done {
            step::forget_fragments(&mut self.shard, slot, &mut self.decided);
            self.carry_out();
            self.shard.links.forget(slot);
            self.shard.counters.reset_pod(slot);
        }
        done
    }
}
