//! `espalier-bench compare AREA [--json]`: Espalier against its peers, on this machine, in one run.
//!
//! Exits 0 when everything could be measured, whatever the numbers say, and 1 when something could not.

use std::alloc::System;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use espalier_bench::compare::{self, datapath};
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
        /// Runs of each subject [default: 15, of datapath and tuning 5]
        #[arg(long, visible_alias = "rounds")]
        runs: Option<NonZeroUsize>,
        /// Of datapath: measure a few cases for a moment each.
        #[arg(long)]
        quick: bool,
        /// Of datapath: measure this subject and no other; may be given several times.
        #[arg(long, value_enum, value_name = "SUBJECT")]
        only: Vec<datapath::Kind>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Area {
    /// Security group lookups, compiles and updates.
    Rules,
    /// Connection tracking and the whole step, beside the kernel's conntrack and nftables.
    Flows,
    /// What each knob of the switch's --pod-tuning buys in TCP throughput.
    Tuning,
    /// Packets from trunk to pods and back, beside a raw AF_XDP forwarder, Open vSwitch and the kernel.
    Datapath,
}

#[expect(clippy::print_stdout, reason = "the result is what this program is for")]
fn main() -> Result<ExitCode> {
    let Command::Compare { area, json, runs, quick, only } = Arguments::parse().command;
    if !matches!(area, Area::Datapath) && (quick || !only.is_empty()) {
        let message = "--quick and --only are options of `compare datapath`";
        Arguments::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    let runs_or = |usual| runs.map_or(usual, NonZeroUsize::get);
    let report = match area {
        Area::Rules => compare::rules::run(ALLOCATOR, runs_or(15))?,
        Area::Tuning => compare::tuning::run(runs_or(5))?,
        Area::Flows => compare::flows::run(ALLOCATOR, runs_or(15))?,
        Area::Datapath => {
            let rounds = runs_or(if quick { 1 } else { 5 });
            datapath::run(&datapath::Options { rounds, quick, only })?
        }
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
