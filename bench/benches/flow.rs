//! The flow table alone: `flow/<what>/<flows>`, one packet an iteration.
//!
//! Flows are drawn at random and their keys made outside the measured part, so that a table larger than the caches is met
//! as one. Time is the thread's own processor time: other work on the machine spoils caches, but is not counted. What is
//! measured is first shown to allocate nothing.

use std::alloc::System;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use espalier_api::rule::Direction::{Egress, Ingress};
use espalier_switch::flow::tcp_flag::{ACK, SYN};
use espalier_switch::flow::{
    FlowConfig, FlowKey, FlowTable, Lookups, NewFlow, Now, PacketFacts, PodSlot, PoolConfig, Timeouts,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BATCH: usize = 64;
/// Batches between two looks at the clock, which is a system call.
const BATCHES: usize = 16;
const PODS: u16 = 64;
const SIZES: [(u32, &str); 3] = [(10_000, "10k"), (100_000, "100k"), (1_000_000, "1M")];
const NOW: Now = Now(1000);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * u128::from(limit)) >> 64) as u32
    }
}

fn v4(flow: u32) -> FlowKey {
    key(flow, |host| Ipv4Addr::from_bits(0x0a00_0000 + host).into())
}

fn v6(flow: u32) -> FlowKey {
    key(flow, |host| Ipv6Addr::from_bits(0xfd << 120 | u128::from(host)).into())
}

fn key(flow: u32, address: fn(u32) -> IpAddr) -> FlowKey {
    let slot = flow % u32::from(PODS);
    let remote_port = 1024 + (flow & 0x3ff) as u16;
    FlowKey::tcp_udp(PodSlot(slot as u16), address(slot), address(1000 + (flow >> 10)), 6, 443, remote_port)
}

fn opening() -> NewFlow {
    let first = PacketFacts { direction: Ingress, tcp_flags: SYN, bytes: 60 };
    NewFlow { initiator: Ingress, rule: 1, generation: 1, tracked: true, revoke_on_change: false, first }
}

/// A table with room for twice `flows`, so many established.
fn established(flows: u32, key: fn(u32) -> FlowKey) -> FlowTable {
    let pool = PoolConfig { flows: flows * 2, pod_quota: flows * 2, pod_reserve: 0 };
    let config = FlowConfig {
        pods: PODS,
        ipv4: pool,
        ipv6: pool,
        half_open_per_pod: 64,
        seed: [11, 12],
        timeouts: Timeouts::NITRO,
    };
    let mut table = FlowTable::new(&config).expect("the configuration is sound");
    for flow in 0..flows {
        let handle = table.insert(&key(flow), &opening(), Now(0)).expect("there is room");
        table.on_packet(handle, &PacketFacts { direction: Egress, tcp_flags: SYN | ACK, bytes: 60 }, Now(0));
        table.on_packet(handle, &PacketFacts { direction: Ingress, tcp_flags: ACK, bytes: 60 }, Now(0));
    }
    table
}

/// Measures `run`, which handles the keys it is given, in batches; the keys are made outside the measured time.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    mut next: impl FnMut() -> FlowKey,
    mut run: impl FnMut(&[FlowKey; BATCH]),
) {
    let keys_a_round = (BATCH * BATCHES) as u64;
    let mut keys = [v4(0); BATCH * BATCHES];
    let mut rounds = |count: u64| {
        let mut spent = Duration::ZERO;
        for _ in 0..count {
            keys.fill_with(&mut next);
            let start = processor_time();
            keys.as_chunks().0.iter().for_each(|batch| run(black_box(batch)));
            spent += processor_time() - start;
        }
        spent
    };
    rounds(1); // Takes the memory that is kept.
    let region = Region::new(ALLOCATOR);
    rounds(100);
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0), "the packet path allocates");
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|packets| {
            let count = packets.div_ceil(keys_a_round);
            rounds(count).mul_f64(packets as f64 / (count * keys_a_round) as f64)
        });
    });
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lookup and state update of established flows, in batches as the worker receives them.
fn update(criterion: &mut Criterion) {
    let facts = PacketFacts { direction: Egress, tcp_flags: ACK, bytes: 64 };
    for (what, key) in [("update-v4", v4 as fn(u32) -> FlowKey), ("update-v6", v6)] {
        let mut group = criterion.benchmark_group("flow");
        group.throughput(Throughput::Elements(1));
        for (flows, size) in SIZES {
            let mut table = established(flows, key);
            let mut random = Random(1);
            let mut lookups = Lookups::default();
            bench(
                &mut group,
                BenchmarkId::new(what, size),
                || key(random.below(flows)),
                |keys| {
                    for key in keys {
                        lookups.add(*key);
                    }
                    lookups.look(&table);
                    for place in 0..keys.len() as u32 {
                        let sought = lookups.get(place).expect("it was added");
                        assert!(table.pass_steady(sought, 0, &facts, NOW), "every flow is there");
                    }
                    lookups.clear();
                },
            );
        }
        group.finish();
    }
}

/// The same one packet at a time, for what the batch brings.
fn update_single(criterion: &mut Criterion) {
    let facts = PacketFacts { direction: Egress, tcp_flags: ACK, bytes: 64 };
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(1));
    for (flows, size) in SIZES {
        let mut table = established(flows, v4);
        let mut random = Random(1);
        bench(
            &mut group,
            BenchmarkId::new("update-single-v4", size),
            || v4(random.below(flows)),
            |keys| {
                for key in keys {
                    let handle = table.find(key).handle().expect("every flow is there");
                    black_box(table.on_packet(handle, &facts, NOW));
                }
            },
        );
    }
    group.finish();
}

/// A SYN flood: each packet misses and takes the place of the pod's oldest half-open connection.
fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(1));
    for (flows, size) in SIZES {
        let mut table = established(flows, v4);
        let mut random = Random(1);
        let flow = opening();
        bench(
            &mut group,
            BenchmarkId::new("syn-flood", size),
            || v4(flows + random.below(1 << 31)),
            |keys| {
                for key in keys {
                    black_box(table.insert(key, &flow, NOW).expect("the oldest makes room"));
                }
            },
        );
        assert!(table.len() as u32 <= flows + 64 * u32::from(PODS), "half-open connections stay bounded");
    }
    group.finish();
}

/// Expiry: every flow of a full table ends and is swept.
fn sweep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for (flows, size) in SIZES {
        group.bench_function(BenchmarkId::new("sweep", size), |bencher| {
            bencher.iter_custom(|freed| {
                let mut spent = Duration::ZERO;
                let rounds = freed.div_ceil(flows.into());
                for _ in 0..rounds {
                    let mut table = established(flows, v4);
                    let over = Now(u64::from(Timeouts::NITRO.tcp_established() + 1) * 1000);
                    let start = processor_time();
                    while !table.is_empty() {
                        black_box(table.sweep(over, 64));
                    }
                    spent += processor_time() - start;
                }
                spent.mul_f64(freed as f64 / (rounds * u64::from(flows)) as f64)
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    targets = update, update_single, flood, sweep
}
criterion_main!(benches);
