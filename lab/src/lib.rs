//! A VPC on one machine: pods, hosts and a VLAN fabric in network namespaces.
//!
//! The `espalier lab` commands and other crates' tests call it. It promises that what it made is gone afterwards.

pub mod control;
mod dns;
mod error;
mod interrupt;
mod lifecycle;
mod name;
pub mod netns;
pub mod packet_socket;
mod probe;
mod processes;
mod report;
mod run_dir;
pub mod scenario;
pub mod services;
pub mod topology;
mod wait;

pub use error::LabError;
pub use lifecycle::{Lab, LabInfo, Options, list};
pub use name::{DEFAULT_NAME, LabName};
pub use processes::{end_child, switch_program};
pub use report::{Got, ProbeResult, Report};
pub use scenario::{DEFAULT_SCENARIO, Scenario, shipped as scenarios};
pub use wait::wait_for;
