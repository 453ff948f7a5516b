//! What the manager asks of a worker, and the handle it asks with. Read by the worker between batches.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use espalier_api::Generation;
use espalier_xsk::{Frame, Port, PortStatistics};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Worker;
use super::flows::{FlowMatch, FlowStretch};
use super::port::{Place, WorkerPort};
use crate::clock;
use crate::counters::ShardCounters;
use crate::flow::ChangePage;
use crate::flow::{FlowRecord, PodSlot};
use crate::neighbour::HostEnd;
use crate::tables::Tables;

/// A request; each carries the channel of its reply.
pub enum Command {
    /// Use these tables from the next batch on; the reply is what was used before.
    Publish(Arc<Tables>, Sender<Option<Arc<Tables>>>),
    /// Poll this socket of the trunk.
    AttachTrunk(Port, Sender<std::io::Result<()>>),
    /// Poll this socket of a pod.
    Attach(PodSlot, HostEnd, Port, Sender<std::io::Result<()>>),
    /// Give back the socket of a pod (`None`: of the trunk).
    Detach(Option<PodSlot>, Sender<Option<Port>>),
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
    /// What the kernel counted for the trunk's socket.
    pub trunk: Option<PortStatistics>,
    /// What the kernel counted for the socket of each slot.
    pub pods: Vec<Option<PortStatistics>>,
    /// Live flows.
    pub flows: usize,
    /// Batches stepped.
    pub batches: u64,
    /// Times slept.
    pub sleeps: u64,
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

/// The worker's thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("worker {0} has stopped")]
pub struct WorkerGone(usize);

/// The other end of a worker; any thread may hold one.
#[derive(Clone)]
pub struct Handle {
    index: usize,
    core: Option<usize>,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl Handle {
    pub(super) fn new(index: usize, core: Option<usize>) -> std::io::Result<(Self, Receiver<Command>)> {
        let (commands, receiver) = unbounded();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Self { index, core, commands, wake }, receiver))
    }

    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(super) fn wake_owned(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }

    /// Its index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The core it is pinned to.
    pub fn core(&self) -> Option<usize> {
        self.core
    }

    /// Has the worker use new tables; returns the old ones once it does.
    pub fn publish(&self, tables: Arc<Tables>) -> Result<Option<Arc<Tables>>, WorkerGone> {
        self.ask(|reply| Command::Publish(tables, reply))
    }

    /// Has the worker poll a socket of the trunk.
    pub fn attach_trunk(&self, port: Port) -> Result<std::io::Result<()>, WorkerGone> {
        self.ask(|reply| Command::AttachTrunk(port, reply))
    }

    /// Has the worker poll a socket of a pod.
    pub fn attach(
        &self,
        slot: PodSlot,
        host: HostEnd,
        port: Port,
    ) -> Result<std::io::Result<()>, WorkerGone> {
        self.ask(|reply| Command::Attach(slot, host, port, reply))
    }

    /// Takes a socket away from the worker.
    pub fn detach(&self, slot: Option<PodSlot>) -> Result<Option<Port>, WorkerGone> {
        self.ask(|reply| Command::Detach(slot, reply))
    }

    /// Has the worker forget a pod, in steps between which it moves packets.
    pub fn free(&self, slot: PodSlot) -> Result<(), WorkerGone> {
        while !self.ask(|reply| Command::Free(slot, reply))? {}
        Ok(())
    }

    /// Gives frames to the worker.
    pub fn absorb(&self, frames: Vec<Frame>) -> Result<(), WorkerGone> {
        self.tell(Command::Absorb(frames))
    }

    /// The flows that fit, among `limit` entries from `cursor` on.
    pub fn list_flows(&self, filter: FlowMatch, cursor: u32, limit: u32) -> Result<FlowStretch, WorkerGone> {
        self.ask(|reply| Command::ListFlows(filter, cursor, limit, reply))
    }

    /// Ends the flows that fit, among `limit` entries from `cursor` on. Returns how many, and where to go on.
    pub fn drop_flows(
        &self,
        filter: FlowMatch,
        cursor: u32,
        limit: u32,
    ) -> Result<(u64, Option<u32>), WorkerGone> {
        self.ask(|reply| Command::DropFlows(filter, cursor, limit, reply))
    }

