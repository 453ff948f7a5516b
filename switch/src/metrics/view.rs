//! One moment of the switch as metrics: what the manager told, put under the names of the table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use espalier_api::control::{
    Counters, GroupStatus, KernelCounters, PodStatus, PortState, Status, WorkerState, WorkerStatus,
};
use espalier_api::hits::RuleUsage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::shown_rules::{Counted, Labels};
use super::table::{self, Kind, Metric};

/// What the manager tells for the metrics.
#[derive(Debug)]
pub struct Facts {
    /// The whole switch.
    pub status: Status,
    /// Its pods.
    pub pods: Vec<PodStatus>,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
    /// Its rules.
    pub usage: RuleUsage,
    /// IPv4 flows that each worker's flow table takes.
    pub flow_capacity: u32,
}

/// A moment.
#[derive(Debug)]
pub(super) struct View {
    facts: Facts,
    rules: Vec<(Labels, Counted)>,
    started: u64,
}

/// A sample's labels and value.
type Sample<'a> = (Vec<&'a str>, u64);

/// Ways of packets, with regard to a rule.
const WAYS: [&str; 2] = ["forward", "reply"];

impl View {
    pub(super) fn new(facts: Facts, rules: Vec<(Labels, Counted)>, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let started = now.saturating_sub(facts.status.uptime_seconds);
        Self { facts, rules, started }
    }
}

impl Collector for View {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.switch(&mut out)?;
        self.packets(&mut out)?;
        self.pods(&mut out)?;
        self.rules(&mut out)?;
        self.workers(&mut out)
    }
}

/// Writes families, one after another.
struct Out<'e>(DescriptorEncoder<'e>);

impl Out<'_> {
    fn family(
        &mut self,
        metric: &Metric,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let unit = metric.unit();
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        write(&mut self.0.encode_descriptor(metric.stem(), metric.help, unit.as_ref(), kind)?)
    }

    /// A family with these samples.
    fn samples<'a>(&mut self, metric: &Metric, samples: impl IntoIterator<Item = Sample<'a>>) -> fmt::Result {
        self.family(metric, |encoder| {
            samples.into_iter().try_for_each(|(values, value)| {
                let labels: Vec<(&str, &str)> = metric.labels.iter().copied().zip(values).collect();
                if labels.is_empty() {
                    return number(encoder, metric.kind, value);
                }
                number(&mut encoder.encode_family(&labels)?, metric.kind, value)
            })
        })
    }

    /// A family of one sample.
    fn one(&mut self, metric: &Metric, value: u64) -> fmt::Result {
        self.samples(metric, [(Vec::new(), value)])
    }

    /// A family with one label.
    fn each<'a>(&mut self, metric: &Metric, values: impl IntoIterator<Item = (&'a str, u64)>) -> fmt::Result {
        self.samples(metric, values.into_iter().map(|(label, value)| (vec![label], value)))
    }
}

fn number(encoder: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> fmt::Result {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        Kind::Gauge | Kind::Histogram => encoder.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
    }
}

impl View {
    fn switch(&self, out: &mut Out<'_>) -> fmt::Result {
        let status = &self.facts.status;
        out.samples(&table::BUILD, [(vec![status.version.as_str()], 1)])?;
        out.one(&table::START, self.started)?;
        out.one(&table::GENERATION, status.generation.map_or(0, |generation| generation.0))?;
        out.one(&table::PROBLEMS, status.problems.len() as u64)?;
        let up = self.facts.pods.iter().filter(|pod| pod.state == PortState::Up).count();
        out.each(&table::PODS, [("up", up as u64), ("down", (self.facts.pods.len() - up) as u64)])?;
        out.one(&table::GROUPS, status.groups as u64)?;
        out.one(&table::RULES, status.rules as u64)
    }

    fn packets(&self, out: &mut Out<'_>) -> fmt::Result {
        let status = &self.facts.status;
        let Counters { rx, forwarded, consumed, dropped, originated, .. } = &status.counters;
        out.one(&table::RECEIVED, *rx)?;
        out.one(&table::FORWARDED, *forwarded)?;
        out.one(&table::CONSUMED, *consumed)?;
        out.each(&table::DROPPED, named(dropped))?;
        out.one(&table::ORIGINATED, *originated)?;
        out.each(&table::STEERING, named(&status.steering))?;
        let trunk = status.trunk.iter().flat_map(|trunk| lost("trunk", &trunk.kernel));
        let pods = self.facts.pods.iter().flat_map(|pod| lost(pod.name.as_str(), &pod.kernel));
        out.samples(&table::LOST, trunk.chain(pods.filter(|(_, count)| *count > 0)))?;
        let frames = &status.frames;
        let owners = [
            ("free", frames.free),
            ("fill", frames.fill),
            ("rx", frames.rx),
            ("worker", frames.worker),
            ("tx", frames.tx),
        ];
        out.each(&table::FRAMES, owners)
    }

