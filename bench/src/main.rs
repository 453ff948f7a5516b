//! `espalier-bench compare AREA [--json]`: Espalier against its peers, on this machine, in one run.
//!
//! Exits 0 when everything could be measured, whatever the numbers say, and 1 when something could not.

use std::alloc::System;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use espalier_bench::compare;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts allocations: lookups must make none, and tables are weighed with it.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures Espalier and its peers in turns.
    Compare {
        /// What to compare.
        area: Area,
        /// One JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Runs of each subject.
        #[arg(long, default_value_t = 15)]
        runs: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Area {
    /// Security group lookups, compiles and updates.
    Rules,
    /// Connection tracking and the whole step, beside the kernel's conntrack and nftables.
    Flows,
}

#[expect(clippy::print_stdout, reason = "the result is what this program is for")]
fn main() -> Result<()> {
    let Command::Compare { area, json, runs } = Arguments::parse().command;
    let report = match area {
        Area::Rules => compare::rules::run(ALLOCATOR, runs.max(1))?,
        Area::Flows => compare::flows::run(ALLOCATOR, runs.max(1))?,
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}
