//! Two samples made into rates: what `top` shows and what `top --json` prints.
//!
//! A counter that went back (the switch was restarted, a pod has come again) counts from zero.

use std::collections::{BTreeMap, HashMap};

use espalier_api::control::{Counters, PodCounters, PodStatus, PortState, WorkerState, WorkerStatus};
use espalier_api::hits::{RuleHits, RuleUsage, RuleUse};
use espalier_api::{Generation, GroupId, PodName, RuleId};
use serde::Serialize;

use super::sample::Sample;

/// Nanoseconds in a second.
const NANOSECONDS: f64 = 1e9;
/// Bits in a byte.
const BITS: f64 = 8.0;

/// What went on between two samples.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rates {
    /// Seconds between them.
    pub(super) seconds: f64,
    /// Version of the switch.
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<Generation>,
    /// Flows that are tracked.
    pub(super) flows: usize,
    /// What is not as it should be.
    pub(super) problems: Vec<String>,
    pub(super) total: Total,
    pub(super) pods: Vec<PodRate>,
    pub(super) drops: Vec<DropRate>,
    pub(super) workers: Vec<WorkerRate>,
    /// The rules in force; absent where the switch does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rules: Option<Vec<RuleRate>>,
}

/// Packets a second of the whole switch.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Total {
    pub(super) received: f64,
    pub(super) forwarded: f64,
    pub(super) dropped: f64,
    pub(super) consumed: f64,
}

/// Traffic in one direction.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rate {
    pub(super) packets_per_second: f64,
    pub(super) bits_per_second: f64,
}

/// One pod.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodRate {
    pub(super) pod: PodName,
    /// Whether its port is up.
    pub(super) up: bool,
    pub(super) worker: usize,
    pub(super) from_pod: Rate,
    pub(super) to_pod: Rate,
    pub(super) drops_per_second: f64,
    /// Drops since the switch started.
    pub(super) dropped: u64,
}

/// One reason for drops.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DropRate {
    pub(super) reason: String,
    pub(super) per_second: f64,
    /// Since the switch started.
    pub(super) total: u64,
    /// The pod that most of them concern: in this interval or, where there were none, since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) most_by: Option<PodName>,
}

/// One rule, for all pods of the node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RuleRate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<RuleId>,
    pub(super) group: GroupId,
    /// Direction, protocol and ports, and target.
    pub(super) summary: String,
    /// Packets both ways that it let pass.
    pub(super) passed: Rate,
    pub(super) new_flows_per_second: f64,
    /// Packets both ways since the switch started to count.
    pub(super) packets: u64,
}

/// One worker.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkerRate {
    pub(super) worker: usize,
    pub(super) state: WorkerState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) core: Option<usize>,
    pub(super) pods: usize,
    pub(super) flows: usize,
    pub(super) received_per_second: f64,
    pub(super) forwarded_per_second: f64,
    pub(super) dropped_per_second: f64,
    pub(super) handed_over_per_second: f64,
    /// Packets in a batch, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) packets_per_batch: Option<f64>,
    /// Nanoseconds a packet took, of the batches that were timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ns_per_packet: Option<f64>,
    /// Part of the time that packets took: that times their number. 1 is a whole core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) load: Option<f64>,
}

impl Rates {
    /// The rates between two samples of one switch, or since the start of the later one's if it is another.
    pub(super) fn between(before: &Sample, after: &Sample) -> Self {
        let same = before.status.pid == after.status.pid;
        let seconds = if same {
            after.at.saturating_duration_since(before.at).as_secs_f64().max(f64::MIN_POSITIVE)
        } else {
            (after.status.uptime_seconds as f64).max(1.0)
        };
        let earlier = same.then_some(before);
        let clock = Clock { seconds };
        let status = &after.status;
        let none = Counters::default();
        let counters = earlier.map_or(&none, |sample| &sample.status.counters);
        Self {
            seconds,
            version: status.version.clone(),
            uptime_seconds: status.uptime_seconds,
            generation: status.generation,
            flows: status.workers.iter().map(|worker| worker.flows).sum(),
            problems: status.problems.clone(),
            total: Total {
                received: clock.rate(counters.rx, status.counters.rx),
                forwarded: clock.rate(counters.forwarded, status.counters.forwarded),
                dropped: clock.rate(dropped(counters), dropped(&status.counters)),
                consumed: clock.rate(counters.consumed, status.counters.consumed),
            },
            pods: pods(earlier, after, clock),
            drops: drops(earlier, after, clock),
            workers: workers(earlier, after, clock),
            rules: after.rules.as_ref().map(|usage| rules(earlier, usage, clock)),
        }
    }
}

