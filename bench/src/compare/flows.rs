//! `compare flows`: the flow table, the whole step on established packets, new flows, memory, and the kernel's conntrack
//! with nftables on the same packets.
//!
//! Called by main.rs. Subjects of a case run in turns. Whatever is timed is checked afterwards: every packet was
//! forwarded, every new flow entered.

use anyhow::Result;
use espalier_switch::flow::{FlowConfig, FlowTable, PoolConfig, Timeouts};
use stats_alloc::Region;

use super::rules::Allocator;
use crate::measure::Quartiles;
use crate::report::Report;

mod arena;
mod established;
mod fresh;
mod goals;
mod kernel;
mod lookup;
mod packets;
mod watched;
mod world;

/// Packets that go through the step at once, as in the worker.
const BATCH: usize = 64;
/// Batches between two looks at the clock, which is a system call.
const BATCHES: usize = 16;
/// Packets between two looks at the clock.
const ROUND: usize = BATCH * BATCHES;
/// Rounds of one run.
const ROUNDS: usize = 64;
/// Rounds before those that count: what the subject before left in the caches is not this one's cost.
const WARM_UP: usize = 32;

/// The case of the whole step at a number of flows.
const STEP: [(&str, u32); 2] = [("flows/step/10k", 10_000), ("flows/step/1M", 1_000_000)];
/// The case of lookup and update at a number of flows.
const LOOKUP: [(&str, u32); 2] = [("flows/lookup/10k", 10_000), ("flows/lookup/1M", 1_000_000)];
/// The case of a new flow beside a number of others.
const FRESH: [(&str, u32); 2] =
    [("flows/new/beside-10k/1k-rules", 10_000), ("flows/new/beside-1M/1k-rules", 1_000_000)];
/// The case of memory.
const MEMORY: &str = "flows/memory/1M-ipv4";
/// The case of allocations.
const ALLOCATIONS: &str = "flows/step/allocations";
/// The case of the kernel.
const KERNEL: &str = "flows/kernel/10k";
/// The subject that is what conntrack and nftables add.
const DIFFERENCE: &str = "conntrack and nftables alone";

/// Runs everything; `runs` samples of each subject.
pub fn run(allocator: Allocator, runs: usize) -> Result<Report> {
    let mut report = Report::new();
    // First what may be missing on a machine, then what takes long.
    kernel::run(&mut report, runs)?;
    super::datapath::flood(&mut report, runs)?;
    for (case, flows) in LOOKUP {
        lookup::run(&mut report, case, flows, runs)?;
    }
    let mut allocated = Allocated::default();
    for (case, flows) in STEP {
        established::run(&mut report, allocator, &mut allocated, (case, flows), runs)?;
    }
    for (case, flows) in FRESH {
        fresh::run(&mut report, allocator, &mut allocated, (case, flows), runs)?;
    }
    watched::run(&mut report, runs)?;
    let each = allocated.allocations as f64 / allocated.packets as f64;
    report.row(ALLOCATIONS, "espalier", "allocations", Quartiles::of(vec![each]));
    memory(&mut report, allocator)?;
    goals::judge(&mut report)?;
    Ok(report)
}

/// The mean of [`ROUNDS`] rounds, after [`WARM_UP`] others.
fn warm(mut round: impl FnMut() -> f64) -> f64 {
    (0..WARM_UP).for_each(|_| _ = round());
    (0..ROUNDS).map(|_| round()).sum::<f64>() / ROUNDS as f64
}

/// Allocations of the packet path, whatever it was given.
#[derive(Debug, Default)]
struct Allocated {
    packets: usize,
    allocations: usize,
}

impl Allocated {
    /// Counts what `work`, which takes that many rounds through, allocates.
    fn count(
        &mut self,
        allocator: Allocator,
        rounds: usize,
        work: impl FnOnce() -> Result<f64>,
    ) -> Result<()> {
        let region = Region::new(allocator);
        work()?;
        let change = region.change();
        self.allocations += change.allocations + change.reallocations;
        self.packets += ROUND * rounds;
        Ok(())
    }
}

/// Everything that a table for a million IPv4 flows takes from the allocator.
fn memory(report: &mut Report, allocator: Allocator) -> Result<()> {
    const FLOWS: u32 = 1_000_000;
    let config = sized(FLOWS, 1);
    let region = Region::new(allocator);
    let table = FlowTable::new(&config)?;
    let change = region.change();
    let bytes = change.bytes_allocated - change.bytes_deallocated;
    drop(table);
    let each = bytes as f64 / f64::from(FLOWS);
    report.row(MEMORY, "espalier", "bytes", Quartiles::of(vec![each]));
    Ok(())
}

/// A table for so many flows of each family, all of which one pod may hold.
fn sized(ipv4: u32, ipv6: u32) -> FlowConfig {
    let pool = |flows| PoolConfig { flows, pod_quota: flows, pod_reserve: 0 };
    FlowConfig {
        pods: world::PODS,
        ipv4: pool(ipv4),
        ipv6: pool(ipv6),
        half_open_per_pod: ipv4.max(ipv6),
        seed: [11, 12],
        timeouts: Timeouts::NITRO,
    }
}
