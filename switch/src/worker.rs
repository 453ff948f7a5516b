//! One pinned thread that owns queues of the trunk, its pods' ports, flows and counters, and moves their packets.
//!
//! The manager talks to a worker over a channel that is read between batches, and a table is given back when the next one
//! is in use, so whoever publishes knows that the grace period is over. With other workers it shares rings (`handover`)
//! and spare frames, nothing else. Ports with traffic, of either way, are polled; idle ones wait in epoll and cost nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use espalier_xsk::{FramePool, Packet, Umem};
use rtrb::Consumer;
use rustix::event::epoll;
use rustix::fd::OwnedFd;

use crate::clock;
use crate::flow::{Now, PodSlot};
use crate::reason::DropReason;
use crate::step::{self, Decided, From, Outcome, Presence, Shard};
use crate::tables::Tables;

mod accounts;
mod command;
mod crew;
mod doorbell;
mod fair;
mod flows;
pub mod handover;
mod memory;
mod moving;
mod pace;
mod port;
mod shares;
mod start;

pub use command::{Command, Handle, LinkReport, Report, WorkerFailed};
pub use crew::{Crew, CrewConfig, CrewError};
pub use doorbell::Doorbell;
pub use flows::{FlowMatch, FlowStretch, RuleSpan};
use handover::Rings;
pub use moving::{Luggage, Settled};
pub use pace::{Pace, RingDepths};
use port::{Cargo, Place, Ports, Sink, WorkerPort};
use shares::FrameShares;
pub use shares::SharesError;
pub use start::WorkerConfig;

/// Packets taken from one port at a time.
const BATCH: usize = 64;
/// Batches of a round, which the ports with traffic share; each has one at least. What is sent goes to the kernel at the end
/// of a round: a port that is alone has the way there and back for more packets at once, and none waits long for others.
const BATCHES_A_ROUND: usize = 4;
/// Busy rounds between two looks at the ports that wait in epoll and at the commands.
const ROUNDS_PER_LOOK: u32 = 8;
/// Flow entries looked at for expiry in a round.
const SWEEP_BUDGET: usize = 64;
/// Flows of a pod that is gone, forgotten between two batches.
const REMOVAL_BUDGET: usize = 1024;
const LONGEST_SLEEP: Duration = Duration::from_millis(250);
/// Sleep while the kernel has packets that it has not sent, or has not given back.
const UNSENT_SLEEP: Duration = Duration::from_micros(500);

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
    index: usize,
    umem: Umem,
    pool: FramePool,
    shard: Shard<Packet>,
    decided: Decided<Packet>,
    tables: Option<Arc<Tables>>,
    ports: Ports,
    rings: Rings<Packet>,
    /// Packets that wait for their pod to come here.
    held: HashMap<PodSlot, VecDeque<Packet>>,
    /// Packets that others handed over; none between two rounds.
    handed: Vec<Packet>,
    /// Packets for a pod that came here while they were under way.
    late: Vec<Packet>,
    /// Places of the ports that are polled.
    hot: Vec<Place>,
    /// Places of the ports that have packets to send or to reclaim.
    sending: Vec<Place>,
    commands: Receiver<Command>,
    bell: Arc<Doorbell>,
    epoll: OwnedFd,
    spin: Duration,
    shares: FrameShares,
    received: Vec<Packet>,
    /// Of what was received, what is for pods at home here.
    own: Vec<Packet>,
    /// Ports that had packets in the last round; what other workers handed over counts as one.
    busy: usize,
    batches: u64,
    sleeps: u64,
    pace: Pace,
}

/// What a round found to do.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Round {
    Busy,
    Idle,
}

