//! `espalier replay`: becomes `espalier-switch replay`, because only the switch's program has the packet path.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use espalier_api::InputError;

use crate::args::ReplayArgs;
use crate::error::CliError;

pub(super) fn run(args: &ReplayArgs) -> Result<ExitCode, CliError> {
    let program = espalier_lab::switch_program()?;
    let mut command = Command::new(&program);
    command.arg("replay").arg(&args.file).arg("--snapshot").arg(&args.snapshot);
    command.arg("--pod").arg(args.pod.as_str());
    if args.json {
        command.arg("--json");
    }
    // It returns only if it could not be started.
    let error = command.exec();
    Err(InputError::new("", format!("{} cannot be started: {error}", program.display())).into())
}