    /// Fills a page with changed flows. Says whether there are more.
    pub fn take_changes(&self, page: Box<ChangePage>) -> Result<(Box<ChangePage>, bool), WorkerGone> {
        self.ask(|reply| Command::TakeChanges(page, reply))
    }

    /// Enters flows of an earlier life. Returns how many were taken.
    pub fn restore_flows(&self, flows: Vec<FlowRecord>) -> Result<u64, WorkerGone> {
        self.ask(|reply| Command::RestoreFlows(flows, reply))
    }

    /// The worker's state.
    pub fn report(&self) -> Result<Box<Report>, WorkerGone> {
        self.ask(Command::Report)
    }

    /// Ends the worker.
    pub fn stop(&self) -> Result<(), WorkerGone> {
        self.tell(Command::Stop)
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, WorkerGone> {
        let (reply, answer) = bounded(1);
        self.tell(command(reply))?;
        answer.recv().map_err(|_| WorkerGone(self.index))
    }

    fn tell(&self, command: Command) -> Result<(), WorkerGone> {
        self.commands.send(command).map_err(|_| WorkerGone(self.index))?;
        // Only an overflowing counter fails, and then the worker has been woken already.
        let _woken = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }
}

impl Worker {
    /// Does what was asked since the last batch. `false`: the thread ends. A reply nobody waits for is dropped.
    pub(super) fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Publish(tables, reply) => {
                    let _sent = reply.send(self.adopt(tables));
                }
                Command::AttachTrunk(port, reply) => {
                    let _sent = reply.send(self.put_port(Place::TRUNK, port));
                }
                Command::Attach(slot, host, port, reply) => {
                    let done = self.put_port(Place::of(Some(slot)), port);
                    self.shard.links.attached(slot, host);
                    let _sent = reply.send(done);
                }
                Command::Detach(slot, reply) => {
                    let port = self.take_port(Place::of(slot));
                    if let Some(slot) = slot {
                        self.shard.links.detached(slot);
                    }
                    let _sent = reply.send(port);
                }
                Command::Free(slot, reply) => {
                    let _sent = reply.send(self.free_slot(slot));
                }
                Command::Absorb(frames) => frames.into_iter().for_each(|frame| self.pool.free(frame)),
                Command::ListFlows(filter, cursor, limit, reply) => {
                    let _sent = reply.send(self.list_flows(&filter, cursor, limit, clock::now()));
                }
                Command::DropFlows(filter, cursor, limit, reply) => {
                    let _sent = reply.send(self.drop_flows(&filter, cursor, limit, clock::now()));
                }
                Command::TakeChanges(mut page, reply) => {
                    let more = self.shard.flows.take_changes(clock::now(), &mut page);
                    let _sent = reply.send((page, more));
                }
                Command::RestoreFlows(flows, reply) => {
                    let _sent = reply.send(self.restore_flows(&flows, clock::now()));
                }
                Command::Report(reply) => {
                    let _sent = reply.send(Box::new(self.report()));
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn adopt(&mut self, tables: Arc<Tables>) -> Option<Arc<Tables>> {
        for (slot, pod) in tables.pods() {
            self.shard.flows.set_timeouts(slot, pod.timeouts);
            self.shard.links.ask_again(slot);
        }
        self.tables.replace(tables)
    }

    fn report(&self) -> Report {
        let mut statistics = self.ports.iter().map(|port| port.as_ref().map(WorkerPort::statistics));
        Report {
            trunk: statistics.next().flatten(),
            pods: statistics.collect(),
            generation: self.tables.as_ref().map(|tables| tables.generation),
            counters: self.shard.counters.clone(),
            links: self.link_reports(),
            flows: self.shard.flows.len(),
            batches: self.batches,
            sleeps: self.sleeps,
        }
    }

    fn link_reports(&self) -> Vec<LinkReport> {
        let mut reports = vec![LinkReport::default(); self.ports.len() - 1];
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
