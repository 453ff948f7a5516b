//! What the tests of the agent run against: a Kubernetes API server, EC2 (moto) and a proxy that breaks it.

pub(crate) mod big_ec2;
pub(crate) mod fault_proxy;
pub(crate) mod kube_api;
pub(crate) mod moto;
pub(crate) mod server;
