//! The agent's part of `espalier status`: what it knows from where, how old that is, and what is wrong.

use comfy_table::Cell;
use espalier_api::agent::{AgentPodState, AgentStatus, SourceStatus};
use espalier_api::control::Status;

use super::heading;
use crate::error::CliError;
use crate::output::{Output, Tone, duration, grouped, listed};

pub(super) fn show(agent: Option<&AgentStatus>, status: &Status, out: &mut Output) -> Result<(), CliError> {
    heading("agent", out)?;
    let Some(agent) = agent else { return absent(status, out) };
    let text = format!(
        "espalier-agent {} for node {}, pid {}, up {}, groups by {}",
        agent.version,
        agent.name,
        agent.pid,
        duration(whole(agent.uptime_seconds)),
        agent.group_source
    );
    let mut fields = vec![("agent".to_owned(), Cell::new(text))];
    fields.push(("generation".to_owned(), generation(agent, out)));
    fields.extend(agent.sources.iter().map(|source| (source.name.clone(), self::source(source, out))));
    if let Some(latency) = &agent.latency {
        let text = format!(
            "p50 {:.1} ms, p99 {:.1} ms, last {:.1} ms, of {} changes",
            latency.p50_ms,
            latency.p99_ms,
            latency.last_ms,
            grouped(latency.count)
        );
        fields.push(("change to enforced".to_owned(), Cell::new(text)));
    }
    fields.push(("pods".to_owned(), Cell::new(pods(agent))));
    for problem in &agent.problems {
        let text = format!("{}: {}: {}", problem.reason.label(), problem.subject, problem.message);
        fields.push(("problem".to_owned(), out.cell(text, Tone::Bad)));
    }
    out.fields(fields)
}

fn absent(status: &Status, out: &mut Output) -> Result<(), CliError> {
    let cell = match &status.agent {
        Some(holder) => out.cell(
            format!(
                "{} has fed the switch for {}, but does not answer here: name its socket with --agent-socket",
                holder.name,
                duration(holder.seconds)
            ),
            Tone::Bad,
        ),
        None => Cell::new("none feeds the switch: `espalier apply` does"),
    };
    out.fields([("agent".to_owned(), cell)])
}

fn generation(agent: &AgentStatus, out: &Output) -> Cell {
    let ago = agent.enforced_seconds_ago.map(|seconds| duration(whole(seconds)));
    match (agent.desired, agent.enforced, ago) {
        (Some(desired), Some(enforced), Some(ago)) if desired == enforced => {
            Cell::new(format!("{desired} desired and enforced, for {ago}"))
        }
        (Some(desired), Some(enforced), _) => {
            out.cell(format!("{desired} desired, {enforced} enforced"), Tone::Bad)
        }
        (Some(desired), None, _) => out.cell(format!("{desired} desired, none enforced"), Tone::Bad),
        (None, ..) => out.cell("none desired yet", Tone::Bad),
    }
}

/// Where from, how old, how much.
fn source(source: &SourceStatus, out: &Output) -> Cell {
    let known = source.known.iter().filter(|(_, count)| **count > 0);
    let known = listed(known.map(|(kind, count)| format!("{} {kind}", grouped(*count))));
    let requests = source.requests.map_or_else(String::new, |requests| {
        format!(", {} of {} requests in the last minute", requests.last_minute, requests.budget)
    });
    let (age, tone) = match (source.synced, source.age_seconds) {
        (true, Some(age)) => (format!("{} old", duration(whole(age))), Tone::Good),
        _ => ("not read whole yet".to_owned(), Tone::Bad),
    };
    out.cell(format!("{}, {age}{requests}: {known}", source.from), tone)
}

fn pods(agent: &AgentStatus) -> String {
    let count = |state| agent.pods.iter().filter(|pod| pod.state == state).count();
    listed(
        [
            ("sent", AgentPodState::Sent),
            ("sent in part", AgentPodState::Partial),
            ("held", AgentPodState::Held),
            ("denied", AgentPodState::Denied),
            ("left to the kernel", AgentPodState::Kernel),
        ]
        .into_iter()
        .filter(|(_, state)| count(*state) > 0)
        .map(|(name, state)| format!("{} {name}", count(state))),
    )
}

/// Ages are shown in whole seconds.
fn whole(seconds: f64) -> u64 {
    seconds as u64
}
