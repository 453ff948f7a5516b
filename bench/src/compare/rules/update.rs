//! What changing the rules costs: compiles, one member more or less, and the time until a busy worker sees it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use espalier_api::{Address, Snapshot};
use espalier_rules::{Change, Compiler, Decision, Engine, PolicyId, Tables, changes};
use ipnet::IpNet;
use stats_alloc::Region;

use super::{Allocator, compiled};
use crate::input::{self, Traffic};
use crate::measure::{Quartiles, Subject, in_turns, nanoseconds_each};
use crate::report::Report;

/// A group with this many members gains and loses one.
const MEMBERS: usize = 10_000;
/// Updates that are timed.
const UPDATES: usize = 2000;

pub(super) fn run(report: &mut Report, allocator: Allocator, runs: usize) -> Result<()> {
    compiles(report, runs)?;
    member(report)?;
    visible(report)?;
    memory(report, allocator)
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    nanoseconds_each(1, work) / 1e6
}

fn compiles(report: &mut Report, runs: usize) -> Result<()> {
    let cases = [
        ("rules/compile/1k-rules", input::cidr_rules(1000, 21).snapshot),
        ("rules/compile/1k-rules-10k-prefixes-10k-members", input::thousand_rules().snapshot),
        ("rules/compile/100k-prefixes", input::prefix_table(&input::prefixes(100_000, 41))),
        ("rules/compile/10k-members", one_group()),
    ];
    for (case, snapshot) in cases {
        let snapshot = Arc::new(snapshot);
        let mut subjects = [Subject::new("espalier", || {
            Ok(milliseconds(|| drop(black_box(Compiler::new(snapshot.clone())))))
        })];
        report.row(case, "espalier", "ms", in_turns(&mut subjects, runs)?[0]);
    }
    Ok(())
}

/// One rule for a group of [`MEMBERS`].
fn one_group() -> Snapshot {
    let mut snapshot = input::empty();
    let rule = input::rule(0, espalier_api::ProtocolMatch::All, input::group_target(0));
    snapshot.security_groups[0].rules.push(rule);
    if let Ok(group) = "sg-m0".parse() {
        let hosts = input::members(MEMBERS, 12).into_iter();
        snapshot.group_members.insert(group, hosts.map(|host| IpAddr::V4(host).into()).collect());
    }
    snapshot
}

/// The snapshot without and with one member more, and the changes both ways.
struct Churn {
    snapshots: [Arc<Snapshot>; 2],
    changes: [Vec<Change>; 2],
}

impl Churn {
    fn new(base: Snapshot) -> Result<Self> {
        let group = "sg-m0".parse().map_err(anyhow::Error::msg)?;
        let joined = Address::from(IpNet::from(IpAddr::V4(Ipv4Addr::new(172, 16, 0, 1))));
        let mut with = base.clone();
        with.group_members.get_mut(&group).context("the group has members")?.push(joined);
        let (joins, leaves) = (changes(&base, &with), changes(&with, &base));
        Ok(Self { snapshots: [Arc::new(with), Arc::new(base)], changes: [joins, leaves] })
    }

    fn apply(&self, compiler: &mut Compiler, turn: usize) -> Tables {
        compiler.apply(self.snapshots[turn % 2].clone(), &self.changes[turn % 2]);
        compiler.tables()
    }
}

fn member(report: &mut Report) -> Result<()> {
    for (case, base) in [
        ("rules/update/member-of-10k", one_group()),
        ("rules/update/member-of-1k-rules-10k-prefixes-10k-members", input::thousand_rules().snapshot),
    ] {
        let (mut compiler, first, _) = compiled(&base)?;
        let churn = Churn::new(base)?;
        let mut applied = Vec::with_capacity(UPDATES);
        // The workers' version: pages are shared with it, so that every update has to copy.
        let mut published = Some(first);
        for turn in 0..UPDATES {
            let mut next = None;
            applied.push(nanoseconds_each(1, || next = Some(churn.apply(&mut compiler, turn))) / 1e3);
            published = next;
        }
        drop(published);
        report.row(case, "espalier", "us", Quartiles::of(applied));
        let compare =
            || nanoseconds_each(1, || drop(black_box(changes(&churn.snapshots[0], &churn.snapshots[1]))));
        let diff = Quartiles::of((0..5).map(|_| compare() / 1e3).collect());
        report.row(&format!("{case}/compare-snapshots"), "espalier", "us", diff);
    }
    Ok(())
}

