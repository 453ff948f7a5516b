//! A VPC on one machine: pods, hosts and a VLAN fabric in network namespaces.
//!
//! The `espalier lab` commands and other crates' tests call it. It promises that what it made is gone afterwards.

mod error;
mod name;
pub mod netns;
pub mod packet_socket;
pub mod scenario;
pub mod topology;

pub use error::LabError;
pub use name::{DEFAULT_NAME, LabName};
