//! `espalier rules unused`: the rules that let nothing pass for some time, and how sure that is.

use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::hits::{RuleUsage, RuleUse};
use serde::Serialize;

use super::{COLUMNS, cells, verdict};
use crate::args::{Global, UnusedArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, column, duration, grouped, if_it_fits, wide};

/// Rules that let nothing pass.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unused<'a> {
    since_seconds: u64,
    counting_seconds: u64,
    stale: bool,
    /// Packets of flows from before the switch started, whose rules nobody knows.
    earlier_packets: u64,
    rules: Vec<UnusedRule<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UnusedRule<'a> {
    /// Whether the switch has counted for it for less than the time asked for.
    younger: bool,
    #[serde(flatten)]
    rule: &'a RuleUse,
}

impl<'a> Unused<'a> {
    fn among(usage: &'a RuleUsage, since: u64) -> Self {
        let unused = usage.rules.iter().filter(|rule| !rule.hits.within(since.saturating_mul(1000)));
        Self {
            since_seconds: since,
            counting_seconds: usage.counting_seconds,
            stale: usage.stale,
            earlier_packets: usage.earlier.all_packets(),
            rules: unused.map(|rule| UnusedRule { younger: rule.known_seconds < since, rule }).collect(),
        }
    }
}

pub(super) fn run(global: &Global, args: &UnusedArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let usage: RuleUsage = Client::connect(global)?.get("/v1/rules")?;
    let unused = Unused::among(&usage, args.since);
    if !out.data(args.format.format(), &unused)? {
        explain(&unused, out)?;
        list(&unused, args, out)?;
    }
    Ok(verdict(args.exit_code, &unused.rules))
}

/// What the list does not say.
fn explain(unused: &Unused<'_>, out: &mut Output) -> Result<(), CliError> {
    out.line(format!(
        "{} rules let nothing pass for {}; the switch has been counting for {}",
        unused.rules.len(),
        duration(unused.since_seconds),
        duration(unused.counting_seconds)
    ))?;
    if unused.earlier_packets > 0 {
        out.line(format!(
            "{} packets were of connections from before it started, whose rules it does not know",
            grouped(unused.earlier_packets)
        ))?;
    }
    if unused.stale {
        out.line("a worker does not answer: these are the counts of an earlier moment")?;
    }
    Ok(())
}

fn list(unused: &Unused<'_>, args: &UnusedArgs, out: &mut Output) -> Result<(), CliError> {
    if unused.rules.is_empty() {
        return Ok(());
    }
    let rows = unused.rules.iter().map(|UnusedRule { younger, rule: used }| {
        let [direction, protocol, target, rule, description] = cells(&used.rule);
        let known = duration(used.known_seconds);
        let known = if *younger { format!("only {known}") } else { known };
        let last = super::last_hit(&used.hits);
        let (group, pods) = (Cell::new(&used.group), Cell::new(used.pods));
        [direction, protocol, target, rule, last, Cell::new(known), group, pods, description]
    });
    let [direction, protocol, target, rule, description] = COLUMNS;
    let columns = [
        direction,
        protocol,
        target,
        rule,
        column("LAST HIT"),
        column("KNOWN FOR"),
        if_it_fits("GROUP"),
        wide("PODS"),
        description,
    ];
    out.list(columns, rows, args.format.format())
}

#[cfg(test)]
mod tests {
    use espalier_api::SecurityGroupRule;
    use espalier_api::hits::RuleHits;

    use super::*;

    fn rule(id: &str, known_seconds: u64, last_hit_ms: Option<u64>) -> RuleUse {
        let text =
            format!(r#"{{"SecurityGroupRuleId": "{id}", "IpProtocol": "-1", "CidrIpv4": "0.0.0.0/0"}}"#);
        let rule: SecurityGroupRule = serde_json::from_str(&text).unwrap();
        let hits = RuleHits { last_hit_ms, ..RuleHits::default() };
        RuleUse { group: "sg-1".parse().unwrap(), rule, pods: 1, known_seconds, hits }
    }

    #[test]
    fn a_rule_is_unused_if_its_last_packet_is_older_and_young_if_nobody_can_say() {
        let usage = RuleUsage {
            counting_seconds: 7200,
            rules: vec![
                rule("sgr-never", 7200, None),
                rule("sgr-now", 7200, Some(0)),
                rule("sgr-long-ago", 7200, Some(3_600_001)),
                rule("sgr-in-time", 7200, Some(3_600_000)),
                rule("sgr-new", 60, None),
            ],
            ..RuleUsage::default()
        };
        let unused = Unused::among(&usage, 3600);
        let found: Vec<_> = unused
            .rules
            .iter()
            .map(|used| (used.rule.rule.id.as_ref().unwrap().as_str(), used.younger))
            .collect();
        assert_eq!(found, [("sgr-never", false), ("sgr-long-ago", false), ("sgr-new", true)]);
    }
}
