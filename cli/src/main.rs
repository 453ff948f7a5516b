//! `espalier`: the operator's commands and the front of the lab.
//!
//! Parses the command line, runs one command, and turns its outcome into the exit code that scripts rely on:
//! 0 done, 1 the answer is no, 2 bad usage or input, 3 cannot reach the switch.

mod args;
mod client;
mod commands;
mod error;
mod output;
mod queries;

use std::io::Write;
use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::Parser;

use crate::error::CliError;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let mut out = Output::stdout();
    let outcome = commands::run(cli, &mut out);
    match outcome.and_then(|code| out.flush().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Says on standard error what went wrong; where standard error is closed too, the exit code has to do.
fn report(error: &CliError) {
    if error.is_closed_pipe() {
        return;
    }
    let style = AnsiColor::Red.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {error}");
}
