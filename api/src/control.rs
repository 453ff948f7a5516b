//! Requests and replies of the control socket: HTTP/1.1 and JSON under `/v1` on a unix socket.
//!
//! | call | body | reply |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `PUT /v1/snapshot` | [`crate::Snapshot`] | [`Applied`], once every worker enforces it |
//! | `GET /v1/snapshot` | | the enforced [`crate::Snapshot`] |
//! | `GET /v1/pods` | | `[`[`PodStatus`]`]` |
//! | `POST /v1/pods/{namespace}/{name}/move` | [`MovePod`] | [`Moved`], once the pod lives there |
//! | `POST /v1/pods/rebalance` | [`Rebalance`] | `[`[`Moved`]`]`, what evens out the workers' packets |
//! | `GET /v1/groups` | | `[`[`GroupStatus`]`]` |
//! | `GET /v1/pods/{namespace}/{name}/rules` | | `[`[`RuleStatus`]`]` |
//! | `GET /v1/rules` | | [`crate::hits::RuleUsage`], the rules in force and what each let pass |
//! | `GET /v1/metrics` | | text of OpenMetrics |
//! | `/v1/flows` | | see [`crate::flows`] |
//! | `GET /v1/agent?name=NAME` | | one line, [`crate::agent::AgentLease`]; the lease lasts as long as the reply |
//! | `/v1/shadow` | | see [`crate::recording`] |
//! | `POST /v1/explain` | `[`[`Query`](crate::explain::Query)`]` | `[`[`Answer`](crate::explain::Answer)`]`, same order |
//!
//! While an agent holds the lease, `PUT /v1/snapshot` needs its token in the header [`AGENT_HEADER`], or `?force=true`;
//! else it is refused with 409, and so is a second agent.
//!
//! A refusal is a 4xx with an [`ErrorReply`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::hits::RuleHits;
use crate::ids::{EniId, Generation, GroupId, Mac, PodName, Vlan};
use crate::recording::FlowLogStatus;
use crate::rule::SecurityGroupRule;

/// Where the switch listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/espalier/switch.sock";

/// Header with the token of the agent's lease.
pub const AGENT_HEADER: &str = "espalier-agent";

/// The agent that feeds the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentHolder {
    /// Its name: that of its node.
    pub name: String,
    /// Seconds since it took the lease.
    pub seconds: u64,
}

/// Body of every 4xx and 5xx reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What was refused and how to mend it.
    pub error: crate::InputError,
}

/// Reply to an accepted snapshot: it is enforced by every worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The generation enforced now.
    pub generation: Generation,
    /// Milliseconds from the request to the end of the grace period.
    pub enforced_in_ms: f64,
    /// Whether anything differed from what was enforced before.
    pub changed: bool,
    /// What is not as it should be, though the snapshot is in force (a pod whose veth is missing).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// State of the whole switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the switch program.
    pub version: String,
    /// [`crate::VERSION`] it speaks.
    pub api_version: u32,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The generation every worker enforces; absent before the first snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The agent that feeds the switch, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentHolder>,
    /// The trunk, once a snapshot named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<TrunkStatus>,
    /// Number of pods, groups, and rules in force.
    pub pods: usize,
    /// Groups in force.
    pub groups: usize,
    /// Rules in force.
    pub rules: usize,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// Who owns the frames of the UMEM.
    pub frames: Frames,
    /// Packets since the start, summed over workers.
    pub counters: Counters,
    /// Exits of the steering programs, by label.
    pub steering: BTreeMap<String, u64>,
    /// What the kernel and the interfaces allow here.
    pub capabilities: Capabilities,
    /// The flow log, if one is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_log: Option<FlowLogStatus>,
    /// Generation of the shadow that is judged beside the enforced snapshot, if one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Generation>,
    /// What is not as it should be.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// What was found on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Release of the kernel.
    pub kernel: String,
    /// Packets of several frames (`XDP_USE_SG`, Linux 6.6): jumbo MTUs cross.
    pub multi_buffer: bool,
    /// Largest packet that crosses, bytes with the Ethernet header.
    pub max_packet: usize,
    /// Whether the UMEM lies in huge pages.
    pub hugepages: bool,
}

/// State of the trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrunkStatus {
    /// Name of the interface.
    pub interface: String,
    /// Its MTU.
    pub mtu: u32,
    /// Driver, as ethtool names it.
    pub driver: String,
    /// Its queues that have a socket.
    #[serde(default)]
    pub queues: usize,
    /// How the steering program is attached.
    pub xdp: XdpStatus,
    /// What the kernel could not do for its sockets.
    #[serde(default)]
    pub kernel: KernelCounters,
}

