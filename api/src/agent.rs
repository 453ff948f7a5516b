//! What the node agent says of itself on its own socket (`GET /v1/status`): sources, generations, pods, problems.
//!
//! Written by `espalier-agent`, read by the CLI. Nothing here travels to the switch but [`AgentLease`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{EniId, Generation, GroupId, PodName, Vlan};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/espalier/agent.sock";

/// Something the agent could not do or must not guess; it stays listed until it is mended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What kind of problem, the label of `espalier_agent_problems`.
    pub reason: ProblemReason,
    /// What has it: a pod, a policy (`namespace/name`), a group, an EC2 action, a Kubernetes resource, a file.
    pub subject: String,
    /// What is wrong, what follows from it and how to mend it.
    pub message: String,
}

/// Kinds of problems. Their serde names are metric labels and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemReason {
    /// The pod's `vpc.amazonaws.com/pod-eni` annotation cannot be read.
    AnnotationMalformed,
    /// Two pods claim one branch ENI, VLAN, MAC or private address.
    BranchConflict,
    /// A policy of the pod's namespace selects it, but it has no branch ENI.
    BranchMissing,
    /// A selector of a SecurityGroupPolicy is not valid.
    SelectorInvalid,
    /// A SecurityGroupPolicy names no group, or one that is no `sg-…`, or has no selector.
    PolicyInvalid,
    /// The pod's service account is not known.
    ServiceAccountMissing,
    /// A group does not exist in EC2 or lies in another VPC.
    GroupUnknown,
    /// A group named by name or tag fits no group, or the name fits several.
    GroupUnresolved,
    /// Facts that the pod needs have not arrived yet; it is not sent to the switch before.
    Waiting,
    /// The interface is not known to EC2.
    InterfaceUnknown,
    /// A prefix list is not known to EC2.
    PrefixListUnknown,
    /// EC2 refuses an action that the agent's role does not have.
    Ec2AccessDenied,
    /// EC2 asks for fewer requests, or the agent's own budget is used up.
    Ec2Throttled,
    /// EC2 cannot be reached or fails.
    Ec2Unavailable,
    /// EC2 sent something that cannot be understood.
    Ec2Malformed,
    /// There are no AWS credentials, or they have expired.
    CredentialsInvalid,
    /// The node's clock and EC2's differ too much.
    ClockSkew,
    /// The Kubernetes API refuses what the agent's role does not have.
    KubernetesForbidden,
    /// The Kubernetes API cannot be reached or fails.
    KubernetesUnavailable,
    /// A custom resource the agent reads is not installed.
    KubernetesMissing,
    /// A file of the `file` source cannot be read.
    FileInvalid,
    /// The trunk ENI or its network interface cannot be found.
    TrunkMissing,
    /// The switch cannot be reached.
    SwitchUnavailable,
    /// The switch refuses the snapshot.
    SnapshotRefused,
    /// Another agent feeds the switch.
    SwitchTaken,
}

impl ProblemReason {
    /// The label used in metrics and tables: the serde name.
    pub fn label(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

impl Problem {
    /// A problem of `subject`.
    pub fn new(reason: ProblemReason, subject: impl ToString, message: impl Into<String>) -> Self {
        Self { reason, subject: subject.to_string(), message: message.into() }
    }
}

/// Answer to `GET /v1/status` on the agent's socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Version of the program.
    pub version: String,
    /// Name the agent holds the switch's lease under.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: f64,
    /// Where a pod's groups come from: `eni` or `policy`.
    pub group_source: String,
    /// Whether every source has answered at least once and the switch enforces what is desired.
    pub ready: bool,
    /// The sources and how old their knowledge is.
    pub sources: Vec<SourceStatus>,
    /// Generation that is desired; absent before the first.
    pub desired: Option<Generation>,
    /// Highest generation of this agent's that the switch enforces.
    pub enforced: Option<Generation>,
    /// Seconds since the enforced generation was acknowledged.
    pub enforced_seconds_ago: Option<f64>,
    /// Time from a change's arrival to its enforcement.
    pub latency: Option<LatencySummary>,
    /// The pods of the node that have or should have groups.
    pub pods: Vec<AgentPod>,
    /// What is wrong now.
    pub problems: Vec<Problem>,
}

/// One source of knowledge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// `kubernetes`, `ec2` or `file`.
    pub name: String,
    /// What is read from where (`https://…`, a folder).
    pub from: String,
    /// Whether everything needed has been read at least once.
    pub synced: bool,
    /// Seconds since the last answer; absent before the first.
    pub age_seconds: Option<f64>,
    /// Requests made in the last minute and allowed in one, where that is counted.
    pub requests: Option<RequestUse>,
    /// Objects known, by kind.
    pub known: BTreeMap<String, u64>,
}

/// Use of a request budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestUse {
    /// Requests in the last 60 seconds.
    pub last_minute: u32,
    /// Most that are made in 60 seconds.
    pub budget: u32,
    /// Requests since the start.
    pub total: u64,
}

/// Milliseconds from a change's arrival to its enforcement, since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencySummary {
    /// Changes measured.
    pub count: u64,
    /// Median of the last ones kept.
    pub p50_ms: f64,
    /// 99th percentile of the last ones kept.
    pub p99_ms: f64,
    /// The last one.
    pub last_ms: f64,
}

/// A pod as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentPod {
    /// `namespace/name`.
    pub name: PodName,
    /// The branch ENI, where the pod has one.
    pub eni_id: Option<EniId>,
    /// Its VLAN.
    pub vlan: Option<Vlan>,
    /// The groups wanted for it, those that cannot be had included.
    pub security_groups: Vec<GroupId>,
    /// The policies that select it.
    pub policies: Vec<String>,
    /// What becomes of it.
    pub state: AgentPodState,
    /// Why, where it is not simply sent.
    pub reason: Option<String>,
}

/// What becomes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentPodState {
    /// In the snapshot.
    Sent,
    /// In the snapshot with the groups that could be had, and no others.
    Partial,
    /// Not in the snapshot yet: something it needs is not known.
    Held,
    /// It should have groups and has no branch; denied by the namespace's setting.
    Denied,
    /// It should have groups and has no branch; left to the kernel by the namespace's setting.
    Kernel,
}

/// First line of the answer to `GET /v1/agent?name=…` on the switch's socket: the lease, held while the answer is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentLease {
    /// To be sent with each snapshot, in the header `Espalier-Agent`.
    pub token: String,
    /// Generation the switch enforces; the agent's next one must be higher.
    pub generation: Option<Generation>,
}
