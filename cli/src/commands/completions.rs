//! `espalier completions SHELL`: the script that has a shell ask this program for completions.

use std::process::ExitCode;

use crate::args::CompletionsArgs;
use crate::completion;
use crate::error::CliError;
use crate::output::Output;

pub(super) fn run(args: &CompletionsArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    out.text(&completion::script(args.shell)?)?;
    Ok(ExitCode::SUCCESS)
}