impl Worker {
    /// The life of the thread, until it is told to end.
    fn run(mut self) {
        let mut idle_since = None;
        let mut rounds = 0;
        loop {
            let now = clock::now();
            self.bell.beat(now);
            if rounds == 0 {
                if !self.obey() {
                    self.let_go();
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
        let turn = (BATCHES_A_ROUND / self.busy.max(1)).max(1);
        self.fetch_handed(turn);
        self.busy = usize::from(!self.handed.is_empty());
        let mut index = 0;
        while let Some(place) = self.hot.get(index).copied() {
            match self.receive(place, turn, now) {
                0 if self.rests(place) => {
                    self.hot.swap_remove(index);
                }
                received => {
                    self.busy += usize::from(received > 0);
                    index += 1;
                }
            }
        }
        let busy = self.take_over(now) | (self.busy > 0);
        if let Some(tables) = &self.tables {
            self.shard.links.ask(tables, now, |frame| self.shard.originated.push(frame));
            step::expire(&self.umem, &mut self.shard, tables, now, &mut self.decided);
        }
        self.carry_out();
        self.queue_originated();
        self.transmit();
        self.shard.flows.sweep(now, SWEEP_BUDGET);
        if busy { Round::Busy } else { Round::Idle }
    }

    /// Leaves a port that has nothing to do to epoll, if it can be. Without frames to receive into it would never wake
    /// anybody.
    fn rests(&mut self, place: Place) -> bool {
        let Some(port) = self.ports.get_mut(place) else { return true };
        !self.shares.is_starved(port.in_fill()) && port.cools(&self.epoll, place)
    }

    /// Takes up to `turn` batches from a port through the step. Returns how many packets there were.
    fn receive(&mut self, place: Place, turn: usize, now: Now) -> usize {
        let mut count = 0;
        for _ in 0..turn {
            let batch = self.receive_batch(place, now);
            count += batch;
            if batch < BATCH {
                break;
            }
        }
        count
    }

    /// Takes one batch from a port through the step. Returns how many packets there were.
    fn receive_batch(&mut self, place: Place, now: Now) -> usize {
        let Some(port) = self.ports.get_mut(place) else { return 0 };
        let mut received = std::mem::take(&mut self.received);
        let count = port.receive(&mut received, BATCH);
        port.unwatch_if_busy(&self.epoll);
        if count > 0 {
            self.batches += 1;
            // Another core wrote them: their headers are asked for together, instead of waiting for each in turn.
            received.iter().for_each(|packet| place.prefetch(&self.umem, packet));
            if place.slot().is_none() && !self.rings.from.is_empty() {
                self.sort_out(place, &mut received);
            }
            self.step(&mut received, |umem, packet| place.from(umem, packet), now);
        }
        self.received = received;
        self.refill(place, count);
        count
    }

    /// Takes packets through the step, and carries out what it decides.
    fn step(&mut self, packets: &mut Vec<Packet>, from: impl Fn(&Umem, &Packet) -> From, now: Now) {
        let timed = Pace::begin(self.batches, packets.len());
        let (shard, decided) = (&mut self.shard, &mut self.decided);
        let from = |packet: &Packet| from(&self.umem, packet);
        match &self.tables {
            Some(tables) => step::step(&self.umem, shard, tables, now, from, packets, decided),
            None => step::without_tables(&self.umem, shard, from, packets, decided),
        }
        self.carry_out();
        if let Some(timed) = timed {
            self.pace.end(timed);
        }
    }

    /// Does with the packets what the step decided.
    fn carry_out(&mut self) {
        let mut decided = std::mem::take(&mut self.decided);
        for (packet, outcome) in decided.drain(..) {
            match outcome {
                Outcome::Forward(exit) => {
                    let cargo = Cargo::Forwarded { exit, bytes: packet.len() as u32 };
                    self.enqueue(Place::of(exit.pod()), packet, cargo);
                }
                Outcome::HandOver { to } => {
                    let home = self.tables.as_ref().map_or(self.index, |tables| tables.home(to));
                    self.hand_over(to, home, packet);
                }
                Outcome::Consumed | Outcome::Drop(_) => self.pool.free_packet(packet),
            }
        }
        self.decided = decided;
        let mut sink = Sink { shard: &mut self.shard, pool: &mut self.pool, umem: &self.umem };
        for outlet in self.rings.to.iter_mut().flatten() {
            let handed = outlet.flush(|packet, blame| sink.drop(packet, blame, DropReason::HandoverRingFull));
            sink.shard.counters.handed_out(handed);
        }
    }

    fn sink(&mut self) -> Sink<'_> {
        Sink { shard: &mut self.shard, pool: &mut self.pool, umem: &self.umem }
    }

    fn enqueue(&mut self, place: Place, packet: Packet, cargo: Cargo) {
        match self.ports.get_mut(place) {
            Some(port) => {
                if port.enqueue(packet, cargo) {
                    self.sending.push(place);
                }
                if port.poll() {
                    self.hot.push(place);
                }
            }
            None => self.sink().lose(packet, cargo, DropReason::PortDown),
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
            let mut sink = Sink { shard: &mut self.shard, pool: &mut self.pool, umem: &self.umem };
            let port = self.ports.get_mut(place);
            if port.is_some_and(|port| port.transmit(&mut sink, place)) {
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
        self.bell.lies_down();
        if self.rings.from.iter().all(Consumer::is_empty) {
            self.sleeps += 1;
            for place in &self.hot {
                if let Some(port) = self.ports.get_mut(*place) {
                    // One that epoll does not take is polled when the sleep is over.
                    let _watched = port.watch(&self.epoll, *place);
                }
            }
            self.look(pause);
        }
        self.bell.gets_up();
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
                // The commands are read by `obey`, the rings by `take_over`.
                self.bell.hush();
                continue;
            }
            if self.ports.get_mut(place).is_some_and(WorkerPort::poll) {
                self.hot.push(place);
            }
        }
    }

    /// The port in a pod's place, if any.
    fn take_port(&mut self, place: Place) -> Option<espalier_xsk::Port> {
        let port = self.ports.pods.get_mut(place.slot()?.index())?.take()?;
        self.shares.detached();
        Some(self.part_with(place, port))
    }

    /// All sockets of the trunk.
    fn take_trunk(&mut self) -> Vec<espalier_xsk::Port> {
        let ports = std::mem::take(&mut self.ports.trunk);
        ports.into_iter().enumerate().map(|(nth, port)| self.part_with(Place::trunk(nth), port)).collect()
    }

    fn part_with(&mut self, place: Place, port: WorkerPort) -> espalier_xsk::Port {
        self.hot.retain(|hot| *hot != place);
        self.sending.retain(|sending| *sending != place);
        // The socket may already be unusable; then epoll has dropped it by itself.
        let _removed = epoll::delete(&self.epoll, port.fd());
        port.dismantle(&mut self.sink())
    }

    /// Takes a socket of a pod, or one of the trunk's, into its place.
    fn put_port(&mut self, place: Place, port: espalier_xsk::Port) -> std::io::Result<()> {
        let mut port = WorkerPort::new(port);
        port.watch(&self.epoll, place)?;
        port.poll();
        if port.resume() {
            self.sending.push(place);
        }
        match place.slot() {
            Some(slot) => {
                self.ports.pods[slot.index()] = Some(port);
                self.shares.attached();
            }
            None => self.ports.trunk.push(port),
        }
        self.refill(place, usize::MAX);
        self.hot.push(place);
        Ok(())
    }

    fn put_trunk(&mut self, port: espalier_xsk::Port, of: usize) -> std::io::Result<()> {
        self.shares.set_trunk_queues(of);
        self.put_port(Place::trunk(self.ports.trunk.len()), port)
    }

    /// Gives a port that received so many packets frames for others, as far as the rest can spare them.
    fn refill(&mut self, place: Place, received: usize) {
        let free = self.pool.available();
        let Some(port) = self.ports.get_mut(place) else { return };
        if received == 0 && !self.shares.is_starved(port.in_fill()) {
            return;
        }
        let target = match place.slot() {
            None => self.shares.of_trunk(),
            Some(_) => self.shares.of_pod(port.in_fill(), received, free),
        };
        port.refill(&mut self.pool, target);
    }

    /// Forgets some of a pod's flows; with the last of them everything else about it. Says whether it is done.
    fn free_slot(&mut self, slot: PodSlot) -> bool {
        let done = self.shard.flows.remove_pod(slot, REMOVAL_BUDGET);
        if done {
            step::forget_fragments(&self.umem, &mut self.shard, clock::now(), slot, &mut self.decided);
            self.carry_out();
            self.shard.links.forget(slot);
            self.shard.counters.reset_pod(slot);
            self.shard.presence[slot.index()] = Presence::Away;
        }
        done
    }
}
