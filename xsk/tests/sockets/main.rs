//! UMEM and ports on the real kernel: veths between namespaces of the tests' own, frames counted to the last one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod generated;
mod lab;
mod lifetimes;
mod memory;
mod ownership;
mod site;
mod steered;
mod traffic;
