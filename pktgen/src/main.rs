//! `pktgen`: parses the command line, runs one command, and turns its outcome into the exit code:
//! 0 done, 1 loss or disorder beyond what was allowed, 2 bad usage or input, or it could not run.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use espalier_pktgen::args::Cli;
use espalier_pktgen::commands;
use espalier_pktgen::engine::Watch;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let watch = Watch::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, watch.flag()) {
            return fail(&format!("cannot handle signals: {error}"));
        }
    }
    match commands::run(&cli.command, &watch) {
        Ok(verdict) => verdict.into(),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(2)
}
