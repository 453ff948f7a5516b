//! The agent's metrics: counters and the change-to-enforced histogram as they happen, gauges from a view when asked.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use espalier_api::agent::{AgentPodState, LatencySummary};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::agent::View;
use crate::status;

/// Bounds of the histogram, seconds.
const BOUNDS: [f64; 14] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// Latencies kept for the status.
const KEPT: usize = 1024;

/// Pod states, as labels.
const STATES: [(AgentPodState, &str); 5] = [
    (AgentPodState::Sent, "sent"),
    (AgentPodState::Partial, "partial"),
    (AgentPodState::Held, "held"),
    (AgentPodState::Denied, "denied"),
    (AgentPodState::Kernel, "kernel"),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    latency: Histogram,
    latencies: Mutex<Latencies>,
    snapshots: Counter,
    problems: Family<Reason, Gauge>,
    pods: Family<State, Gauge>,
    age: Family<Source, FloatGauge>,
    generations: [Gauge; 2],
    connected: Gauge,
    ec2_requests: Gauge,
    ec2_budget: Gauge,
}

#[derive(Debug, Default)]
struct Latencies {
    last: VecDeque<Duration>,
    count: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("espalier_agent"),
            latency: Histogram::new(BOUNDS),
            latencies: Mutex::default(),
            snapshots: Counter::default(),
            problems: Family::default(),
            pods: Family::default(),
            age: Family::default(),
            generations: Default::default(),
            connected: Gauge::default(),
            ec2_requests: Gauge::default(),
            ec2_budget: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "change_to_enforced",
            "Time from a change's arrival at the agent to its enforcement by the switch",
            Unit::Seconds,
            self.latency.clone(),
        );
        registry.register("snapshots", "Snapshots the switch enforced", self.snapshots.clone());
        registry.register("problems", "Problems now, by reason", self.problems.clone());
        registry.register(
            "pods",
            "Pods that have or should have groups, by what becomes of them",
            self.pods.clone(),
        );
        registry.register_with_unit(
            "source_age",
            "Age of what a source knows",
            Unit::Seconds,
            self.age.clone(),
        );
        let [desired, enforced] = &self.generations;
        registry.register("generation_desired", "Number of the newest snapshot", desired.clone());
        registry.register("generation_enforced", "Number of the newest enforced snapshot", enforced.clone());
        registry.register("switch_connected", "Whether the switch's lease is held", self.connected.clone());
        registry.register(
            "ec2_requests_last_minute",
            "Requests to EC2 in the last 60 seconds",
            self.ec2_requests.clone(),
        );
        registry.register(
            "ec2_requests_budget",
            "Most requests to EC2 in 60 seconds",
            self.ec2_budget.clone(),
        );
    }

    /// A change was enforced after `took`.
    pub fn enforced(&self, took: Duration) {
        self.snapshots.inc();
        self.latency.observe(took.as_secs_f64());
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.count += 1;
        if latencies.last.len() == KEPT {
            latencies.last.pop_front();
        }
        latencies.last.push_back(took);
    }

    /// The switch enforced what is desired already.
    pub fn confirmed(&self) {
        self.snapshots.inc();
    }

    /// Latencies for people.
    pub fn latency(&self) -> Option<LatencySummary> {
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let last = latencies.last.back()?;
        let mut sorted: Vec<Duration> = latencies.last.iter().copied().collect();
        sorted.sort_unstable();
        let milliseconds = |took: Duration| took.as_secs_f64() * 1000.0;
        let quantile =
            |percent: usize| milliseconds(sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]);
        Some(LatencySummary {
            count: latencies.count,
            p50_ms: quantile(50),
            p99_ms: quantile(99),
            last_ms: milliseconds(*last),
        })
    }

    /// Everything in the text format of OpenMetrics.
    pub fn text(&self, view: Option<&View>) -> Result<String, std::fmt::Error> {
        if let Some(view) = view {
            self.show(view);
        }
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn show(&self, view: &View) {
        self.problems.clear();
        for problem in status::problems(view) {
            self.problems.get_or_create(&Reason { reason: problem.reason.label() }).inc();
        }
        let states = view.states();
        for (state, label) in STATES {
            let count = states.get(&state).copied().unwrap_or_default();
            self.pods.get_or_create(&State { state: label }).set(signed(count));
        }
        for source in status::sources(view) {
            if let Some(age) = source.age_seconds {
                self.age.get_or_create(&Source { source: source.name }).set(age);
            }
        }
        let progress = &view.progress;
        for (gauge, generation) in self.generations.iter().zip([progress.desired, progress.enforced]) {
            gauge.set(signed(generation.map_or(0, |generation| generation.0)));
        }
        self.connected.set(i64::from(progress.connected));
        if let Some(requests) = view.facts.requests {
            self.ec2_requests.set(requests.last_minute.into());
            self.ec2_budget.set(requests.budget.into());
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_last_changes() {
        let metrics = Metrics::default();
        assert_eq!(metrics.latency(), None);
        for ms in 1..=200 {
            metrics.enforced(Duration::from_millis(ms));
        }
        let summary = metrics.latency().unwrap();
        assert_eq!(
            (summary.count, summary.p50_ms, summary.p99_ms, summary.last_ms),
            (200, 101.0, 199.0, 200.0)
        );
        let text = metrics.text(None).unwrap();
        assert!(text.contains("espalier_agent_change_to_enforced_seconds_count 200"), "{text}");
    }
}
