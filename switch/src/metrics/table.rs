//! Every metric of the switch, with its type, labels and help: what is exported, and what docs/METRICS.md lists.

use prometheus_client::registry::Unit;

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Without prefix, unit and `_total`.
    name: &'static str,
    /// What its values are.
    pub kind: Kind,
    unit: &'static str,
    /// The labels, in order.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, and begins anew with the switch.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by class.
    Histogram,
}

impl Kind {
    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Metric {
    /// Without prefix, as the encoder wants it.
    pub(super) fn stem(&self) -> &'static str {
        self.name
    }

    pub(super) fn unit(&self) -> Option<Unit> {
        match self.unit {
            "" => None,
            "seconds" => Some(Unit::Seconds),
            "bytes" => Some(Unit::Bytes),
            other => Some(Unit::Other(other.to_owned())),
        }
    }

    /// The name under which samples are found; of a histogram, without `_bucket`, `_sum` and `_count`.
    pub fn full_name(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!("_{}", self.unit) };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}_{}{unit}{total}", super::PREFIX, self.name)
    }
}

macro_rules! metrics {
    ($($ident:ident: $kind:ident $name:literal [$unit:literal] ($($label:literal),*) $help:literal;)+) => {
        $(pub(super) const $ident: Metric = Metric {
            name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help,
        };)+

        /// All of them.
        pub const ALL: &[Metric] = &[$($ident),+];
    };
}

metrics! {
    BUILD: Gauge "build_info" [""] ("version") "The running switch; always 1";
    START: Gauge "start_time" ["seconds"] () "When the switch started, in Unix time";
    GENERATION: Gauge "generation_enforced" [""] () "Number of the snapshot that every worker enforces; 0 before the first";
    PROBLEMS: Gauge "problems" [""] () "Things that are not as they should be; `espalier status` names them";
    PODS: Gauge "pods" [""] ("state") "Pods of the snapshot, by the state of their port";
    GROUPS: Gauge "security_groups" [""] () "Security groups in force";
    RULES: Gauge "rules" [""] () "Rules in force";

    RECEIVED: Counter "received" ["packets"] () "Packets received from ports";
    FORWARDED: Counter "forwarded" ["packets"] () "Packets handed to a port to send";
    CONSUMED: Counter "consumed" ["packets"] () "Packets answered or used up by the switch itself: ARP, neighbour discovery";
    DROPPED: Counter "dropped" ["packets"] ("reason") "Packets dropped";
    ORIGINATED: Counter "originated" ["packets"] () "Packets that the switch made";
    STEERING: Counter "steering" ["packets"] ("exit") "Packets by what the XDP programs did with them";
    LOST: Counter "port_lost" ["packets"] ("port", "reason") "Packets lost at a port before the switch saw them; pods' ports only where there were any";
    FRAMES: Gauge "frames" [""] ("owner") "Frames of the UMEM, by who has them";

    POD_FORWARDED: Counter "pod_forwarded" ["packets"] ("namespace", "pod", "direction") "Packets of a pod that passed: egress left its side, ingress was handed to its port";
    POD_FORWARDED_BYTES: Counter "pod_forwarded" ["bytes"] ("namespace", "pod", "direction") "Bytes of those";
    POD_DROPPED: Counter "pod_dropped" ["packets"] ("namespace", "pod", "direction", "reason") "Packets of a pod that were dropped; reasons that occurred";
    POD_CONSUMED: Counter "pod_consumed" ["packets"] ("namespace", "pod") "Packets from a pod that the switch answered or used up itself";
    POD_UP: Gauge "pod_up" [""] ("namespace", "pod") "Whether the pod's port carries traffic";

    RULE_PACKETS: Counter "rule" ["packets"] ("group", "rule", "way") "Packets that a rule let pass, in its direction or as replies";
    RULE_BYTES: Counter "rule" ["bytes"] ("group", "rule", "way") "Bytes of those";
    RULE_FLOWS: Counter "rule" ["flows"] ("group", "rule") "Flows that a rule let begin";
    RULE_REFUSED: Counter "rule_refused" ["flows"] ("group", "rule") "Flows that a rule allowed, refused for want of room in the flow table";
    GROUP_PACKETS: Counter "group" ["packets"] ("group", "way") "Packets that the rules of a group let pass; groups with any";
    GROUP_BYTES: Counter "group" ["bytes"] ("group", "way") "Bytes of those";

    WORKER_UP: Gauge "worker_up" [""] ("worker") "Whether a worker runs and answers";
    WORKER_PODS: Gauge "worker_pods" [""] ("worker") "Pods at home with a worker";
    WORKER_FLOWS: Gauge "worker_flows" [""] ("worker") "Flows in a worker's flow table";
    WORKER_CAPACITY: Gauge "worker_flow_capacity" [""] () "IPv4 flows that each worker's flow table takes; it takes a quarter as many of IPv6";
    WORKER_BATCHES: Counter "worker" ["batches"] ("worker") "Batches taken through the step";
    WORKER_SLEEPS: Counter "worker" ["sleeps"] ("worker") "Times a worker went to sleep for want of work";
    WORKER_RECEIVED: Counter "worker_received" ["packets"] ("worker") "Packets a worker received from its ports";
    WORKER_FORWARDED: Counter "worker_forwarded" ["packets"] ("worker") "Packets a worker handed to a port";
    WORKER_HANDED_OUT: Counter "worker_handed_out" ["packets"] ("worker") "Packets a worker handed to the homes of their pods";
    WORKER_RING: Gauge "worker_ring" ["frames"] ("worker", "ring") "What is in a worker's rings: `fill` and `tx` with the kernel, of these `unsent`; `handover` from other workers, `held` for moving pods";
    WORKER_FREE: Gauge "worker_free" ["frames"] ("worker") "Free frames in a worker's own pool";
    WORKER_PACKET: Histogram "worker_packet" ["seconds"] ("worker") "Time a packet takes a worker from the step to its place in a queue, mean of a batch, one batch in 64";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_helped() {
        let names: HashSet<_> = ALL.iter().map(Metric::full_name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|metric| !metric.help.is_empty() && !metric.help.ends_with('.')));
        assert_eq!(RULE_BYTES.full_name(), "espalier_rule_bytes_total");
        assert_eq!(START.full_name(), "espalier_start_time_seconds");
    }
}
