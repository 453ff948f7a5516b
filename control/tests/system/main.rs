//! Tests of the agent against real servers: a Kubernetes API server over HTTP, and EC2 (moto) behind a proxy that
//! breaks it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the kit cannot be set up or the agent does wrong: the test fails"
)]

mod api_server;
mod change;
mod cluster;
mod deploy;
mod ec2;
mod kit;
mod lab;
mod rbac;
mod scale;
mod site;
