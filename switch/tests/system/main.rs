//! The whole switch with the real kernel: `espalier-switch` as a process in a lab of network namespaces.
//!
//! Every test makes a lab of its own name, so that tests run side by side, and removes it also on panic. Needs root.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bulk;
mod churn;
mod counters;
mod crash;
mod flows;
mod frames;
mod hostile;
mod live;
mod many;
mod process;
mod refusals;
mod request;
mod restart;
mod scenarios;
mod site;
mod traffic;
mod tuning;
mod watch;
mod workers;
