//! What the agent knows of Kubernetes: pods of this node, policies, service accounts, namespaces, the node.
//!
//! Plain data made by a [`ClusterSource`] (the API server, or a folder of YAML) and read by `desired`. Objects are
//! reduced to what matters while they arrive; what is wrong with one stands in the object, so that it can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use espalier_api::PodName;
use espalier_api::agent::Problem;
use tokio::sync::watch;

mod branch;
mod policy;
pub(crate) mod reduce;
mod selector;

pub use branch::{Branch, POD_ENI_ANNOTATION};
pub use policy::{AUDIT_ANNOTATION, GROUPS_ANNOTATION, ON_RULE_CHANGE_ANNOTATION, Policy};
pub use reduce::{SecurityGroupPolicy, SecurityGroupPolicySpec, SecurityGroups};
pub use selector::Selector;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A namespace and a name in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything known. Objects are shared, so that publishing a change copies pointers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// Pods of this node.
    pub pods: BTreeMap<PodName, Arc<PodFacts>>,
    /// SecurityGroupPolicies of all namespaces.
    pub policies: BTreeMap<ObjectName, Arc<Policy>>,
    /// Labels of the service accounts.
    pub service_accounts: BTreeMap<ObjectName, Arc<Labels>>,
    /// Annotations of the namespaces.
    pub namespaces: BTreeMap<String, Arc<Labels>>,
    /// This node.
    pub node: NodeFacts,
    /// What could not be read, and why.
    pub problems: Vec<Problem>,
    /// Kinds (plural resource names) that have been read whole at least once.
    pub synced: BTreeSet<&'static str>,
    /// Since when some of it may be old, as it cannot be read again; absent while it is followed live.
    pub stale_since: Option<SystemTime>,
    /// When what changed last was learnt.
    pub learnt: Option<Instant>,
}

/// A pod, as far as its groups depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// `namespace/name`.
    pub name: PodName,
    /// Its UID; another one is another pod.
    pub uid: String,
    /// Seconds since 1970 when it was made.
    pub created: i64,
    /// Its labels.
    pub labels: Labels,
    /// `spec.serviceAccountName`, `default` where it has none.
    pub service_account: String,
    /// Who gives it its network.
    pub class: PodClass,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it has ended (phase Succeeded or Failed): its branch is given to others.
    pub finished: bool,
    /// `status.podIPs`: set once it has a network.
    pub addresses: Vec<IpAddr>,
    /// What the annotation says of its branch ENI; `Err` says why it cannot be read.
    pub branch: Option<Result<Branch, String>>,
}

/// Who gives a pod its network (webhook `mpod.vpc.k8s.aws`, in its order).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodClass {
    /// The host's own.
    HostNetwork,
    /// Fargate.
    Fargate,
    /// Windows.
    Windows,
    /// The VPC CNI on Linux: the only one that can have a branch ENI here.
    Linux,
}

/// This node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Label `node.kubernetes.io/instance-type`.
    pub instance_type: Option<String>,
    /// `i-…` from `spec.providerID`.
    pub instance_id: Option<String>,
    /// Whether the node's CNINode asks for security groups for pods.
    pub asks_for_branches: Option<bool>,
}

/// Somebody who knows the cluster. It runs until the receiver it returns is dropped.
pub trait ClusterSource {
    /// `kubernetes` or `file`.
    fn name(&self) -> &'static str;

    /// Where it looks, for people.
    fn place(&self) -> String;

    /// Starts to look, on the current tokio runtime. Sends whenever something changed.
    fn start(self: Box<Self>) -> watch::Receiver<Arc<Cluster>>;
}