/// Milliseconds from the change to the acknowledgement of a worker that judges batch after batch: the switch's way of
/// publishing (a channel that the worker looks at between batches), without the rest of the switch.
fn visible(report: &mut Report) -> Result<()> {
    let set = input::thousand_rules();
    let (mut compiler, first, policy) = compiled(&set.snapshot)?;
    let packets = input::packets(&set, Traffic::Uniform, 31, |_| false);
    let asked: Vec<(PolicyId, espalier_rules::Tuple)> =
        packets.iter().map(|packet| (policy, packet.tuple())).collect();
    let churn = Churn::new(set.snapshot)?;
    let (publish, inbox) = mpsc::channel::<Arc<Tables>>();
    let (acknowledge, acknowledged) = mpsc::channel::<Arc<Tables>>();
    let mut delays = Vec::with_capacity(UPDATES);
    std::thread::scope(|scope| -> Result<()> {
        let (asked, publish) = (&asked, publish);
        scope.spawn(move || worker(Arc::new(first), asked, &inbox, &acknowledge));
        for turn in 0..UPDATES {
            let start = Instant::now();
            publish.send(Arc::new(churn.apply(&mut compiler, turn)))?;
            let old = acknowledged.recv_timeout(Duration::from_secs(10));
            delays.push(start.elapsed().as_secs_f64() * 1e3);
            drop(old?);
        }
        Ok(())
    })?;
    delays.sort_by(f64::total_cmp);
    let p99 = delays[delays.len() * 99 / 100];
    report.row("rules/update/visible-under-load", "espalier", "ms", Quartiles::of(delays));
    report.row("rules/update/visible-under-load/p99", "espalier", "ms", Quartiles::of(vec![p99]));
    Ok(())
}

fn worker(
    mut tables: Arc<Tables>,
    asked: &[(PolicyId, espalier_rules::Tuple)],
    inbox: &mpsc::Receiver<Arc<Tables>>,
    acknowledge: &mpsc::Sender<Arc<Tables>>,
) {
    let mut decisions = [Decision::Deny; super::BATCH];
    for batch in asked.chunks_exact(super::BATCH).cycle() {
        match inbox.try_recv() {
            Ok(next) => {
                // The publisher drops the old version, as the switch's management thread does.
                let old = std::mem::replace(&mut tables, next);
                if acknowledge.send(old).is_err() {
                    return;
                }
            }
            Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) => {}
        }
        tables.judge_batch(batch, &mut decisions);
        black_box(&decisions);
    }
}

/// What a million prefixes weigh: the tables that lookups read, and all that the compiler holds besides.
fn memory(report: &mut Report, allocator: Allocator) -> Result<()> {
    const COUNT: usize = 1_000_000;
    let snapshot = Arc::new(input::prefix_table(&input::prefixes(COUNT, 41)));
    let region = Region::new(allocator);
    let compiler = Compiler::new(snapshot);
    let held = region.change();
    let all = (held.bytes_allocated as f64) - (held.bytes_deallocated as f64);
    let tables = compiler.tables().sizes().total() as f64;
    let mib = |bytes: f64| Quartiles::of(vec![bytes / (1 << 20) as f64]);
    let each = |bytes: f64| Quartiles::of(vec![bytes / COUNT as f64]);
    report.row("rules/memory/1M-prefixes/tables", "espalier", "MiB", mib(tables));
    report.row("rules/memory/1M-prefixes/tables-and-compiler", "espalier", "MiB", mib(all));
    report.row("rules/memory/1M-prefixes/tables-per-prefix", "espalier", "bytes", each(tables));
    report.row("rules/memory/1M-prefixes/all-per-prefix", "espalier", "bytes", each(all));
    Ok(())
}
