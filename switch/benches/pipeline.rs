//! Whole workers without the kernel: `pipeline/<what>/<workers>`, packets of the trunk through hand-over and step.
//!
//! Each worker has a queue of the trunk and is the home of its pods. `own`: each packet comes on its home's queue;
//! `crossing`: half of them on another's, as RSS has it with two. The UMEM and its pools, the rings, the doorbells and the
//! step are the switch's; in place of the kernel the worker writes the frames. What two workers take together, against one
//! that has all, is how they scale. Needs root, for the UMEM.

#[path = "../tests/step/harness.rs"]
#[expect(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared with the tests")]
mod harness;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use espalier_pktgen::endpoint::pin;
use espalier_switch::counters::Blame;
use espalier_switch::flow::fragment::{FragmentConfig, Fragments};
use espalier_switch::flow::{FlowConfig, FlowTable, Now, PodSlot};
use espalier_switch::step::{self, Decided, From, Handed, Outcome, Presence, Shard, ShardParts};
use espalier_switch::tables::Tables;
use espalier_switch::worker::Doorbell;
use espalier_switch::worker::handover::{Rings, rings};
use espalier_xsk::{FramePool, Packet, Umem, UmemConfig};
use harness::*;

const BATCH: usize = 64;
/// Established flows of each pod.
const FLOWS: u16 = 4096;
/// The pods, each at home with another worker where there are two.
const SLOTS: [PodSlot; 2] = [WEB, DB];

/// A worker: what it receives, its shard, and its ends of the rings. No line is shared with the next one's.
#[repr(align(128))]
struct Worker {
    index: usize,
    tables: Tables,
    shard: Shard<Packet>,
    now: Now,
    umem: Umem,
    pool: FramePool,
    rings: Rings<Packet>,
    /// What comes on its queue, again and again.
    source: Vec<Vec<u8>>,
    at: usize,
    decided: Decided<Packet>,
    batch: Vec<Packet>,
    handed: Vec<Packet>,
    done: u64,
}

/// The pod a frame is for.
fn pod_of(frame: &[u8]) -> PodSlot {
    SLOTS[usize::from(frame[5]) - 1]
}

/// A shard that knows the flows of both pods, and a packet of each.
fn established() -> (Bench, Vec<Vec<u8>>) {
    let mut bench = Bench::with(&SNAPSHOT.replace("securityGroups: [sg-db]", "securityGroups: [sg-web]"));
    bench.shard.flows = FlowTable::new(&FlowConfig::sized(u32::from(FLOWS) * 8, 2, [1, 2])).expect("memory");
    let mut packets = Vec::new();
    for index in 0..FLOWS {
        for (slot, own) in [(WEB, WEB_IP), (DB, DB_IP)] {
            bench.shard.links.link_mut(slot).pod_mac = Some(POD_MAC[slot.index()]);
            let port = 1024 + index.wrapping_mul(25_173) % FLOWS;
            bench.forwarded(trunk(slot), &from_host(slot, HOST_IP, own, Load::Syn(port, 80)), Some(slot));
            let reply = tagged(slot, from_pod(slot, own, HOST_IP, Load::SynAck(80, port)));
            bench.forwarded(pod(slot), &reply, None);
            let ack = from_host(slot, HOST_IP, own, Load::Ack(port, 80));
            bench.forwarded(trunk(slot), &ack, Some(slot));
            packets.push(ack);
        }
    }
    (bench, packets)
}

fn workers(count: usize, crossing: bool) -> Vec<Worker> {
    let bells: Vec<_> = (0..count).map(|_| Doorbell::new(Now(1000)).expect("an eventfd")).collect();
    let (umem, pool) = Umem::new(&UmemConfig::default()).expect("root, and AF_XDP in the kernel");
    let each = rings(&bells).into_iter().zip(pool.share(count)).enumerate();
    each.map(|(index, (rings, pool))| {
        let (bench, packets) = established();
        let home = |slot: PodSlot| slot.index() % count;
        let source = packets.into_iter().filter(|packet| crossing || home(pod_of(packet)) == index).collect();
        let mut shard = Shard::new(ShardParts {
            flows: bench.shard.flows,
            fragments: Fragments::new(FragmentConfig::for_pods(2)).expect("memory"),
            related_errors: true,
            slots: SLOTS.len(),
        });
        shard.links = bench.shard.links;
        for slot in SLOTS {
            shard.presence[slot.index()] = if home(slot) == index { Presence::Here } else { Presence::Away };
        }
        Worker {
            index,
            tables: bench.tables,
            shard,
            now: bench.now,
            umem: umem.clone(),
            pool,
            rings,
            source,
            at: 0,
            decided: Vec::new(),
            batch: Vec::with_capacity(BATCH),
            handed: Vec::with_capacity(BATCH),
            done: 0,
        }
    })
    .collect()
}

