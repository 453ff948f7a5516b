//! A station: the sockets on one interface and the frames behind them. Senders, sinks and reflectors each own one.
//!
//! Opened, run and dropped by one thread, in the interface's network namespace. Promises to take nothing in unless
//! asked to, and to leave the interface without its program and its sockets when dropped.

use std::ops::Range;
use std::time::Duration;

use espalier_xsk::ethtool::{self, Offload};
use espalier_xsk::{
    FramePool, Hugepages, Intake, InterfaceRef, MAX_FRAME_LEN, Packet, Port, PortConfig, PortStatistics,
    Umem, UmemConfig, XdpMode,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock;
use crate::endpoint::Endpoint;
use crate::error::PktgenError;

/// Packets moved at a time.
pub const BATCH: usize = 64;

/// Frames a receiving queue keeps with the kernel: what a receiver may fall behind by without loss.
const RECEIVE_RING: u32 = 8192;
/// Frames on their way out: more than the kernel takes before their sending is complete.
const SEND_RING: u32 = 2048;
const SEND_FRAMES: u32 = 4096;

/// A jumbo frame of two segments needs another in the middle of a batch.
const MOST_SEGMENTS: usize = 3;

/// What a station is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sending on one queue.
    Send {
        /// The queue.
        queue: u32,
    },
    /// Taking in every frame of every queue.
    Receive,
    /// Both.
    Both {
        /// The queue to send on.
        queue: u32,
    },
}

/// The sockets of one interface.
#[derive(Debug)]
pub struct Station {
    interface: InterfaceRef,
    umem: Umem,
    pool: FramePool,
    ports: Vec<Port>,
    intake: Option<Intake>,
    incoming: Vec<Packet>,
    outgoing: Vec<Packet>,
    /// The port that sends, by its place in `ports`.
    sender: usize,
}

impl Station {
    /// Opens the sockets on an interface of the calling thread's namespace.
    pub fn open(endpoint: &Endpoint, role: Role, mode: XdpMode) -> Result<Self, PktgenError> {
        let interface = endpoint.look_up()?;
        let (queues, sender) = queues(&interface, role)?;
        let receives = !matches!(role, Role::Send { .. });
        let per_queue = if receives { RECEIVE_RING } else { 0 };
        let config = UmemConfig {
            frames: SEND_FRAMES + queues.len() as u32 * per_queue,
            hugepages: Hugepages::Auto,
            fill_ring: RECEIVE_RING,
            completion_ring: SEND_RING,
        };
        let (umem, mut pool) = Umem::new(&config)?;
        let port = PortConfig {
            rx_ring: RECEIVE_RING,
            tx_ring: SEND_RING,
            keep_filled: per_queue,
            ..PortConfig::default()
        };
        let mut ports = Vec::new();
        for queue in queues {
            let mut port = Port::open(&umem, &interface, queue, &port)?;
            port.refill(&mut pool);
            ports.push(port);
        }
        let intake = if receives { Some(Intake::attach(&interface, mode, &ports)?) } else { None };
        let incoming = Vec::with_capacity(BATCH);
        let outgoing = Vec::with_capacity(BATCH);
        Ok(Self { interface, umem, pool, ports, intake, incoming, outgoing, sender })
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &InterfaceRef {
        &self.interface
    }

    /// How the intake is attached; none on a station that only sends.
    #[must_use]
    pub fn mode(&self) -> Option<XdpMode> {
        self.intake.as_ref().map(Intake::mode)
    }

    /// The sockets' counters, summed over the queues.
    #[must_use]
    pub fn statistics(&self) -> PortStatistics {
        let mut sum = PortStatistics::default();
        for counts in self.ports.iter().map(Port::statistics) {
            sum.rx_dropped += counts.rx_dropped;
            sum.rx_ring_full += counts.rx_ring_full;
            sum.rx_fill_ring_empty += counts.rx_fill_ring_empty;
            sum.rx_invalid_descs += counts.rx_invalid_descs;
            sum.tx_invalid_descs += counts.tx_invalid_descs;
            sum.tx_ring_empty += counts.tx_ring_empty;
            sum.bad_descriptors += counts.bad_descriptors;
            sum.rx_oversized += counts.rx_oversized;
            sum.tx_refused += counts.tx_refused;
        }
        sum
    }

    /// Takes in up to a batch from each queue and gives each packet's first bytes (all of it up to 3840), its length,
    /// and the time when its batch had been taken in. Returns how many packets there were.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8], usize, u64)) -> usize {
        let mut count = 0;
        for port in &mut self.ports {
            count += port.receive(&mut self.incoming, BATCH);
            let now = if self.incoming.is_empty() { 0 } else { clock::now() };
            for packet in self.incoming.drain(..) {
                take(self.umem.bytes(packet.head()), packet.len(), now);
                self.pool.free_packet(packet);
            }
            port.refill(&mut self.pool);
        }
        count
    }

