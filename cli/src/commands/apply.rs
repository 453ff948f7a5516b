//! `espalier apply FILE`: a snapshot file to the switch, enforced when the command returns.

use std::process::ExitCode;

use espalier_api::Snapshot;
use espalier_api::control::Applied;

use crate::args::{ApplyArgs, Global};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone};

pub(super) fn run(global: &Global, args: &ApplyArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let snapshot = super::load(&args.file)?;
    let resource = if args.force { "/v1/snapshot?force=true" } else { "/v1/snapshot" };
    let applied: Applied =
        Client::connect(global)?.put(resource, &snapshot).map_err(|error| error.about_file(&args.file))?;
    if args.json {
        out.json(&applied)?;
    } else {
        show(&applied, &snapshot, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(applied: &Applied, snapshot: &Snapshot, out: &mut Output) -> Result<(), CliError> {
    let what = if applied.changed { "enforced" } else { "already enforced, nothing changed" };
    let line = format!(
        "generation {} {what} ({} pods, {} security groups, {:.1} ms)",
        applied.generation,
        snapshot.pods.len(),
        snapshot.security_groups.len(),
        applied.enforced_in_ms
    );
    out.line(out.paint(&line, Tone::Good))?;
    for warning in &applied.warnings {
        out.line(format!("{} {warning}", out.paint("warning:", Tone::Bad)))?;
    }
    Ok(())
}
