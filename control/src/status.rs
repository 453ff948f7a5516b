//! The agent's status in the words of `espalier_api::agent`, made of a view when somebody asks.

use std::time::{Instant, SystemTime};

use espalier_api::agent::{AgentStatus, Problem, SourceStatus};

use crate::agent::View;
use crate::cluster::reduce;
use crate::metrics::Metrics;

/// The status.
pub fn status(view: &View, metrics: &Metrics, started: Instant) -> AgentStatus {
    let progress = &view.progress;
    AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: view.name.clone(),
        pid: std::process::id(),
        uptime_seconds: started.elapsed().as_secs_f64(),
        group_source: view.rules.group_source.label().to_owned(),
        ready: view.is_ready(),
        sources: sources(view),
        desired: progress.desired,
        enforced: progress.enforced,
        enforced_seconds_ago: progress.last.as_ref().map(|last| last.at.elapsed().as_secs_f64()),
        latency: metrics.latency(),
        pods: view.desired.pods.clone(),
        problems: problems(view),
    }
}

/// Everything that is wrong, the switch included.
pub fn problems(view: &View) -> Vec<Problem> {
    view.desired.problems.iter().chain(&view.progress.problem).cloned().collect()
}

/// The sources and how old what they know is.
pub fn sources(view: &View) -> Vec<SourceStatus> {
    vec![cluster(view), facts(view)]
}

fn cluster(view: &View) -> SourceStatus {
    let synced = view.cluster.synced.contains("pods");
    let age = view.cluster.stale_since.map_or(0.0, seconds_since);
    SourceStatus {
        name: view.cluster_source.name.clone(),
        from: view.cluster_source.place.clone(),
        synced,
        age_seconds: synced.then_some(age),
        requests: None,
        known: reduce::counts(&view.cluster),
    }
}

fn facts(view: &View) -> SourceStatus {
    let facts = &view.facts;
    let known = [
        ("interfaces", facts.interfaces.len()),
        ("securityGroups", facts.groups.len()),
        ("rules", facts.groups.values().map(|group| group.rules.len()).sum()),
        ("members", facts.members.values().map(|members| members.len()).sum()),
        ("prefixLists", facts.prefix_lists.len()),
    ];
    SourceStatus {
        name: view.facts_source.name.clone(),
        from: view.facts_source.place.clone(),
        synced: facts.complete,
        age_seconds: facts.as_of.map(seconds_since),
        requests: facts.requests,
        known: known.into_iter().map(|(kind, count)| (kind.to_owned(), count as u64)).collect(),
    }
}

fn seconds_since(time: SystemTime) -> f64 {
    time.elapsed().map_or(0.0, |age| age.as_secs_f64())
}