impl Worker {
    /// A batch from the trunk: its own packets through the step, the others to their homes.
    fn receive(&mut self) {
        for _ in 0..BATCH {
            let Some(mut frame) = self.pool.alloc() else { break };
            let bytes = &self.source[self.at];
            self.at = (self.at + 1) % self.source.len();
            assert!(self.umem.write(&mut frame, bytes));
            let (packet, slot) = (Packet::single(frame), pod_of(bytes));
            if self.shard.is_home_of(slot) {
                self.batch.push(packet);
                continue;
            }
            self.shard.counters.received(None, packet.len());
            let home = slot.index() % self.rings.to.len();
            if let Some(Some(outlet)) = self.rings.to.get_mut(home) {
                outlet.stage(packet, Blame::Ingress(slot));
            }
        }
        self.step(|vlan| From::Trunk { vlan });
        for outlet in self.rings.to.iter_mut().flatten() {
            let handed = outlet.flush(|packet, _| self.pool.free_packet(packet));
            self.shard.counters.handed_out(handed);
        }
    }

    /// A batch of what the others handed over is asked for.
    fn fetch_handed(&mut self) {
        self.rings.take(&mut self.handed, BATCH);
        self.handed.iter().for_each(|packet| self.umem.prefetch_handed(packet.head()));
    }

    /// And goes through the step.
    fn take_over(&mut self) {
        std::mem::swap(&mut self.batch, &mut self.handed);
        self.step(|vlan| From::Peer(Handed::Trunk { vlan }));
    }

    fn step(&mut self, from: impl Fn(u16) -> From) {
        let Self { umem, shard, tables, now, batch, decided, .. } = self;
        let from = |packet: &Packet| from(VLAN[pod_of(umem.bytes(packet.head())).index()]);
        step::step(umem, shard, tables, *now, from, batch, decided);
        for (packet, outcome) in self.decided.drain(..) {
            assert!(matches!(outcome, Outcome::Forward(_)), "{outcome:?}");
            self.done += 1;
            self.pool.free_packet(packet);
        }
    }
}

/// Time in which the workers take so many batches together.
fn run(workers: &mut [Worker], batches: u64) -> Duration {
    let wanted = batches * BATCH as u64;
    let done: Vec<CachePadded<AtomicU64>> =
        workers.iter().map(|_| CachePadded::new(AtomicU64::new(0))).collect();
    let begin = Barrier::new(workers.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let (done, begin) = (&done, &begin);
                scope.spawn(move || {
                    pin(Some(worker.index)).expect("a core for each worker");
                    worker.done = 0;
                    begin.wait();
                    let start = Instant::now();
                    while done.iter().map(|done| done.load(Ordering::Relaxed)).sum::<u64>() < wanted {
                        // One load of the others' counters in eight batches disturbs nobody.
                        for _ in 0..8 {
                            worker.fetch_handed();
                            worker.receive();
                            worker.take_over();
                        }
                        done[worker.index].store(worker.done, Ordering::Relaxed);
                    }
                    (start, Instant::now())
                })
            })
            .collect();
        let times: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("a worker ends by itself")).collect();
        // By the workers' own clocks: this thread may have to wait for a core.
        let first = times.iter().map(|(start, _)| *start).min().expect("there are workers");
        let last = times.iter().map(|(_, end)| *end).max().expect("there are workers");
        let took = last - first;
        let total: u64 = done.iter().map(|done| done.load(Ordering::Relaxed)).sum();
        // A few batches more than asked for were done.
        took.mul_f64(wanted as f64 / total as f64)
    })
}

/// Flows entered by all workers.
fn entered(workers: &[Worker]) -> u64 {
    workers.iter().map(|worker| worker.shard.flows.stats().inserted).sum()
}

fn pipeline(criterion: &mut Criterion) {
    for (name, crossing) in [("own", false), ("crossing", true)] {
        let mut group = criterion.benchmark_group(format!("pipeline/{name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for count in [1, 2] {
            let mut ready = None;
            group.bench_function(count.to_string(), |bencher| {
                let workers = ready.get_or_insert_with(|| workers(count, crossing));
                let before = entered(workers);
                bencher.iter_custom(|batches| run(workers, batches));
                assert_eq!(entered(workers), before, "the packets are not of established flows");
            });
        }
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