/// How a steering program is attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XdpStatus {
    /// `native` or `generic`.
    pub mode: String,
    /// Why native mode was refused, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

/// Whether a worker works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkerState {
    /// It does.
    #[default]
    Running,
    /// It has shown no life for more than two seconds, though it wakes four times a second without work. Its counters
    /// are those of its last report.
    Stalled,
    /// Its thread has ended; the switch is about to end too.
    Dead,
}

/// Where a pod is to live from now on: body of `POST /v1/pods/{namespace}/{name}/move`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MovePod {
    /// Index of the worker.
    pub worker: usize,
}

/// Reply to a move: what was moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// The pod.
    pub pod: PodName,
    /// Its home until now.
    pub from: usize,
    /// Its home from now on.
    pub to: usize,
    /// Flows that went along.
    pub flows: u64,
    /// Flows the new home had no room for: their next packets are judged anew.
    pub flows_lost: u64,
    /// Milliseconds in which the pod's packets waited.
    pub held_ms: f64,
}

/// Body of `POST /v1/pods/rebalance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rebalance {
    /// Milliseconds in which packets are counted before it is decided what to move.
    #[serde(default = "one_second")]
    pub interval_ms: u64,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { interval_ms: one_second() }
    }
}

fn one_second() -> u64 {
    1000
}

/// State of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Index of the worker.
    pub worker: usize,
    /// Whether it works.
    #[serde(default)]
    pub state: WorkerState,
    /// The trunk's queues it serves; it sends by the first.
    #[serde(default)]
    pub trunk_queues: Vec<u32>,
    /// The core it is pinned to; absent where pinning is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<usize>,
    /// Generation it enforces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Pods at home on it.
    pub pods: usize,
    /// Batches stepped.
    pub batches: u64,
    /// Times it slept in poll(2).
    pub sleeps: u64,
    /// How long a packet takes, by a batch in 64.
    #[serde(default)]
    pub pace: PacketTimes,
    /// What waits in its rings now.
    #[serde(default)]
    pub rings: WorkerRings,
    /// Live flows.
    pub flows: usize,
    /// Its packets.
    pub counters: Counters,
}

/// Batches of a worker by the time that a packet of theirs took, from the step to its place in a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketTimes {
    /// Upper bounds of the classes, nanoseconds.
    pub bounds_ns: Vec<u64>,
    /// Batches of each class, not cumulative; one more than there are bounds, for what is above all.
    pub batches: Vec<u64>,
    /// Nanoseconds a packet, summed over the batches.
    pub sum_ns: u64,
}

impl PacketTimes {
    /// The bound that so many in a hundred batches are below; nothing where none was timed, or it is above all.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let all: u64 = self.batches.iter().sum();
        let mut left = (all * percent).div_ceil(100).max(1);
        for (bound, batches) in self.bounds_ns.iter().zip(&self.batches) {
            if *batches >= left {
                return Some(*bound);
            }
            left -= batches;
        }
        None
    }
}

/// Frames and packets in a worker's rings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRings {
    /// Frames in fill rings, and received but not yet taken from the receive rings.
    pub fill: u64,
    /// Frames with the kernel to send, those in unread completion rings included.
    pub tx: u64,
    /// Of those, what the kernel has not taken.
    pub unsent: u64,
    /// Packets that other workers have handed over.
    pub handover: u64,
    /// Packets held for pods on their way to the worker.
    pub held: u64,
    /// Free frames in the worker's own pool.
    pub free: u64,
}

/// Owners of the frames; they add up to `total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frames {
    /// In no ring and no hand.
    pub free: u64,
    /// Given to the kernel to receive into.
    pub fill: u64,
    /// Received, not yet taken from the ring.
    pub rx: u64,
    /// In a worker's hands.
    pub worker: u64,
    /// Given to the kernel to send.
    pub tx: u64,
    /// All frames of the UMEM.
    pub total: u64,
}

/// Packets. At every batch boundary of a worker `rx + handedIn == forwarded + Σ dropped + consumed + handedOut`, and over
/// all workers, when none is under way between two of them, `rx == forwarded + Σ dropped + consumed`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Received from ports.
    pub rx: u64,
    /// Taken over from other workers, which received them; over all workers as many as `handedOut`.
    #[serde(default)]
    pub handed_in: u64,
    /// Handed over to the workers that are their pods' homes.
    #[serde(default)]
    pub handed_out: u64,
    /// Handed to a port to send.
    pub forwarded: u64,
    /// Answered or used up by the switch itself (ARP, neighbour discovery).
    pub consumed: u64,
    /// Dropped, by reason. Only reasons that occurred are listed.
    pub dropped: BTreeMap<String, u64>,
    /// Frames the switch itself made (ARP and neighbour discovery); not part of the sum.
    pub originated: u64,
}

