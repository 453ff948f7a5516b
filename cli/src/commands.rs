//! One module a command; [`run`] picks it.
//!
//! A command asks (the switch, a file, the lab), prints through [`Output`], and returns the exit code of its answer.

mod apply;
mod capture;
mod completions;
mod explain;
mod flows;
mod groups;
mod lab;
mod man;
mod metrics;
mod pods;
mod replay;
mod rules;
mod shadow;
mod status;
mod top;
mod trace;

use std::path::Path;
use std::process::ExitCode;

use espalier_api::{Snapshot, file};

use crate::args::{Cli, Command};
use crate::error::CliError;
use crate::output::Output;

/// Runs the command and returns 0 for done or yes, 1 for no.
pub(crate) fn run(cli: Cli, out: &mut Output) -> Result<ExitCode, CliError> {
    let global = &cli.global;
    match &cli.command {
        Command::Apply(args) => apply::run(global, args, out),
        Command::Status(args) => status::run(global, args, out),
        Command::Pods(args) => pods::run(global, args, out),
        Command::Groups(args) => groups::run(global, args, out),
        Command::Rules(args) => rules::run(global, args, out),
        Command::Explain(args) => explain::run(global, args, out),
        Command::Capture(args) => capture::run(global, args, out),
        Command::Replay(args) => replay::run(args),
        Command::Trace(args) => trace::run(global, args, out),
        Command::Shadow(args) => shadow::run(global, args, out),
        Command::Flows(args) => flows::run(global, args, out),
        Command::Top(args) => top::run(global, args, out),
        Command::Metrics => metrics::run(global, out),
        Command::Lab(args) => lab::run(&args.command, out),
        Command::Completions(args) => completions::run(args, out),
        Command::Man(args) => man::run(args, out),
    }
}

/// The snapshot in `path`, where `-` is standard input.
pub(crate) fn load(path: &Path) -> Result<Snapshot, CliError> {
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    Ok(file::load(path)?)
}
