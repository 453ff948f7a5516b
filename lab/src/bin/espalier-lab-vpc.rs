//! The VPC's resolver and metadata service of one lab, started by `espalier lab` inside the VPC namespace.
//!
//! Takes one argument, a JSON file with names and addresses, and serves until it is killed.

use std::io::Write as _;
use std::process::ExitCode;

use espalier_lab::services;

fn main() -> ExitCode {
    let Err(message) = run();
    // Nothing is left to do where even stderr is gone.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::FAILURE
}

fn run() -> Result<std::convert::Infallible, String> {
    let path = std::env::args().nth(1).ok_or("usage: espalier-lab-vpc FILE; `espalier lab up` starts it")?;
    let text = std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
    let config = serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))?;
    Err(match services::serve(config) {
        Ok(()) => "the services ended".to_owned(),
        Err(error) => error.to_string(),
    })
}
