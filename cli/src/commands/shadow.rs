//! `espalier shadow`: a snapshot judged beside the enforced one, and what it would change.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::recording::{ShadowChange, ShadowReport, ShadowStatus, VerdictChange};

use crate::args::{Format, Global, ShadowArgs, ShadowCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, column, duration, first_few, grouped, listed, wide};

const RESOURCE: &str = "/v1/shadow";
/// Pods named that the shadow lacks.
const PODS_SHOWN: usize = 3;

pub(super) fn run(global: &Global, args: &ShadowArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    match &args.command {
        ShadowCommand::Set { file, format } => set(global, file, format.format(), out),
        ShadowCommand::Report(format) => report(global, format.format(), out),
        ShadowCommand::Clear(format) => clear(global, format.format(), out),
    }
}

fn set(global: &Global, file: &Path, format: Format, out: &mut Output) -> Result<ExitCode, CliError> {
    let snapshot = super::load(file)?;
    let set = Client::connect(global)?.put(RESOURCE, &snapshot);
    let status: ShadowStatus = set.map_err(|error| error.about_file(file))?;
    if !out.data(format, &status)? {
        let line = format!(
            "generation {} is judged beside the enforced one; `espalier shadow report`",
            status.generation
        );
        out.line(out.paint(&line, Tone::Good))?;
        missing(&status, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(global: &Global, format: Format, out: &mut Output) -> Result<ExitCode, CliError> {
    let report: ShadowReport = Client::connect(global)?.get(RESOURCE)?;
    if !out.data(format, &report)? {
        show(&report, format, out)?;
    }
    Ok(if report.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn clear(global: &Global, format: Format, out: &mut Output) -> Result<ExitCode, CliError> {
    let before: Option<ShadowStatus> = Client::connect(global)?.delete(RESOURCE)?;
    if !out.data(format, &before)? {
        out.line(match before {
            Some(status) => format!("generation {} is not judged any more", status.generation),
            None => "no shadow was set".to_owned(),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn missing(status: &ShadowStatus, out: &mut Output) -> Result<(), CliError> {
    if status.pods_missing.is_empty() {
        return Ok(());
    }
    let pods = first_few(&status.pods_missing, PODS_SHOWN);
    out.line(format!("{} it lacks {pods}: nothing is said of them", out.paint("warning:", Tone::Bad)))
}

fn show(report: &ShadowReport, format: Format, out: &mut Output) -> Result<(), CliError> {
    let ShadowReport { shadow, enforced, .. } = report;
    let seconds = duration(shadow.seconds);
    out.line(format!(
        "shadow generation {}, enforced generation {enforced}, for {seconds}",
        shadow.generation
    ))?;
    out.line(format!(
        "decided alike: {} flows, {} packets without a flow",
        grouped(report.flows_same),
        grouped(report.packets_same)
    ))?;
    missing(shadow, out)?;
    if report.lost > 0 {
        let lost = grouped(report.lost);
        out.line(format!(
            "{} {lost} flows or packets could not be looked at",
            out.paint("warning:", Tone::Bad)
        ))?;
    }
    if report.changes.is_empty() {
        return out.line("nothing would be decided otherwise so far");
    }
    out.line("")?;
    let columns = [
        column("CHANGE"),
        column("POD"),
        column("DIR"),
        column("REMOTE"),
        column("TRAFFIC"),
        column("RULE"),
        wide("GROUP"),
        column("FLOWS"),
        column("PACKETS"),
        wide("FIRST"),
        wide("LAST"),
    ];
    let rows: Vec<_> = report.changes.iter().map(|change| cells(change, out)).collect();
    out.list(columns, rows, format)?;
    let more = report.more;
    if more.packets > 0 {
        out.line(format!("and {} flows, {} packets more", grouped(more.flows), grouped(more.packets)))?;
    }
    Ok(())
}

fn cells(change: &ShadowChange, out: &Output) -> [Cell; 11] {
    let (what, tone) = match change.change {
        VerdictChange::AllowToDeny => ("deny", Tone::Bad),
        VerdictChange::DenyToAllow => ("allow", Tone::Good),
    };
    let traffic = match change.port {
        Some(port) => format!("{}/{port}", change.protocol),
        None => change.protocol.to_string(),
    };
    let ago = |ms: u64| format!("{} ago", duration(ms / 1000));
    [
        out.cell(what, tone),
        Cell::new(&change.pod),
        Cell::new(change.direction.label()),
        Cell::new(change.remote),
        Cell::new(traffic),
        Cell::new(listed(change.rule.as_ref())),
        Cell::new(listed(change.group.as_ref())),
        Cell::new(grouped(change.counts.flows)),
        Cell::new(grouped(change.counts.packets)),
        Cell::new(ago(change.first_seen_ms)),
        Cell::new(ago(change.last_seen_ms)),
    ]
}
