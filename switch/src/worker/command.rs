//! What the manager asks of a worker, and the handle it asks with. Read by the worker between batches.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use espalier_api::Generation;
use espalier_xsk::{Frame, Port, PortStatistics};

use super::Worker;
use super::accounts::AccountsPart;
use super::doorbell::Doorbell;
use super::flows::{FlowMatch, FlowStretch};
use super::moving::{Luggage, Settled};
use super::pace::{Pace, RingDepths};
use super::port::{Place, WorkerPort};
use crate::clock;
use crate::counters::ShardCounters;
use crate::facts::{Listeners, Tellers, rings};
use crate::flow::{Accounts, ChangePage, FlowRecord, PodSlot};
use crate::neighbour::HostEnd;
use crate::observe::{Observer, Watch};
use crate::step::{self, From, Presence, Traced};
use crate::tables::Tables;

/// How long a worker may take to answer. It reads commands every few batches.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to tell how it is: whoever asks wants to know that it does not answer, too.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);

/// A request; each carries the channel of its reply.
pub enum Command {
    /// Use these tables from the next batch on; the reply is what was used before.
    Publish(Arc<Tables>, Sender<Option<Arc<Tables>>>),
    /// Poll this socket of the trunk, one of so many that all workers have.
    AttachTrunk(Port, usize, Sender<std::io::Result<()>>),
    /// Poll this socket of a pod.
    Attach(PodSlot, HostEnd, Port, Sender<std::io::Result<()>>),
    /// Give back the sockets of the trunk.
    DetachTrunk(Sender<Vec<Port>>),
    /// Give back the socket of a pod.
    Detach(PodSlot, Sender<Option<Port>>),
    /// Deal with all that other workers have handed over so far.
    Drain(Sender<()>),
    /// Hold the packets of a pod that is about to come.
    Hold(PodSlot, Sender<()>),
    /// Give up a pod whose home is elsewhere now.
    Release(PodSlot, Sender<Box<Luggage>>),
    /// Give up so many flows of the pod.
    TakeFlows(PodSlot, usize, Sender<Vec<FlowRecord>>),
    /// Take in a pod that was held for.
    Settle(PodSlot, Box<Luggage>, Sender<Settled>),
    /// The pod is gone for good: forget its flows, neighbours and counters. The reply says whether that is all done;
    /// if not, ask again.
    Free(PodSlot, Sender<bool>),
    /// Frames of a closed port.
    Absorb(Vec<Frame>),
    /// Show the flows that fit, among so many entries from a cursor on.
    ListFlows(FlowMatch, u32, u32, Sender<FlowStretch>),
    /// End the flows that fit, among so many entries from a cursor on; the reply is how many, and where to go on.
    DropFlows(FlowMatch, u32, u32, Sender<(u64, Option<u32>)>),
    /// Copy changed flows into the page; the reply says whether there are more.
    TakeChanges(Box<ChangePage>, Sender<(Box<ChangePage>, bool)>),
    /// Enter flows of an earlier life; the reply is how many were taken.
    RestoreFlows(Vec<FlowRecord>, Sender<u64>),
    /// Show every packet to this observer from now on, for as long as it wants.
    Watch(Box<dyn Observer>, Sender<()>),
    /// Tell what would become of this frame.
    Trace(From, Vec<u8>, Sender<Option<Traced>>),
    /// Tell of flows and packets from now on, or tell nobody.
    Listen(Option<Tellers>, Sender<()>),
    /// Tell what the rules have let pass.
    Accounts(AccountsPart, Sender<Option<Accounts>>),
    /// Tell the counters.
    Report(Sender<Box<Report>>),
    /// End the thread.
    Stop,
}

/// A worker's state at a batch boundary.
pub struct Report {
    /// The generation in use.
    pub generation: Option<Generation>,
    /// Counters.
    pub counters: ShardCounters,
    /// What it knows of each slot.
    pub links: Vec<LinkReport>,
    /// The trunk's queues it serves, and what the kernel counted for their sockets.
    pub trunk: Vec<(u32, PortStatistics)>,
    /// What the kernel counted for the socket of each slot.
    pub pods: Vec<Option<PortStatistics>>,
    /// Live flows.
    pub flows: usize,
    /// Batches stepped.
    pub batches: u64,
    /// Times slept.
    pub sleeps: u64,
    /// How long packets take it.
    pub pace: Pace,
    /// What waits in its rings.
    pub rings: RingDepths,
}

