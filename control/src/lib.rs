//! The node agent: it learns what this node's pods need from Kubernetes and EC2 and sends it to the switch as snapshots.
//!
//! A library, so that tests and benches run the same parts as the program `espalier-agent`.

pub mod agent;
pub mod cluster;
pub mod config;
pub mod desired;
pub mod ec2;
pub mod facts;
pub mod file;
pub mod kube;
pub mod metrics;
pub mod places;
pub mod push;
pub mod serve;
pub mod status;
