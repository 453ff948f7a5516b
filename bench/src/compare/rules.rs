//! `compare rules`: lookups, compiles, updates and memory of the rules engine, beside DPDK's, the kernel's and a crate's.
//!
//! Subjects of a case run in turns over the same packets; the verdicts of those that judge are compared, too.

use std::alloc::System;
use std::cell::RefCell;
use std::collections::HashSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use espalier_api::Snapshot;
use espalier_rules::{Compiler, Decision, Engine, PolicyId, Tables, Tuple};
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use stats_alloc::{Region, StatsAlloc};

use crate::input::{self, Packet, RuleSet, Traffic};
use crate::measure::{Subject, nanoseconds_each};
use crate::peer::{Input, Peers};
use crate::report::Report;

mod goals;
mod update;

/// The allocator that counts.
pub type Allocator = &'static StatsAlloc<System>;

/// Packets judged at once.
const BATCH: usize = 32;

/// The case the goals of a new flow's verdict are about.
const VERDICT: &str = "rules/verdict/1k-rules-10k-prefixes-10k-members";

/// Runs everything; `runs` samples of each subject.
pub fn run(allocator: Allocator, runs: usize) -> Result<Report> {
    let mut report = Report::new();
    let peers = Peers::build()?;
    let set = input::thousand_rules();
    for traffic in Traffic::ALL {
        verdicts(&mut report, allocator, &peers, &set, (VERDICT, traffic), runs)?;
    }
    for (count, case) in [
        (10, "rules/verdict/10"),
        (100, "rules/verdict/100"),
        (1000, "rules/verdict/1k"),
        (10_000, "rules/verdict/10k"),
    ] {
        let set = input::cidr_rules(count, 21);
        for traffic in Traffic::ALL {
            verdicts(&mut report, allocator, &peers, &set, (case, traffic), runs)?;
        }
    }
    for (count, case) in [
        (1000, "rules/prefix/1k"),
        (10_000, "rules/prefix/10k"),
        (100_000, "rules/prefix/100k"),
        (1_000_000, "rules/prefix/1M"),
    ] {
        prefix_stage(&mut report, &peers, count, case, runs)?;
    }
    update::run(&mut report, allocator, runs)?;
    goals::judge(&mut report)?;
    Ok(report)
}

/// A compiler for a snapshot, its tables, and the policy of its one pod.
fn compiled(snapshot: &Snapshot) -> Result<(Compiler, Tables, PolicyId)> {
    let compiler = Compiler::new(Arc::new(snapshot.clone()));
    let tables = compiler.tables();
    let policy = compiler.judge().policy_of(0).context("the benches' snapshots have a pod")?;
    Ok((compiler, tables, policy))
}

/// Whether any of the prefixes holds an address.
fn holder(nets: impl Iterator<Item = Ipv4Net>) -> impl Fn(Ipv4Addr) -> bool {
    let nets: HashSet<Ipv4Net> = nets.collect();
    move |address| (8..=32).any(|len| Ipv4Net::new(address, len).is_ok_and(|net| nets.contains(&net.trunc())))
}

/// The verdict of a packet that no flow answers for, from remote address to rule.
fn verdicts(
    report: &mut Report,
    allocator: Allocator,
    peers: &Peers,
    set: &RuleSet,
    (case, traffic): (&str, Traffic),
    runs: usize,
) -> Result<()> {
    let (_, tables, policy) = compiled(&set.snapshot)?;
    let packets = input::packets(set, traffic, 31, holder(set.flat.iter().map(|(net, _)| *net)));
    let (_, tables6, policy6) = compiled(&input::in_ipv6(&set.snapshot))?;
    let asked: Vec<(PolicyId, Tuple)> = packets.iter().map(|packet| (policy, packet.tuple())).collect();
    let asked6: Vec<(PolicyId, Tuple)> =
        packets.iter().map(|packet| (policy6, packet.ipv6_tuple())).collect();
    let mut decisions = vec![Decision::Deny; asked.len()];
    let mut decisions6 = decisions.clone();
    let region = Region::new(allocator);
    let passed = count_passed(&tables, &asked, &mut decisions)?;
    let passed6 = count_passed(&tables6, &asked6, &mut decisions6)?;
    let allocations = region.change().allocations;
    ensure!(allocations == 0, "{case}: {allocations} allocations on the packet path");
    ensure!(passed == passed6, "{case}: {passed} packets pass, {passed6} of the same in IPv6");

    let prefixes: HashSet<Ipv4Net> = set.flat.iter().map(|(net, _)| *net).collect();
    let input = Input {
        prefixes: prefixes.into_iter().map(|net| (net, 1)).collect(),
        rules: set.flat.clone(),
        packets,
    };
    let mut lpm = peers.start("lpm", &input)?;
    let mut dpdk = peers.start("dpdk", &Input { prefixes: Vec::new(), ..input })?;
    let mut subjects = [
        Subject::new("espalier", || Ok(scalar(&tables, &asked))),
        Subject::new("espalier batch 32", || Ok(batched(&tables, &asked, &mut decisions))),
        Subject::new("espalier v6", || Ok(scalar(&tables6, &asked6))),
        Subject::new("espalier v6 batch 32", || Ok(batched(&tables6, &asked6, &mut decisions6))),
        Subject::new("rte_acl batch 32", || {
            let run = dpdk.run("acl")?;
            ensure!(run.found == passed, "rte_acl lets {} of the packets pass, espalier {passed}", run.found);
            Ok(run.nanoseconds)
        }),
        Subject::new("bpf lpm trie (prefix only)", || Ok(lpm.run("lpm")?.nanoseconds)),
    ];
    report.in_turns(&format!("{case}/{}", traffic.label()), &mut subjects, runs)
}

