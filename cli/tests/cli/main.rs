//! The real `espalier` binary, run as its users run it: what it prints, where, and how it exits.
//!
//! The running switch is stood in for only where the real one cannot misbehave as the test needs (`transport`).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails here fails the test")]

mod book;
mod capture;
mod format;
mod help;
mod lab;
mod offline;
mod refusals;
mod replay;
mod shell;
mod support;
mod switch;
mod terminal;
mod top;
mod transport;
mod versions;