    fn pods(&self, out: &mut Out<'_>) -> fmt::Result {
        let pods = || self.facts.pods.iter().map(|pod| (pod.name.namespace(), pod.name.name(), pod));
        let both = |of: fn(&PodStatus) -> [(&'static str, u64); 2]| {
            pods().flat_map(move |(namespace, name, pod)| {
                of(pod).map(|(direction, count)| (vec![namespace, name, direction], count))
            })
        };
        let forwarded = both(|pod| [("egress", pod.counters.out), ("ingress", pod.counters.tx)]);
        out.samples(&table::POD_FORWARDED, forwarded)?;
        let bytes = both(|pod| [("egress", pod.counters.out_bytes), ("ingress", pod.counters.tx_bytes)]);
        out.samples(&table::POD_FORWARDED_BYTES, bytes)?;
        let dropped = pods().flat_map(|(namespace, name, pod)| {
            let counters = &pod.counters;
            [("egress", &counters.egress_dropped), ("ingress", &counters.ingress_dropped)]
                .into_iter()
                .flat_map(move |(direction, reasons)| {
                    let reasons = named(reasons);
                    reasons.map(move |(reason, count)| (vec![namespace, name, direction, reason], count))
                })
        });
        out.samples(&table::POD_DROPPED, dropped)?;
        let each = |of: fn(&PodStatus) -> u64| {
            pods().map(move |(namespace, name, pod)| (vec![namespace, name], of(pod)))
        };
        out.samples(&table::POD_CONSUMED, each(|pod| pod.counters.consumed))?;
        out.samples(&table::POD_UP, each(|pod| u64::from(pod.state == PortState::Up)))
    }

    fn rules(&self, out: &mut Out<'_>) -> fmt::Result {
        let ways = |of: fn(&Counted) -> [u64; 2]| {
            self.rules.iter().flat_map(move |((group, rule), counted)| {
                let ways = WAYS.into_iter().zip(of(counted));
                ways.map(move |(way, count)| (vec![group.as_str(), rule.as_str(), way], count))
            })
        };
        out.samples(&table::RULE_PACKETS, ways(|counted| counted.packets))?;
        out.samples(&table::RULE_BYTES, ways(|counted| counted.bytes))?;
        let each = |of: fn(&Counted) -> u64| {
            let rules = self.rules.iter();
            rules.map(move |((group, rule), counted)| (vec![group.as_str(), rule.as_str()], of(counted)))
        };
        out.samples(&table::RULE_FLOWS, each(|counted| counted.flows))?;
        out.samples(&table::RULE_REFUSED, each(|counted| counted.refused))?;
        let groups = |of: fn(&Counted) -> [u64; 2]| {
            let hit = self.facts.groups.iter().filter_map(|group| Some((group, group.hits?)));
            let hit = hit.filter(|(_, hits)| hits.last_hit_ms.is_some());
            hit.flat_map(move |(group, hits)| {
                let ways = WAYS.into_iter().zip(of(&Counted::of(&hits)));
                ways.map(move |(way, count)| (vec![group.group_id.as_str(), way], count))
            })
        };
        out.samples(&table::GROUP_PACKETS, groups(|counted| counted.packets))?;
        out.samples(&table::GROUP_BYTES, groups(|counted| counted.bytes))
    }

    fn workers(&self, out: &mut Out<'_>) -> fmt::Result {
        let numbers: Vec<String> =
            self.facts.status.workers.iter().map(|worker| worker.worker.to_string()).collect();
        let workers = || numbers.iter().map(String::as_str).zip(&self.facts.status.workers);
        let each = |of: fn(&WorkerStatus) -> u64| workers().map(move |(number, worker)| (number, of(worker)));
        out.each(&table::WORKER_UP, each(|worker| u64::from(worker.state == WorkerState::Running)))?;
        out.each(&table::WORKER_PODS, each(|worker| worker.pods as u64))?;
        out.each(&table::WORKER_FLOWS, each(|worker| worker.flows as u64))?;
        out.one(&table::WORKER_CAPACITY, self.facts.flow_capacity.into())?;
        // A worker that does not answer tells no counts, which is better than zeroes.
        let told = || workers().filter(|(_, worker)| worker.state == WorkerState::Running);
        let counts = |of: fn(&WorkerStatus) -> u64| told().map(move |(number, worker)| (number, of(worker)));
        out.each(&table::WORKER_BATCHES, counts(|worker| worker.batches))?;
        out.each(&table::WORKER_SLEEPS, counts(|worker| worker.sleeps))?;
        out.each(&table::WORKER_RECEIVED, counts(|worker| worker.counters.rx))?;
        out.each(&table::WORKER_FORWARDED, counts(|worker| worker.counters.forwarded))?;
        out.each(&table::WORKER_HANDED_OUT, counts(|worker| worker.counters.handed_out))?;
        let rings = told().flat_map(|(number, worker)| {
            let rings = &worker.rings;
            let depths = [
                ("fill", rings.fill),
                ("tx", rings.tx),
                ("unsent", rings.unsent),
                ("handover", rings.handover),
                ("held", rings.held),
            ];
            depths.map(|(ring, depth)| (vec![number, ring], depth))
        });
        out.samples(&table::WORKER_RING, rings)?;
        out.each(&table::WORKER_FREE, counts(|worker| worker.rings.free))?;
        out.family(&table::WORKER_PACKET, |encoder| told().try_for_each(|told| packet_time(encoder, told)))
    }
}

fn packet_time(encoder: &mut MetricEncoder<'_>, (number, worker): (&str, &WorkerStatus)) -> fmt::Result {
    let pace = &worker.pace;
    let bounds = pace.bounds_ns.iter().map(|bound| *bound as f64 / 1e9).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(pace.batches.iter().copied()).collect();
    let labels = [("worker", number)];
    encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
        pace.sum_ns as f64 / 1e9,
        pace.batches.iter().sum(),
        &buckets,
        None,
    )
}

fn named(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (&str, u64)> {
    counts.iter().map(|(name, count)| (name.as_str(), *count))
}

/// What a port's socket lost, by reason.
fn lost<'a>(port: &'a str, kernel: &KernelCounters) -> impl Iterator<Item = Sample<'a>> {
    let counts = [
        ("dropped", kernel.rx_dropped),
        ("ring-full", kernel.rx_ring_full),
        ("invalid-descriptor", kernel.invalid_descriptors),
        ("oversized", kernel.rx_oversized),
    ];
    counts.into_iter().map(move |(reason, count)| (vec![port, reason], count))
}