impl Counters {
    /// Packets that left the switch in a counted way; over all workers equals `rx` when nothing is under way.
    pub fn accounted(&self) -> u64 {
        self.forwarded + self.consumed + self.dropped.values().sum::<u64>()
    }
}

/// What the kernel could not do for a port. Receive counts are packets lost before the switch saw them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelCounters {
    /// Packets dropped on receive: no frame to receive into, or too long.
    pub rx_dropped: u64,
    /// Packets dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times no frame was left to receive into.
    pub rx_fill_ring_empty: u64,
    /// Descriptors the kernel, or the switch, found invalid; always 0 unless there is a bug.
    pub invalid_descriptors: u64,
    /// Received packets of more frames than a packet may have.
    pub rx_oversized: u64,
}

/// State of one pod's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// The pod.
    pub name: PodName,
    /// Its branch ENI.
    pub eni_id: EniId,
    /// VLAN of the branch.
    pub vlan: Vlan,
    /// MAC of the branch.
    pub mac: Mac,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Groups.
    pub security_groups: Vec<GroupId>,
    /// Host end of its veth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub veth: Option<String>,
    /// `up`, or why not.
    pub state: PortState,
    /// Whether it, or a group it has, is in audit mode: what its groups deny passes.
    #[serde(default)]
    pub audit: bool,
    /// How the steering program is attached to the veth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdp: Option<XdpStatus>,
    /// What is changed at its veth.
    #[serde(default)]
    pub tuning: PodTuning,
    /// MAC of the next hop, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_mac: Option<Mac>,
    /// MAC of the pod's own interface, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_mac: Option<Mac>,
    /// Home worker.
    pub worker: usize,
    /// Packets, seen from this pod.
    pub counters: PodCounters,
    /// What the kernel could not do for its socket.
    #[serde(default)]
    pub kernel: KernelCounters,
}

/// What the switch changes at both ends of a pod's veth while it is attached (`--pod-tuning`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTuning {
    /// What is in effect: `gro`, `threaded-napi`, `qdisc KIND`, `no-tx-checksum`.
    #[serde(default)]
    pub applied: Vec<String>,
    /// Why nothing is, where something should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untuned: Option<String>,
}

/// Whether a pod's port carries traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state", content = "reason")]
pub enum PortState {
    /// Attached, its policy is live.
    Up,
    /// Not attached: traffic of this pod is dropped.
    Down(String),
}

/// Packets of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCounters {
    /// From the pod.
    pub rx: u64,
    /// Bytes from the pod.
    pub rx_bytes: u64,
    /// To the pod.
    pub tx: u64,
    /// Bytes to the pod.
    pub tx_bytes: u64,
    /// Of those from the pod, the packets that left its side: sent to the trunk, or let through to the policy of another
    /// pod of the node. When none is under way `rx == out + consumed + Σ egressDropped`.
    #[serde(default)]
    pub out: u64,
    /// Bytes of those.
    #[serde(default)]
    pub out_bytes: u64,
    /// Of those from the pod, the packets that the switch answered or used up itself.
    #[serde(default)]
    pub consumed: u64,
    /// Dropped coming from the pod, by reason.
    pub egress_dropped: BTreeMap<String, u64>,
    /// Dropped on the way to the pod, by reason.
    pub ingress_dropped: BTreeMap<String, u64>,
    /// Let out by audit mode, by why it would have been dropped; not part of those dropped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub egress_would_deny: BTreeMap<String, u64>,
    /// Let in by audit mode, by why it would have been dropped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ingress_would_deny: BTreeMap<String, u64>,
}

/// A group as the switch knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// The group.
    pub group_id: GroupId,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    /// Inbound rules.
    pub ingress_rules: usize,
    /// Outbound rules.
    pub egress_rules: usize,
    /// Addresses and prefixes of its members.
    pub members: usize,
    /// Pods of this node that have it.
    pub pods: Vec<PodName>,
    /// What its rules let pass, those that are gone included; absent where no switch was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<RuleHits>,
}

/// A rule in force for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// The group it comes from.
    pub group: GroupId,
    /// The rule.
    pub rule: SecurityGroupRule,
    /// How many addresses and prefixes its target stands for now.
    pub targets: usize,
    /// What it let pass, for all pods of the node; absent where no switch was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<RuleHits>,
}
