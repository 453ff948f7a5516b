//! `espalier`: the operator's commands and the front of the lab.
//!
//! Parses the command line, runs one command, and turns its outcome into the exit code that scripts rely on:
//! 0 done, 1 the answer is no, 2 bad usage or input, 3 cannot reach the switch.

mod args;
mod client;
mod commands;
mod completion;
mod error;
mod output;
mod queries;
mod source;
mod suggest;

use std::process::ExitCode;

use clap::Parser;

use crate::output::Output;

fn main() -> ExitCode {
    completion::answer();
    let cli = args::Cli::parse();
    let global = cli.global.clone();
    let mut out = Output::stdout();
    let outcome = commands::run(cli, &mut out).map_err(|error| suggest::pods_of_the_switch(error, &global));
    match outcome.and_then(|code| out.flush().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            if !error.is_closed_pipe() {
                output::fail(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}
