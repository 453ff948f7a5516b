//! The load generator of Espalier: frames with sequence numbers and times go out, and what became of them is counted.
//!
//! `pktgen` (main.rs) is its command line; tests and benches may use the parts. Frames leave through AF_XDP or are
//! made by the kernel itself, and come back in through AF_XDP, in network namespaces of one machine or on two hosts.

pub mod args;
pub mod capture;
pub mod checksum;
pub mod clock;
pub mod commands;
pub mod endpoint;
pub mod engine;
mod error;
pub mod frame;
pub mod layout;
pub mod mirror;
pub mod progress;
pub mod rate;
pub mod received;
pub mod receiver;
pub mod report;
pub mod stamp;
pub mod station;
pub mod tracker;
pub mod traffic;

pub use error::PktgenError;