/// How many packets pass; batched and scalar lookups must agree.
fn count_passed(tables: &Tables, asked: &[(PolicyId, Tuple)], decisions: &mut [Decision]) -> Result<u64> {
    tables.judge_batch(asked, decisions);
    for ((policy, packet), decision) in asked.iter().zip(&*decisions) {
        ensure!(tables.judge(*policy, packet) == *decision, "batched and scalar differ on {packet:?}");
    }
    Ok(decisions.iter().filter(|decision| decision.passes()).count() as u64)
}

fn scalar(tables: &Tables, asked: &[(PolicyId, Tuple)]) -> f64 {
    nanoseconds_each(asked.len(), || {
        for (policy, packet) in asked {
            black_box(tables.judge(*policy, packet));
        }
    })
}

fn batched(tables: &Tables, asked: &[(PolicyId, Tuple)], decisions: &mut [Decision]) -> f64 {
    nanoseconds_each(asked.len(), || {
        for (asked, decisions) in asked.chunks(BATCH).zip(decisions.chunks_mut(BATCH)) {
            tables.judge_batch(asked, decisions);
            black_box(decisions);
        }
    })
}

fn one_by_one(tables: &Tables, remotes: &[IpAddr]) -> f64 {
    nanoseconds_each(remotes.len(), || {
        for remote in remotes {
            black_box(tables.prefix_class(*remote));
        }
    })
}

fn by_batches(tables: &Tables, remotes: &[IpAddr], classes: &mut [u32]) -> f64 {
    nanoseconds_each(remotes.len(), || {
        for (remotes, classes) in remotes.chunks(BATCH).zip(classes.chunks_mut(BATCH)) {
            tables.prefix_classes(remotes, classes);
            black_box(classes);
        }
    })
}

/// Remote address to class, without what follows; 64 different answers.
fn prefix_stage(report: &mut Report, peers: &Peers, count: usize, case: &str, runs: usize) -> Result<()> {
    let nets = input::prefixes(count, 41);
    let table = input::prefix_table(&nets);
    let (_, tables, _) = compiled(&table)?;
    let (_, tables6, _) = compiled(&input::in_ipv6(&table))?;
    let with_values: Vec<(Ipv4Net, u32)> =
        nets.iter().copied().zip((0..input::LISTS as u32).cycle()).collect();
    let map: PrefixMap<Ipv4Net, u32> = with_values.iter().copied().collect();
    for traffic in Traffic::ALL {
        let remotes = traffic.remotes(&nets, 42, holder(nets.iter().copied()));
        let packets = remotes.iter().map(|remote| Packet { remote: *remote, protocol: 6, port: 0 }).collect();
        let input = Input { prefixes: with_values.clone(), rules: Vec::new(), packets };
        let mut lpm = peers.start("lpm", &input)?;
        let dpdk = RefCell::new(peers.start("dpdk", &input)?);
        let asked: Vec<IpAddr> = remotes.iter().copied().map(IpAddr::V4).collect();
        let asked6: Vec<IpAddr> = remotes.iter().map(|remote| input::ipv6_address(*remote).into()).collect();
        let (mut classes, mut classes6) = (vec![0; asked.len()], vec![0; asked.len()]);
        let found =
            remotes.iter().filter(|remote| map.get_lpm(&Ipv4Net::from(**remote)).is_some()).count() as u64;
        let mut subjects = vec![
            Subject::new("espalier", || Ok(one_by_one(&tables, &asked))),
            Subject::new("espalier batch 32", || Ok(by_batches(&tables, &asked, &mut classes))),
            Subject::new("espalier v6", || Ok(one_by_one(&tables6, &asked6))),
            Subject::new("espalier v6 batch 32", || Ok(by_batches(&tables6, &asked6, &mut classes6))),
            Subject::new("prefix-trie crate", || {
                Ok(nanoseconds_each(remotes.len(), || {
                    for remote in &remotes {
                        black_box(map.get_lpm(&Ipv4Net::from(*remote)));
                    }
                }))
            }),
            Subject::new("rte_fib batch 32", || {
                let run = dpdk.borrow_mut().run("fib")?;
                ensure!(run.found == found, "rte_fib finds {}, the prefix-trie crate {found}", run.found);
                Ok(run.nanoseconds)
            }),
            Subject::new("bpf lpm trie", || {
                let run = lpm.run("lpm")?;
                ensure!(
                    run.found == found,
                    "the LPM trie finds {}, the prefix-trie crate {found}",
                    run.found
                );
                Ok(run.nanoseconds)
            }),
        ];
        if count <= LPM_MAX {
            subjects.push(Subject::new("rte_lpm batch 32", || Ok(dpdk.borrow_mut().run("lpm")?.nanoseconds)));
        }
        report.in_turns(&format!("{case}/{}", traffic.label()), &mut subjects, runs)?;
    }
    Ok(())
}

/// Above it, filling rte_lpm takes hours (see `bench/peers/dpdk.c`).
const LPM_MAX: usize = 200_000;