    /// Takes in up to a batch from each queue, lets `change` rewrite the packet in place and tell its length, and sends
    /// back those for which it says true. Returns how many came and how many went back. While the TX ring is half
    /// full, nothing is taken in.
    pub fn reflect(
        &mut self,
        mut change: impl FnMut(&mut [u8], usize) -> bool,
    ) -> Result<(usize, usize), PktgenError> {
        let (mut came, mut went) = (0, 0);
        for port in &mut self.ports {
            port.complete(&mut self.pool);
            if port.unsent() < SEND_RING as usize / 2 {
                came += port.receive(&mut self.incoming, BATCH);
            }
            for mut packet in self.incoming.drain(..) {
                let length = packet.len();
                if change(self.umem.bytes_mut(packet.head_mut()), length) {
                    self.outgoing.push(packet);
                } else {
                    self.pool.free_packet(packet);
                }
            }
            went += port.send(&mut self.outgoing);
            // A batch always fits beside half a ring; jumbo segments may not, and are dropped then.
            for packet in self.outgoing.drain(..) {
                self.pool.free_packet(packet);
            }
            port.flush().map_err(PktgenError::system("send on the reflecting interface"))?;
            port.refill(&mut self.pool);
        }
        Ok((came, went))
    }

    /// Sleeps until a frame has come in, at most for `patience`.
    pub fn wait(&self, patience: Duration) -> Result<(), PktgenError> {
        let mut fds: Vec<PollFd<'_>> =
            self.ports.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
        let timeout = Timespec {
            tv_sec: patience.as_secs().cast_signed(),
            tv_nsec: i64::from(patience.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(PktgenError::system("wait for frames")(errno)),
        }
    }

    /// How many packets the sender may queue now: a batch, or fewer where frames are short.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.outgoing.is_empty() { BATCH.min(self.pool.available() / MOST_SEGMENTS) } else { 0 }
    }

    /// The same beside what is queued already.
    #[must_use]
    pub fn room_beside_queued(&self) -> usize {
        (BATCH - self.outgoing.len().min(BATCH)).min(self.pool.available() / MOST_SEGMENTS)
    }

    /// Queues a packet of `length` bytes whose first are `head`, and lets `finish` write into its first segment.
    /// Everything behind the head is zero. Call it at most [`Station::room`] times between two pushes.
    pub fn queue(&mut self, head: &[u8], length: usize, finish: impl FnOnce(&mut [u8])) {
        let mut finish = Some(finish);
        self.queue_segments(length, |at, bytes| {
            let held = head.len().saturating_sub(at).min(bytes.len());
            if held > 0 {
                bytes[..held].copy_from_slice(&head[at..at + held]);
            }
            bytes[held..].fill(0);
            if let Some(finish) = finish.take() {
                finish(bytes);
            }
        });
    }

    /// Queues a packet of these bytes, under the same condition.
    pub fn queue_bytes(&mut self, data: &[u8]) {
        self.queue_segments(data.len(), |at, bytes| bytes.copy_from_slice(&data[at..at + bytes.len()]));
    }

    /// Gives the kernel what is queued and takes back the frames it is done with. Returns the packets that went into
    /// the ring; see [`Station::unsent`] for what is still in it.
    pub fn push(&mut self) -> Result<usize, PktgenError> {
        let port = &mut self.ports[self.sender];
        port.complete(&mut self.pool);
        let taken = port.send(&mut self.outgoing);
        port.flush().map_err(PktgenError::system("send"))?;
        Ok(taken)
    }

    /// Packets and segments the kernel has not taken yet.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outgoing.len() + self.ports[self.sender].unsent()
    }

    fn queue_segments(&mut self, length: usize, mut write: impl FnMut(usize, &mut [u8])) {
        let mut packet: Option<Packet> = None;
        let mut at = 0;
        while at < length {
            let part = (length - at).min(MAX_FRAME_LEN);
            let Some(mut frame) = self.pool.alloc() else { break };
            if self.umem.set_len(&mut frame, part) {
                write(at, self.umem.bytes_mut(&mut frame));
            }
            packet = Some(match packet.take() {
                None => Packet::single(frame),
                Some(mut packet) => {
                    if let Err(frame) = self.umem.append(&mut packet, frame) {
                        self.pool.free(frame);
                    }
                    packet
                }
            });
            at += part;
        }
        self.outgoing.extend(packet);
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        drop(self.intake.take());
        let left = self.outgoing.drain(..).chain(self.incoming.drain(..));
        left.for_each(|packet| self.pool.free_packet(packet));
        for port in self.ports.drain(..) {
            port.close().into_iter().for_each(|frame| self.pool.free(frame));
        }
    }
}

/// The queues to open, and which of them sends, by its place.
fn queues(interface: &InterfaceRef, role: Role) -> Result<(Range<u32>, usize), PktgenError> {
    // A driver that does not tell its queues has one.
    let all = || 0..ethtool::channels(&interface.name).map_or(1, |channels| channels.rx);
    match role {
        Role::Send { queue } => Ok((queue..queue.saturating_add(1), 0)),
        Role::Receive => Ok((all(), 0)),
        Role::Both { queue } if all().contains(&queue) => Ok((all(), queue as usize)),
        Role::Both { queue } => {
            let (name, count) = (&interface.name, all().end);
            Err(PktgenError::Usage(format!("--queue {queue}: {name} has {count} queues, counted from 0")))
        }
    }
}

/// Makes the tag of sent frames part of their bytes: the other end of a veth could not see it otherwise.
pub fn keep_tags_in_frames(interface: &InterfaceRef) -> Result<(), PktgenError> {
    if interface.driver.as_deref() == Some("veth") {
        ethtool::set_offload(&interface.name, Offload::TxVlan, false)?;
    }
    Ok(())
}