/// Makes rates of two readings of a counter.
#[derive(Clone, Copy)]
struct Clock {
    seconds: f64,
}

impl Clock {
    fn rate(self, before: u64, after: u64) -> f64 {
        grown(before, after) as f64 / self.seconds
    }

    fn traffic(self, before: (u64, u64), after: (u64, u64)) -> Rate {
        Rate {
            packets_per_second: self.rate(before.0, after.0),
            bits_per_second: self.rate(before.1, after.1) * BITS,
        }
    }
}

/// What was added to a counter; all of it if it began anew.
fn grown(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

fn dropped(counters: &Counters) -> u64 {
    counters.dropped.values().sum()
}

fn dropped_of(counters: &PodCounters) -> u64 {
    counters.egress_dropped.values().chain(counters.ingress_dropped.values()).sum()
}

fn by_name(sample: Option<&Sample>) -> HashMap<&PodName, &PodCounters> {
    let pods = sample.map_or(&[][..], |sample| &sample.pods);
    pods.iter().map(|pod| (&pod.name, &pod.counters)).collect()
}

fn pods(before: Option<&Sample>, after: &Sample, clock: Clock) -> Vec<PodRate> {
    let earlier = by_name(before);
    let none = PodCounters::default();
    let rate = |pod: &PodStatus| {
        let (was, is) = (*earlier.get(&pod.name).unwrap_or(&&none), &pod.counters);
        PodRate {
            pod: pod.name.clone(),
            up: pod.state == PortState::Up,
            worker: pod.worker,
            from_pod: clock.traffic((was.rx, was.rx_bytes), (is.rx, is.rx_bytes)),
            to_pod: clock.traffic((was.tx, was.tx_bytes), (is.tx, is.tx_bytes)),
            drops_per_second: clock.rate(dropped_of(was), dropped_of(is)),
            dropped: dropped_of(is),
        }
    };
    after.pods.iter().map(rate).collect()
}

fn drops(before: Option<&Sample>, after: &Sample, clock: Clock) -> Vec<DropRate> {
    let none = BTreeMap::new();
    let earlier = before.map_or(&none, |sample| &sample.status.counters.dropped);
    let reasons = after.status.counters.dropped.iter();
    reasons
        .map(|(reason, total)| DropRate {
            reason: reason.clone(),
            per_second: clock.rate(earlier.get(reason).copied().unwrap_or_default(), *total),
            total: *total,
            most_by: most_by(reason, before, after),
        })
        .collect()
}

/// The pod that a reason concerns most.
fn most_by(reason: &str, before: Option<&Sample>, after: &Sample) -> Option<PodName> {
    let count = |counters: &PodCounters| -> u64 {
        [&counters.egress_dropped, &counters.ingress_dropped].iter().filter_map(|by| by.get(reason)).sum()
    };
    let earlier = by_name(before);
    let score = |pod: &PodStatus| {
        let all = count(&pod.counters);
        (grown(earlier.get(&pod.name).map_or(0, |was| count(was)), all), all)
    };
    let most = after.pods.iter().max_by_key(|pod| score(pod))?;
    (score(most).1 > 0).then(|| most.name.clone())
}

fn rules(before: Option<&Sample>, after: &RuleUsage, clock: Clock) -> Vec<RuleRate> {
    let earlier = before.and_then(|sample| sample.rules.as_ref()).map_or(&[][..], |usage| &usage.rules);
    let earlier: HashMap<_, _> = earlier.iter().map(|rule| (key(rule), &rule.hits)).collect();
    let none = RuleHits::default();
    let bytes = |hits: &RuleHits| hits.bytes + hits.reply_bytes;
    let rate = |rule: &RuleUse| {
        let (was, is) = (*earlier.get(&key(rule)).unwrap_or(&&none), &rule.hits);
        RuleRate {
            rule: rule.rule.id.clone(),
            group: rule.group.clone(),
            summary: summary(rule),
            passed: clock.traffic((was.all_packets(), bytes(was)), (is.all_packets(), bytes(is))),
            new_flows_per_second: clock.rate(was.flows, is.flows),
            packets: is.all_packets(),
        }
    };
    after.rules.iter().map(rate).collect()
}

/// What tells a rule from others; without an id, what it says.
fn key(rule: &RuleUse) -> (&GroupId, String) {
    (&rule.group, rule.rule.id.as_ref().map_or_else(|| summary(rule), ToString::to_string))
}

fn summary(RuleUse { rule, .. }: &RuleUse) -> String {
    format!("{} {} {}", rule.direction, rule.protocol, rule.target)
}

fn workers(before: Option<&Sample>, after: &Sample, clock: Clock) -> Vec<WorkerRate> {
    let earlier = before.map_or(&[][..], |sample| &sample.status.workers);
    let rate = |worker: &WorkerStatus| {
        let was = earlier.iter().find(|was| was.worker == worker.worker);
        worker_rate(was, worker, clock)
    };
    after.status.workers.iter().map(rate).collect()
}

fn worker_rate(was: Option<&WorkerStatus>, worker: &WorkerStatus, clock: Clock) -> WorkerRate {
    let none = Counters::default();
    let (earlier, is) = (was.map_or(&none, |was| &was.counters), &worker.counters);
    let received = clock.rate(earlier.rx, is.rx);
    let batches = grown(was.map_or(0, |was| was.batches), worker.batches);
    let packets = grown(earlier.rx + earlier.handed_in, is.rx + is.handed_in);
    let timed = |worker: &WorkerStatus| worker.pace.batches.iter().sum::<u64>();
    let timings = grown(was.map_or(0, timed), timed(worker));
    let spent = grown(was.map_or(0, |was| was.pace.sum_ns), worker.pace.sum_ns);
    let ns_per_packet = (timings > 0).then(|| spent as f64 / timings as f64);
    WorkerRate {
        worker: worker.worker,
        state: worker.state,
        core: worker.core,
        pods: worker.pods,
        flows: worker.flows,
        received_per_second: received,
        forwarded_per_second: clock.rate(earlier.forwarded, is.forwarded),
        dropped_per_second: clock.rate(dropped(earlier), dropped(is)),
        handed_over_per_second: clock.rate(earlier.handed_out, is.handed_out),
        packets_per_batch: (batches > 0).then(|| packets as f64 / batches as f64),
        ns_per_packet,
        load: ns_per_packet.map(|ns| ns * packets as f64 / clock.seconds / NANOSECONDS),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::sample::made::{Reading, sample};
    use super::*;

    const FIRST: Reading = Reading { pid: 1, after: Duration::ZERO, rx: 1000, denied: 10 };

    fn rates(second: Reading) -> Rates {
        let start = Instant::now();
        Rates::between(&sample(start, FIRST), &sample(start, second))
    }

    #[test]
    fn counters_become_rates_by_the_time_between_them() {
        let rates = rates(Reading { pid: 1, after: Duration::from_secs(2), rx: 3000, denied: 30 });
        assert_eq!((rates.total.received, rates.total.forwarded, rates.total.dropped), (1000.0, 990.0, 10.0));
        let web = &rates.pods[1];
        assert_eq!((web.from_pod.packets_per_second, web.from_pod.bits_per_second), (1000.0, 800_000.0));
        assert_eq!((web.drops_per_second, web.dropped), (10.0, 30));
        let drop = &rates.drops[0];
        assert_eq!((drop.reason.as_str(), drop.per_second, drop.total), ("denied-egress", 10.0, 30));
        assert_eq!(drop.most_by.as_ref().map(PodName::as_str), Some("shop/web-0"));
        assert_eq!(rates.workers[0].packets_per_batch, Some(10.0));
        let rules = rates.rules.unwrap();
        assert_eq!(rules[1].rule.as_ref().map(RuleId::as_str), Some("sgr-busy"));
        assert_eq!(
            (rules[1].passed.packets_per_second, rules[1].passed.bits_per_second),
            (1980.0, 1_584_000.0)
        );
        assert_eq!((rules[1].packets, rules[0].packets), (2 * 2970, 0));
        assert_eq!(rules[1].summary, "egress tcp/5432 10.0.0.0/8");
    }

    #[test]
    fn a_switch_that_was_restarted_counts_from_its_start() {
        let rates = rates(Reading { pid: 2, after: Duration::from_secs(1), rx: 200, denied: 0 });
        assert_eq!((rates.seconds, rates.total.received), (100.0, 2.0));
    }

    #[test]
    fn a_pod_that_came_again_counts_from_zero() {
        let rates = rates(Reading { pid: 1, after: Duration::from_secs(1), rx: 50, denied: 0 });
        assert_eq!(rates.pods[1].from_pod.packets_per_second, 50.0);
    }

    #[test]
    fn two_looks_at_one_moment_give_numbers() {
        let rates = rates(FIRST);
        assert_eq!(rates.total.received, 0.0);
    }
}
