//! The pure step, in memory: `step/<what>/<flows>`, a batch of 64 packets an iteration.

#[path = "../tests/step/harness.rs"]
#[expect(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared with the tests")]
mod harness;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use espalier_switch::flow::{FlowConfig, FlowTable};
use espalier_switch::step;
use harness::*;

const BATCH: usize = 64;

/// Packets of `flows` established flows, in an order that no cache line is near the last.
fn packets(bench: &mut Bench, flows: u32, v6: bool) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for index in 0..flows {
        let spread = index.wrapping_mul(2_654_435_761) % flows;
        let (host, web) = if v6 {
            (format!("2001:db8:9::{:x}", 1 + spread / 60_000), WEB_IP6)
        } else {
            (format!("10.0.9.{}", 1 + spread / 60_000), WEB_IP)
        };
        let port = 1024 + (spread % 60_000) as u16;
        bench.forwarded(trunk(WEB), &from_host(WEB, &host, web, Load::Syn(port, 80)), Some(WEB));
        let reply = tagged(WEB, from_pod(WEB, web, &host, Load::SynAck(80, port)));
        bench.forwarded(pod(WEB), &reply, None);
        let ack = from_host(WEB, &host, web, Load::Ack(port, 80));
        bench.forwarded(trunk(WEB), &ack, Some(WEB));
        packets.push(ack);
    }
    packets
}

/// A shard that knows the flows, and a packet of each.
fn established_flows(flows: u32, v6: bool) -> (Bench, Vec<Vec<u8>>) {
    let mut bench = Bench::new();
    bench.shard.flows = FlowTable::new(&FlowConfig::sized(flows * 8, 2, [1, 2])).expect("memory");
    let packets = packets(&mut bench, flows, v6);
    (bench, packets)
}

fn established(criterion: &mut Criterion) {
    for (name, v6) in [("established-tcp4", false), ("established-tcp6", true)] {
        let mut group = criterion.benchmark_group(format!("step/{name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for flows in [64, 10_048, 1_000_000] {
            let mut ready = None;
            let (mut batch, mut decided) = (Vec::new(), Vec::new());
            let mut at = 0;
            group.bench_function(flows.to_string(), |bencher| {
                let (bench, packets) = ready.get_or_insert_with(|| established_flows(flows, v6));
                bencher.iter(|| {
                    batch.extend(packets[at..at + BATCH].iter_mut().map(std::mem::take));
                    let (shard, tables) = (&mut bench.shard, &bench.tables);
                    step::step(&Heap, shard, tables, bench.now, |_| trunk(WEB), &mut batch, &mut decided);
                    for (offset, (mut packet, _)) in decided.drain(..).enumerate() {
                        packet[..6].copy_from_slice(&BRANCH_MAC[0]);
                        packets[at + offset] = packet;
                    }
                    at = if at + BATCH >= packets.len() { 0 } else { at + BATCH };
                });
            });
        }
    }
}

criterion_group!(benches, established);
criterion_main!(benches);
