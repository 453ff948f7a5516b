//! `pktgen` as a process, on veths in network namespaces of their own: exact counts, exit codes, and nothing left over.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step of a test that fails fails the test")]

mod account;
mod kernel;
mod mirrored;
mod refusals;
mod sent;
mod site;
