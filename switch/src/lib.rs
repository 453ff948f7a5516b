//! The datapath process `espalier-switch`, as a library: the worker's pure step, what feeds it, and its control.

pub mod checksum;
mod clock;
pub mod config;
pub mod control;
pub mod counters;
pub mod facts;
pub mod filter;
pub mod flow;
pub mod flowlog;
pub mod ip;
mod journal;
pub mod manager;
pub mod metrics;
pub mod neighbour;
mod netns;
pub mod observe;
pub mod packet;
pub mod reason;
pub mod replay;
pub mod responder;
mod shadow;
pub mod step;
pub mod tables;
pub mod tuning;
pub mod watch;
pub mod watchdog;
pub mod worker;
