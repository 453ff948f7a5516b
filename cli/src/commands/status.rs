//! `espalier status`: what the switch enforces, how it is attached, and whether packets and frames add up.

use std::collections::BTreeMap;
use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::agent::AgentStatus;
use espalier_api::control::{Counters, Frames, KernelCounters, Status, WorkerRings, WorkerState, XdpStatus};
use espalier_api::recording::FlowLogStatus;
use serde::Serialize;

use crate::args::{Format, FormatArgs, Global};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, column, duration, grouped, if_it_fits, listed, wide};

mod agent;

pub(super) fn run(global: &Global, args: &FormatArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let status = Client::connect(global)?.status()?;
    let both = Both { status, agent_status: Client::agent(global) };
    let format = args.format();
    if !out.data(format, &both)? {
        let Both { status, agent_status } = both;
        summary(&status, out)?;
        agent::show(agent_status.as_ref(), &status, out)?;
        packets(&status.counters, out)?;
        frames(&status.frames, out)?;
        steering(&status.steering, out)?;
        workers(&status, format, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The switch's status, and the agent's where one runs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Both {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_status: Option<AgentStatus>,
}

/// `native`, or `generic (why)`.
pub(super) fn attachment(xdp: &XdpStatus) -> String {
    match &xdp.fallback {
        Some(why) => format!("{} ({why})", xdp.mode),
        None => xdp.mode.clone(),
    }
}

/// What a port's socket could not do, a dash where that is nothing.
pub(super) fn lost(kernel: &KernelCounters, out: &Output) -> Cell {
    let counts = [
        ("dropped", kernel.rx_dropped),
        ("ring full", kernel.rx_ring_full),
        ("fill ring empty", kernel.rx_fill_ring_empty),
        ("invalid descriptors", kernel.invalid_descriptors),
        ("oversized", kernel.rx_oversized),
    ];
    let some = counts.iter().filter(|(_, count)| *count > 0);
    let text = listed(some.map(|(name, count)| format!("{name} {}", grouped(*count))));
    if text == "-" { Cell::new(text) } else { out.cell(text, Tone::Bad) }
}

fn summary(status: &Status, out: &mut Output) -> Result<(), CliError> {
    let generation = match status.generation {
        Some(generation) => Cell::new(format!("{generation}, enforced by every worker")),
        None => out.cell("none yet: `espalier apply FILE` sends one", Tone::Bad),
    };
    let trunk = status.trunk.as_ref().map_or_else(
        || "none yet".to_owned(),
        |trunk| {
            let xdp = attachment(&trunk.xdp);
            format!("{} ({}), MTU {}, XDP {xdp}", trunk.interface, trunk.driver, trunk.mtu)
        },
    );
    let can = &status.capabilities;
    let mut fields = vec![
        (
            "switch",
            Cell::new(format!(
                "espalier-switch {}, pid {}, up {}",
                status.version,
                status.pid,
                duration(status.uptime_seconds)
            )),
        ),
        ("generation", generation),
        (
            "policy",
            Cell::new(format!(
                "{} pods, {} security groups, {} rules",
                status.pods, status.groups, status.rules
            )),
        ),
        ("trunk", Cell::new(trunk)),
        (
            "kernel",
            Cell::new(format!(
                "{}, multi-buffer {}, largest packet {} bytes, huge pages {}",
                can.kernel,
                if can.multi_buffer { "yes" } else { "no" },
                can.max_packet,
                if can.hugepages { "yes" } else { "no" }
            )),
        ),
    ];
    if let Some(trunk) = &status.trunk {
        fields.push(("lost in the kernel", lost(&trunk.kernel, out)));
    }
    if let Some(log) = &status.flow_log {
        fields.push(("flow log", flow_log(log, out)));
    }
    if let Some(generation) = status.shadow {
        let text = format!("generation {generation} is judged beside: `espalier shadow report`");
        fields.push(("shadow", Cell::new(text)));
    }
    fields.extend(status.problems.iter().map(|problem| ("problem", out.cell(problem, Tone::Bad))));
    out.fields(fields.into_iter().map(|(name, value)| (name.to_owned(), value)))
}

fn flow_log(log: &FlowLogStatus, out: &Output) -> Cell {
    let (records, waiting) = (grouped(log.records), grouped(log.waiting));
    let text = format!("{}: {records} records, {waiting} waiting", log.file);
    match (log.records_lost, log.facts_lost) {
        (0, 0) => Cell::new(text),
        (records, facts) => {
            let text = format!("{text}; lost: {} records, {} facts", grouped(records), grouped(facts));
            out.cell(text, Tone::Bad)
        }
    }
}

fn packets(counters: &Counters, out: &mut Output) -> Result<(), CliError> {
    let dropped: u64 = counters.dropped.values().sum();
    let balance = balance(
        counters.rx,
        counters.accounted(),
        format!(
            "rx {} == forwarded {} + dropped {} + consumed {}",
            grouped(counters.rx),
            grouped(counters.forwarded),
            grouped(dropped),
            grouped(counters.consumed)
        ),
        out,
    );
    heading("packets", out)?;
    let mut fields = vec![("balance".to_owned(), balance)];
    fields
        .extend(counters.dropped.iter().map(|(reason, count)| (format!("dropped {reason}"), number(*count))));
    fields.push(("originated".to_owned(), number(counters.originated)));
    out.fields(fields)
}

fn frames(frames: &Frames, out: &mut Output) -> Result<(), CliError> {
    let sum = frames.free + frames.fill + frames.rx + frames.worker + frames.tx;
    let text = format!(
        "free {} + fill {} + rx {} + worker {} + tx {} == total {}",
        frames.free, frames.fill, frames.rx, frames.worker, frames.tx, frames.total
    );
    let balance = balance(frames.total, sum, text, out);
    heading("frames", out)?;
    out.fields([("balance".to_owned(), balance)])
}

/// `text` states an equation; where it does not hold, the sign and the colour say so.
fn balance(expected: u64, sum: u64, text: String, out: &Output) -> Cell {
    if expected == sum {
        return out.cell(text, Tone::Good);
    }
    let off = expected.abs_diff(sum);
    out.cell(format!("{}: OFF BY {}", text.replace("==", "!="), grouped(off)), Tone::Bad)
}

/// The exits that were taken; `--json` has them all.
fn steering(exits: &BTreeMap<String, u64>, out: &mut Output) -> Result<(), CliError> {
    let taken: Vec<_> = exits.iter().filter(|(_, count)| **count > 0).collect();
    if taken.is_empty() {
        return Ok(());
    }
    heading("steering", out)?;
    out.fields(taken.into_iter().map(|(label, count)| (label.clone(), number(*count))))
}

fn workers(status: &Status, format: Format, out: &mut Output) -> Result<(), CliError> {
    heading("workers", out)?;
    let rows: Vec<[Cell; 15]> = status
        .workers
        .iter()
        .map(|worker| {
            [
                Cell::new(worker.worker),
                state(worker.state, out),
                Cell::new(listed(worker.core)),
                Cell::new(listed(&worker.trunk_queues)),
                Cell::new(listed(worker.generation)),
                Cell::new(worker.pods),
                Cell::new(worker.flows),
                number(worker.batches),
                number(worker.sleeps),
                number(worker.counters.rx),
                number(worker.counters.forwarded),
                number(worker.counters.handed_out),
                Cell::new(listed(worker.pace.percentile(50).map(|bound| format!("<{}", grouped(bound))))),
                Cell::new(listed(worker.pace.percentile(99).map(|bound| format!("<{}", grouped(bound))))),
                Cell::new(in_rings(&worker.rings)),
            ]
        })
        .collect();
    let columns = [
        column("WORKER"),
        column("STATE"),
        column("CORE"),
        wide("TRUNK QUEUES"),
        wide("GENERATION"),
        column("PODS"),
        column("FLOWS"),
        wide("BATCHES"),
        wide("SLEEPS"),
        column("RX"),
        column("FORWARDED"),
        column("HANDED OUT"),
        if_it_fits("NS/PACKET"),
        wide("P99"),
        wide("IN RINGS"),
    ];
    out.list(columns, rows, format)
}

/// What waits in a worker's rings.
fn in_rings(rings: &WorkerRings) -> String {
    let WorkerRings { fill, tx, unsent, handover, held, free } = rings;
    format!("fill {fill}, tx {tx} ({unsent} unsent), handover {handover}, held {held}, free {free}")
}

fn state(state: WorkerState, out: &Output) -> Cell {
    match state {
        WorkerState::Running => out.cell("running", Tone::Good),
        WorkerState::Stalled => out.cell("stalled", Tone::Bad),
        WorkerState::Dead => out.cell("dead", Tone::Bad),
    }
}

fn heading(name: &str, out: &mut Output) -> Result<(), CliError> {
    out.line("")?;
    out.line(name)
}

fn number(count: u64) -> Cell {
    Cell::new(grouped(count))
}
