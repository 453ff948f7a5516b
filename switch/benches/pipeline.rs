//! Whole workers without the kernel: `pipeline/<what>/<workers>`, packets of the trunk through hand-over and step.
//!
//! Each worker has a queue of the trunk and is the home of its pods. `own`: each packet comes on its home's queue;
//! `crossing`: half of them on another's, as RSS has it with two workers. Frames are on the heap; the rings, the doorbells
//! and the step are the switch's. What two workers take together, against one that has all, is how they scale.

#[path = "../tests/step/harness.rs"]
#[expect(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared with the tests")]
mod harness;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use espalier_switch::counters::Blame;
use espalier_switch::flow::{FlowConfig, FlowTable, Now, PodSlot};
use espalier_switch::step::{self, Decided, From, Handed, Outcome, Presence};
use espalier_switch::worker::Doorbell;
use espalier_switch::worker::handover::{Rings, rings};
use harness::*;

const BATCH: usize = 64;
/// Established flows of each pod.
const FLOWS: u16 = 4096;
/// The pods, each at home with another worker where there are two.
const SLOTS: [PodSlot; 2] = [WEB, DB];

/// A worker: what it receives, its shard, and its ends of the rings.
struct Worker {
    index: usize,
    bench: Bench,
    rings: Rings<Vec<u8>>,
    /// Frames to receive into.
    free: Vec<Vec<u8>>,
    /// What comes on its queue, again and again.
    source: Vec<Vec<u8>>,
    at: usize,
    decided: Decided<Vec<u8>>,
    batch: Vec<Vec<u8>>,
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
            packets.push(from_host(slot, HOST_IP, own, Load::Ack(port, 80)));
        }
    }
    (bench, packets)
}

fn workers(count: usize, crossing: bool) -> Vec<Worker> {
    let bells: Vec<_> = (0..count).map(|_| Doorbell::new(Now(1000)).expect("an eventfd")).collect();
    let rings = rings(&bells).into_iter().enumerate();
    rings
        .map(|(index, rings)| {
            let (mut bench, packets) = established();
            let home = |slot: PodSlot| slot.index() % count;
            for slot in SLOTS {
                let here = if home(slot) == index { Presence::Here } else { Presence::Away };
                bench.shard.presence[slot.index()] = here;
            }
            let source =
                packets.into_iter().filter(|packet| crossing || home(pod_of(packet)) == index).collect();
            Worker {
                index,
                bench,
                rings,
                free: (0..64 * BATCH).map(|_| Vec::with_capacity(128)).collect(),
                source,
                at: 0,
                decided: Vec::new(),
                batch: Vec::with_capacity(BATCH),
                done: 0,
            }
        })
        .collect()
}

impl Worker {
    /// A batch from the trunk: its own packets through the step, the others to their homes.
    fn receive(&mut self) {
        for _ in 0..BATCH {
            let Some(mut frame) = self.free.pop() else { break };
            frame.clear();
            frame.extend_from_slice(&self.source[self.at]);
            self.at = (self.at + 1) % self.source.len();
            let slot = pod_of(&frame);
            if self.bench.shard.is_home_of(slot) {
                self.batch.push(frame);
                continue;
            }
            self.bench.shard.counters.received(None, frame.len());
            let home = slot.index() % self.rings.to.len();
            if let Some(Some(outlet)) = self.rings.to.get_mut(home) {
                outlet.stage(frame, Blame::Ingress(slot));
            }
        }
        self.step(|frame| From::Trunk { vlan: VLAN[pod_of(frame).index()] });
        for outlet in self.rings.to.iter_mut().flatten() {
            let handed = outlet.flush(|frame, _| self.free.push(frame));
            self.bench.shard.counters.handed_out(handed);
        }
    }

    /// A batch of what the others handed over.
    fn take_over(&mut self) {
        for index in 0..self.rings.from.len() {
            let ring = &mut self.rings.from[index];
            let count = ring.slots().min(BATCH);
            let Ok(chunk) = ring.read_chunk(count) else { continue };
            self.batch.extend(chunk);
            self.step(|frame| From::Peer(Handed::Trunk { vlan: VLAN[pod_of(frame).index()] }));
        }
    }

    fn step(&mut self, from: impl Fn(&Vec<u8>) -> From) {
        let Bench { tables, shard, now } = &mut self.bench;
        step::step(&Heap, shard, tables, *now, from, &mut self.batch, &mut self.decided);
        for (frame, outcome) in self.decided.drain(..) {
            assert!(matches!(outcome, Outcome::Forward(_)), "{outcome:?}");
            self.done += 1;
            self.free.push(frame);
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
                    worker.done = 0;
                    begin.wait();
                    let start = Instant::now();
                    while done.iter().map(|done| done.load(Ordering::Relaxed)).sum::<u64>() < wanted {
                        // One load of the others' counters in eight batches disturbs nobody.
                        for _ in 0..8 {
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

fn pipeline(criterion: &mut Criterion) {
    for (name, crossing) in [("own", false), ("crossing", true)] {
        let mut group = criterion.benchmark_group(format!("pipeline/{name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for count in [1, 2] {
            let mut ready = None;
            group.bench_function(count.to_string(), |bencher| {
                let workers = ready.get_or_insert_with(|| workers(count, crossing));
                bencher.iter_custom(|batches| run(workers, batches));
            });
        }
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