/// What a worker knows of the neighbours of one branch.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkReport {
    /// MAC of the pod's interface.
    pub pod_mac: Option<[u8; 6]>,
    /// MAC of the next hop; of IPv4's where they differ.
    pub gateway_mac: Option<[u8; 6]>,
    /// Whether the next hop is known for every family the pod has.
    pub gateway_resolved: bool,
}

/// A worker did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerFailed {
    /// Its thread has ended.
    #[error("worker {0} has stopped")]
    Gone(usize),
    /// It does not answer.
    #[error("worker {0} has not answered for {1:?}: it is stalled; if it stays so, restart espalier-switch")]
    Silent(usize, Duration),
}

/// The other end of a worker; any thread may hold one.
#[derive(Clone)]
pub struct Handle {
    index: usize,
    core: Option<usize>,
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
}

/// An answer that is on its way.
pub(super) struct Pending<T> {
    index: usize,
    answer: Receiver<T>,
}

impl<T> Pending<T> {
    /// Waits for it.
    pub(super) fn wait(self, patience: Duration) -> Result<T, WorkerFailed> {
        self.answer.recv_timeout(patience).map_err(|error| match error.is_timeout() {
            true => WorkerFailed::Silent(self.index, patience),
            false => WorkerFailed::Gone(self.index),
        })
    }
}

impl Pending<Box<Report>> {
    pub(super) fn report(self) -> Result<Box<Report>, WorkerFailed> {
        self.wait(REPORT_PATIENCE)
    }
}

impl Handle {
    pub(super) fn new(index: usize, core: Option<usize>, bell: Arc<Doorbell>) -> (Self, Receiver<Command>) {
        let (commands, receiver) = unbounded();
        (Self { index, core, commands, bell }, receiver)
    }

    /// Its index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The core it is pinned to.
    pub fn core(&self) -> Option<usize> {
        self.core
    }

    /// Its shared face.
    pub fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Has the worker poll a socket of the trunk, one of `all` there are.
    pub fn attach_trunk(&self, port: Port, all: usize) -> Result<std::io::Result<()>, WorkerFailed> {
        self.ask(|reply| Command::AttachTrunk(port, all, reply))
    }

    /// Has the worker poll a socket of a pod.
    pub fn attach(
        &self,
        slot: PodSlot,
        host: HostEnd,
        port: Port,
    ) -> Result<std::io::Result<()>, WorkerFailed> {
        self.ask(|reply| Command::Attach(slot, host, port, reply))
    }

    /// Takes a pod's socket away from the worker.
    pub fn detach(&self, slot: PodSlot) -> Result<Option<Port>, WorkerFailed> {
        self.ask(|reply| Command::Detach(slot, reply))
    }

    /// Takes the trunk's sockets away from the worker.
    pub fn detach_trunk(&self) -> Result<Vec<Port>, WorkerFailed> {
        self.ask(Command::DetachTrunk)
    }

    /// Has the worker forget a pod, in steps between which it moves packets.
    pub fn free(&self, slot: PodSlot) -> Result<(), WorkerFailed> {
        while !self.ask(|reply| Command::Free(slot, reply))? {}
        Ok(())
    }

    /// Has the worker hold the packets of a pod that is about to come.
    pub fn hold(&self, slot: PodSlot) -> Result<(), WorkerFailed> {
        self.ask(|reply| Command::Hold(slot, reply))
    }

    /// Has the worker give up a pod.
    pub fn release(&self, slot: PodSlot) -> Result<Box<Luggage>, WorkerFailed> {
        self.ask(|reply| Command::Release(slot, reply))
    }

    /// Up to `budget` flows of a pod, taken out; none when there are no more.
    pub fn take_flows(&self, slot: PodSlot, budget: usize) -> Result<Vec<FlowRecord>, WorkerFailed> {
        self.ask(|reply| Command::TakeFlows(slot, budget, reply))
    }

    /// Has the worker take in a pod.
    pub fn settle(&self, slot: PodSlot, luggage: Box<Luggage>) -> Result<Settled, WorkerFailed> {
        self.ask(|reply| Command::Settle(slot, luggage, reply))
    }

    /// Gives frames to the worker.
    pub fn absorb(&self, frames: Vec<Frame>) -> Result<(), WorkerFailed> {
        self.tell(Command::Absorb(frames))
    }

