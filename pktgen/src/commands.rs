//! The commands, each from its options to its report and exit code.

mod reflect;
mod replay;
mod search;
mod send;
mod session;
mod sink;

use std::process::ExitCode;

pub use send::measure;

use crate::args::Command;
use crate::engine::Watch;
use crate::error::PktgenError;

/// What the exit code says of a command that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// More was lost, repeated or disordered than the options allow, or there is no rate to be found.
    Bad,
}

/// Runs one command until it is done or `watch` stops it, and prints its report.
pub fn run(command: &Command, watch: &Watch) -> Result<Verdict, PktgenError> {
    match command {
        Command::Send(args) => send::run(args, watch),
        Command::Sink(args) => sink::run(args, watch),
        Command::Reflect(args) => reflect::run(args, watch),
    }
}

impl Verdict {
    fn good(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Good => Self::SUCCESS,
            Verdict::Bad => Self::from(1),
        }
    }
}
