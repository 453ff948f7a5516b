//! `espalier lab`: a VPC on this machine, through crate `lab`.
//!
//! The lab removes what it made on every way out; here it is only asked, and its report printed.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::Cell;
use espalier_lab::{DEFAULT_NAME, Lab, LabInfo, LabName, Options, Scenario};
use serde::Serialize;

use crate::args::{ExecArgs, Format, LabCommand, MakeArgs, RunArgs};
use crate::error::CliError;
use crate::output::{Output, Tone, duration, listed};

pub(super) fn run(command: &LabCommand, out: &mut Output) -> Result<ExitCode, CliError> {
    match command {
        LabCommand::Run(args) => probe(args, out),
        LabCommand::Up(args) => up(args, out),
        LabCommand::Exec(args) => exec(args),
        LabCommand::Down(args) => down(&args.name, out),
        LabCommand::List(args) => list(args.format(), out),
    }
}

/// 0 when every probe went as expected.
fn probe(args: &RunArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let lab = make(&args.make)?;
    let report = lab.run_probes()?;
    let kept = if args.keep { Some(keep(lab)) } else { lab.remove().map(|()| None)? };
    if args.json {
        out.json(&report)?;
    } else {
        out.text(&report.table(out.colour()))?;
    }
    if let Some(info) = kept.flatten() {
        hints(&info).iter().for_each(|(what, how)| progress(&format!("{what}: {how}")));
    }
    Ok(ExitCode::from(u8::from(!report.is_success())))
}

fn up(args: &MakeArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let lab = make(args)?;
    out.line(out.paint(&format!("lab {} is up", lab.name()), Tone::Good))?;
    if let Some(info) = keep(lab) {
        out.fields(hints(&info).map(|(what, how)| (what.to_owned(), Cell::new(how))))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Leaves the lab up and says where it is.
fn keep(lab: Lab) -> Option<LabInfo> {
    let name = lab.name().to_string();
    lab.keep();
    espalier_lab::list().into_iter().find(|info| info.name == name)
}

/// What can be done with a lab that is up.
fn hints(lab: &LabInfo) -> [(&'static str, String); 4] {
    let flag = if lab.name == DEFAULT_NAME { String::new() } else { format!(" --name {}", lab.name) };
    let place = lab.endpoints.first().map_or("node", String::as_str);
    [
        ("look", format!("espalier --socket {} status", lab.socket.display())),
        ("enter", format!("espalier lab exec{flag} {place} -- sh")),
        ("remove", format!("espalier lab down{flag}")),
        ("places", listed(&lab.endpoints)),
    ]
}

fn make(args: &MakeArgs) -> Result<Lab, CliError> {
    let scenario = Scenario::load(&args.scenario)?;
    let options = Options {
        name: args.lab.name.clone(),
        mtu: args.mtu,
        switch: args.switch.clone(),
        switch_flags: args.switch_flags.clone(),
        log: args.log.clone(),
        progress,
        ..Options::default()
    };
    Ok(Lab::up(&options, scenario)?)
}

/// For people who wait; where standard error is closed there is nobody.
fn progress(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

fn exec(args: &ExecArgs) -> Result<ExitCode, CliError> {
    let status = Lab::attach(&args.lab.name)?.exec(&args.place, &args.command)?;
    Ok(ExitCode::from(as_a_shell(status)))
}

/// The command's exit code, or 128 and the signal that ended it.
fn as_a_shell(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn down(name: &LabName, out: &mut Output) -> Result<ExitCode, CliError> {
    Lab::down(name)?;
    out.line(format!("lab {name} is gone"))?;
    Ok(ExitCode::SUCCESS)
}

/// What `lab list --json` prints.
#[derive(Serialize)]
struct Listing {
    labs: Vec<LabInfo>,
    scenarios: Vec<Shipped>,
}

#[derive(Serialize)]
struct Shipped {
    name: &'static str,
    description: String,
}

fn list(format: Format, out: &mut Output) -> Result<ExitCode, CliError> {
    let scenarios = espalier_lab::scenarios().into_iter();
    let listing = Listing {
        labs: espalier_lab::list(),
        scenarios: scenarios.map(|(name, description)| Shipped { name, description }).collect(),
    };
    if out.data(format, &listing)? {
        return Ok(ExitCode::SUCCESS);
    }
    let labs: Vec<[Cell; 5]> = listing.labs.iter().map(|lab| row(lab, out)).collect();
    if labs.is_empty() {
        out.line("no lab is up: `espalier lab up` makes one")?;
    } else {
        out.table(["LAB", "SCENARIO", "AGE", "SWITCH", "PLACES"], labs)?;
    }
    out.line("")?;
    let rows =
        listing.scenarios.iter().map(|shipped| [Cell::new(shipped.name), Cell::new(&shipped.description)]);
    out.table(["SCENARIO", "DESCRIPTION"], rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(lab: &LabInfo, out: &Output) -> [Cell; 5] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let switch = if lab.switch_answers { ("answers", Tone::Good) } else { ("does not answer", Tone::Bad) };
    [
        Cell::new(&lab.name),
        Cell::new(lab.scenario.as_deref().unwrap_or("unfinished")),
        Cell::new(listed(lab.since.map(|since| duration(now.saturating_sub(since))))),
        out.cell(switch.0, switch.1),
        Cell::new(listed(&lab.endpoints)),
    ]
}