    /// The flows that fit, among `limit` entries from `cursor` on.
    pub fn list_flows(
        &self,
        filter: FlowMatch,
        cursor: u32,
        limit: u32,
    ) -> Result<FlowStretch, WorkerFailed> {
        self.ask(|reply| Command::ListFlows(filter, cursor, limit, reply))
    }

    /// Ends the flows that fit, among `limit` entries from `cursor` on. Returns how many, and where to go on.
    pub fn drop_flows(
        &self,
        filter: FlowMatch,
        cursor: u32,
        limit: u32,
    ) -> Result<(u64, Option<u32>), WorkerFailed> {
        self.ask(|reply| Command::DropFlows(filter, cursor, limit, reply))
    }

    /// Fills a page with changed flows. Says whether there are more.
    pub fn take_changes(&self, page: Box<ChangePage>) -> Result<(Box<ChangePage>, bool), WorkerFailed> {
        self.ask(|reply| Command::TakeChanges(page, reply))
    }

    /// Enters flows of an earlier life, or of another worker. Returns how many were taken.
    pub fn restore_flows(&self, flows: Vec<FlowRecord>) -> Result<u64, WorkerFailed> {
        self.ask(|reply| Command::RestoreFlows(flows, reply))
    }

    /// Has the worker show its packets to an observer, for as long as that wants to see more.
    pub fn watch(&self, observer: Box<dyn Observer>) -> Result<(), WorkerFailed> {
        self.ask(|reply| Command::Watch(observer, reply))
    }

    /// What would become of the frame, by the worker's present tables and flows; nothing without tables.
    pub fn trace(&self, from: From, frame: Vec<u8>) -> Result<Option<Traced>, WorkerFailed> {
        self.ask(|reply| Command::Trace(from, frame, reply))
    }

    /// Listens to what the worker tells, through rings with room for so many facts of each kind. Whoever listened before
    /// does not any more.
    pub fn listen(&self, capacity: usize) -> Result<Listeners, WorkerFailed> {
        let (tellers, listeners) = rings(capacity);
        self.ask(|reply| Command::Listen(Some(tellers), reply))?;
        Ok(listeners)
    }

    /// Has the worker tell nobody any more.
    pub fn hush(&self) -> Result<(), WorkerFailed> {
        self.ask(|reply| Command::Listen(None, reply))
    }

    /// The worker's state.
    pub fn report(&self) -> Result<Box<Report>, WorkerFailed> {
        self.begin_report()?.report()
    }

    pub(super) fn begin_report(&self) -> Result<Pending<Box<Report>>, WorkerFailed> {
        self.begin(Command::Report)
    }

    /// Ends the worker.
    pub fn stop(&self) -> Result<(), WorkerFailed> {
        self.tell(Command::Stop)
    }

    pub(super) fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, WorkerFailed> {
        self.begin(command)?.wait(PATIENCE)
    }

    /// Asks, without waiting for the answer.
    pub(super) fn begin<T>(
        &self,
        command: impl FnOnce(Sender<T>) -> Command,
    ) -> Result<Pending<T>, WorkerFailed> {
        let (reply, answer) = bounded(1);
        self.tell(command(reply))?;
        Ok(Pending { index: self.index, answer })
    }

    fn tell(&self, command: Command) -> Result<(), WorkerFailed> {
        self.commands.send(command).map_err(|_| WorkerFailed::Gone(self.index))?;
        self.bell.ring();
        Ok(())
    }
}

/// Asks all workers the same and waits for every answer, in their order.
pub(super) fn ask_all<T>(
    handles: &[Handle],
    command: impl Fn(Sender<T>) -> Command,
) -> Result<Vec<T>, WorkerFailed> {
    let pending: Vec<_> = handles.iter().map(|handle| handle.begin(&command)).collect::<Result<_, _>>()?;
    pending.into_iter().map(|answer| answer.wait(PATIENCE)).collect()
}

