//! A VPC on one machine: pods, hosts and a VLAN fabric in network namespaces.
//!
//! The `espalier lab` commands and other crates' tests call it. It promises that what it made is gone afterwards.

pub mod netns;
