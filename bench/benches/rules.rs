//! Criterion benches of the rules: `rules/<what>/<size>`. Inputs as in `compare rules`.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use espalier_bench::input::{self, PACKETS, RuleSet, Traffic};
use espalier_rules::{Compiler, Decision, Engine, PolicyId, Tuple};

const BATCH: usize = 32;

fn verdict(criterion: &mut Criterion, size: &str, set: &RuleSet) {
    let compiler = Compiler::new(Arc::new(set.snapshot.clone()));
    let tables = compiler.tables();
    let Some(policy) = compiler.judge().policy_of(0) else { return };
    let packets = input::packets(set, Traffic::Uniform, 31, |_| false);
    let asked: Vec<(PolicyId, Tuple)> = packets.iter().map(|packet| (policy, packet.tuple())).collect();
    let mut decisions = [Decision::Deny; BATCH];
    let mut group = criterion.benchmark_group("rules");
    group.throughput(Throughput::Elements(PACKETS as u64));
    group.bench_function(format!("verdict/{size}"), |bencher| {
        bencher.iter(|| {
            for (policy, packet) in &asked {
                black_box(tables.judge(*policy, packet));
            }
        });
    });
    group.bench_function(format!("verdict-batch-32/{size}"), |bencher| {
        bencher.iter(|| {
            for batch in asked.chunks_exact(BATCH) {
                tables.judge_batch(batch, &mut decisions);
                black_box(&decisions);
            }
        });
    });
    group.finish();
}

fn prefix(criterion: &mut Criterion, size: &str, count: usize) {
    let nets = input::prefixes(count, 41);
    let tables = Compiler::new(Arc::new(input::prefix_table(&nets))).tables();
    let remotes = Traffic::Uniform.remotes(&nets, 42, |_| false);
    let asked: Vec<IpAddr> = remotes.into_iter().map(IpAddr::V4).collect();
    let mut classes = [0; BATCH];
    let mut group = criterion.benchmark_group("rules");
    group.throughput(Throughput::Elements(PACKETS as u64));
    group.bench_function(format!("prefix/{size}"), |bencher| {
        bencher.iter(|| {
            for remote in &asked {
                black_box(tables.prefix_class(*remote));
            }
        });
    });
    group.bench_function(format!("prefix-batch-32/{size}"), |bencher| {
        bencher.iter(|| {
            for batch in asked.chunks_exact(BATCH) {
                tables.prefix_classes(batch, &mut classes);
                black_box(&classes);
            }
        });
    });
    group.finish();
}

fn rules(criterion: &mut Criterion) {
    for (size, count) in [("10", 10), ("100", 100), ("1k", 1000), ("10k", 10_000)] {
        verdict(criterion, size, &input::cidr_rules(count, 21));
    }
    verdict(criterion, "1k-rules-10k-prefixes-10k-members", &input::thousand_rules());
    for (size, count) in [("1k", 1000), ("10k", 10_000), ("100k", 100_000), ("1M", 1_000_000)] {
        prefix(criterion, size, count);
    }
    let snapshot = Arc::new(input::cidr_rules(1000, 21).snapshot);
    criterion.bench_function("rules/compile/1k", |bencher| {
        bencher.iter(|| Compiler::new(black_box(snapshot.clone())));
    });
}

criterion_group!(benches, rules);
criterion_main!(benches);