impl Worker {
    /// Does what was asked since the last batch. `false`: the thread ends.
    pub(super) fn obey(&mut self) -> bool {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return true,
                // Nobody is left to ask it to end.
                Err(TryRecvError::Disconnected) => return false,
            };
            match command {
                Command::Publish(tables, reply) => answer(reply, self.adopt(tables)),
                Command::AttachTrunk(port, all, reply) => answer(reply, self.put_trunk(port, all)),
                Command::DetachTrunk(reply) => answer(reply, self.take_trunk()),
                Command::Drain(reply) => {
                    self.drain(clock::now());
                    answer(reply, ());
                }
                Command::Hold(slot, reply) => {
                    self.hold(slot);
                    answer(reply, ());
                }
                Command::Release(slot, reply) => answer(reply, Box::new(self.release(slot))),
                Command::TakeFlows(slot, budget, reply) => answer(reply, self.take_flows(slot, budget)),
                Command::Settle(slot, luggage, reply) => answer(reply, self.settle(slot, *luggage)),
                Command::Attach(slot, host, port, reply) => {
                    let done = self.put_port(Place::of(Some(slot)), port);
                    self.shard.links.attached(slot, host);
                    self.arrive(slot);
                    answer(reply, done);
                }
                Command::Detach(slot, reply) => {
                    let port = self.take_port(Place::of(Some(slot)));
                    self.shard.links.detached(slot);
                    answer(reply, port);
                }
                Command::Free(slot, reply) => answer(reply, self.free_slot(slot)),
                Command::Absorb(frames) => frames.into_iter().for_each(|frame| self.pool.free(frame)),
                Command::ListFlows(filter, cursor, limit, reply) => {
                    answer(reply, self.list_flows(&filter, cursor, limit, clock::now()))
                }
                Command::DropFlows(filter, cursor, limit, reply) => {
                    answer(reply, self.drop_flows(&filter, cursor, limit, clock::now()))
                }
                Command::TakeChanges(mut page, reply) => {
                    let more = self.shard.flows.take_changes(clock::now(), &mut page);
                    answer(reply, (page, more));
                }
                Command::RestoreFlows(flows, reply) => {
                    answer(reply, self.restore_flows(&flows, clock::now()))
                }
                Command::Watch(observer, reply) => {
                    match &mut self.shard.watch {
                        Some(watch) => watch.add(observer),
                        None => self.shard.watch = Some(Box::new(Watch::new(observer))),
                    }
                    answer(reply, ());
                }
                Command::Trace(from, frame, reply) => {
                    let tables = self.tables.as_deref();
                    let now = clock::now();
                    answer(reply, tables.map(|tables| step::trace(&self.shard, tables, now, from, frame)));
                }
                Command::Listen(tellers, reply) => {
                    let (ended, packets) =
                        tellers.map_or((None, None), |tellers| (Some(tellers.ended), Some(tellers.packets)));
                    self.shard.flows.ended = ended;
                    self.shard.facts = packets;
                    answer(reply, ());
                }
                Command::Accounts(part, reply) => self.tell_accounts(part, &reply),
                Command::Report(reply) => answer(reply, Box::new(self.report())),
                Command::Stop => return false,
            }
        }
    }

    fn adopt(&mut self, tables: Arc<Tables>) -> Option<Arc<Tables>> {
        for (slot, pod) in tables.pods() {
            self.shard.flows.set_timeouts(slot, pod.timeouts);
            let presence = &mut self.shard.presence[slot.index()];
            if *presence == Presence::Away && tables.home(slot) == self.index {
                *presence = Presence::Here;
            }
            // One whose home is elsewhere by these tables is on its way there, and still here until it is asked for.
            if *presence == Presence::Here {
                self.shard.links.ask_again(slot);
            }
        }
        self.tables.replace(tables)
    }

    fn report(&self) -> Report {
        Report {
            trunk: self.ports.trunk.iter().map(|port| (port.queue(), port.statistics())).collect(),
            pods: self.ports.pods.iter().map(|port| port.as_ref().map(WorkerPort::statistics)).collect(),
            generation: self.tables.as_ref().map(|tables| tables.generation),
            counters: self.shard.counters.clone(),
            links: self.link_reports(),
            flows: self.shard.flows.len(),
            batches: self.batches,
            sleeps: self.sleeps,
            pace: self.pace.clone(),
            rings: self.ring_depths(),
        }
    }

    fn link_reports(&self) -> Vec<LinkReport> {
        let mut reports = vec![LinkReport::default(); self.ports.pods.len()];
        for (slot, pod) in self.tables.iter().flat_map(|tables| tables.pods()) {
            let link = self.shard.links.link(slot);
            reports[slot.index()] = LinkReport {
                pod_mac: link.pod_mac,
                gateway_mac: pod
                    .addresses
                    .iter()
                    .find_map(|address| link.gateway_mac(pod, *address))
                    .copied(),
                gateway_resolved: link.gateway_is_resolved(pod),
            };
        }
        reports
    }
}

/// Replies; nobody may wait for it any more.
fn answer<T>(reply: Sender<T>, value: T) {
    let _sent = reply.send(value);
}
