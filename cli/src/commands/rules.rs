//! `espalier rules`: the rules in force for a pod; what changes between two snapshots; what looks like a mistake.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::control::RuleStatus;
use espalier_api::hits::RuleHits;
use espalier_api::{InputError, PodName, SecurityGroupRule};
use espalier_rules::{Finding, Opening, SpaceChange, difference, lint};
use serde::Serialize;

use crate::args::{DiffArgs, Global, LintArgs, RulesArgs, RulesCommand, ShowArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Column, Output, Tone, column, duration, first_few, grouped, if_it_fits, listed, wide};
use crate::{source, suggest};

mod unused;

/// Items named in a table cell before the rest is counted; `--json` has them all.
const NAMED: usize = 4;

pub(super) fn run(global: &Global, args: &RulesArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    match &args.command {
        Some(RulesCommand::Diff(args)) => diff(args, out),
        Some(RulesCommand::Lint(args)) => look_for_mistakes(args, out),
        Some(RulesCommand::Unused(args)) => unused::run(global, args, out),
        None => show(global, &args.show, out),
    }
}

fn show(global: &Global, args: &ShowArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let pod = args.pod.as_ref().ok_or_else(|| InputError::new("pod", "missing"))?;
    let rules = match &args.snapshot {
        Some(path) => offline(path, pod)?,
        None => Client::connect(global)?.get(&format!("/v1/pods/{pod}/rules"))?,
    };
    let format = args.format.format();
    if out.data(format, &rules)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows = rules.iter().map(|status| {
        let [direction, protocol, target, rule, description] = cells(&status.rule);
        let (group, targets) = (Cell::new(&status.group), Cell::new(status.targets));
        let number = |of: fn(&RuleHits) -> u64| Cell::new(listed(status.hits.as_ref().map(of).map(grouped)));
        let last = status.hits.as_ref().map_or_else(|| Cell::new("-"), last_hit);
        let counts = [
            number(RuleHits::all_packets),
            last,
            number(|hits| hits.bytes + hits.reply_bytes),
            number(|hits| hits.flows),
            number(|hits| hits.refused_flows),
        ];
        let [packets, last, bytes, flows, refused] = counts;
        [direction, protocol, target, rule, packets, last, group, targets, bytes, flows, refused, description]
    });
    let [direction, protocol, target, rule, description] = COLUMNS;
    let columns = [
        direction,
        protocol,
        target,
        rule,
        column("PACKETS"),
        if_it_fits("LAST HIT"),
        if_it_fits("GROUP"),
        wide("PREFIXES"),
        wide("BYTES"),
        wide("FLOWS"),
        wide("REFUSED FLOWS"),
        description,
    ];
    out.list(columns, rows, format)?;
    Ok(ExitCode::SUCCESS)
}

fn offline(path: &Path, pod: &PodName) -> Result<Vec<RuleStatus>, CliError> {
    let snapshot = super::load(path)?;
    let judge = source::judge(&snapshot);
    let policy = judge.model().pod_index(pod).and_then(|index| judge.policy_of(index)).ok_or_else(|| {
        let error = InputError::new("pods", format!("{pod} is not in the snapshot"));
        suggest::with_near(error, pod, snapshot.pods.iter().map(|pod| &pod.name))
            .in_file(path.display().to_string())
    })?;
    Ok(judge.model().rules_of(policy))
}

/// How long ago the last packet was.
pub(super) fn last_hit(hits: &RuleHits) -> Cell {
    let ago = hits.last_hit_ms.map(|ms| if ms < 1000 { "now".to_owned() } else { duration(ms / 1000) });
    Cell::new(ago.unwrap_or_else(|| "never".to_owned()))
}

/// The columns of [`cells`].
pub(super) const COLUMNS: [Column; 5] =
    [column("DIRECTION"), column("PROTOCOL"), column("TARGET"), column("RULE"), wide("DESCRIPTION")];

/// Direction, protocol, target, id and description of a rule.
pub(super) fn cells(rule: &SecurityGroupRule) -> [Cell; 5] {
    [
        Cell::new(rule.direction),
        Cell::new(rule.protocol),
        Cell::new(&rule.target),
        Cell::new(rule.id.as_ref().map_or("-", |id| id.as_str())),
        Cell::new(rule.description.as_deref().unwrap_or("-")),
    ]
}

fn diff(args: &DiffArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let changes = difference(&super::load(&args.old)?, &super::load(&args.new)?);
    if out.data(args.format.format(), &changes)? {
    } else if changes.is_empty() {
        out.line("nothing opens, nothing closes")?;
    } else {
        let rows: Vec<[Cell; 6]> = changes.iter().map(|change| change_row(change, out)).collect();
        out.table(["CHANGE", "DIRECTION", "PROTOCOL", "PORTS", "REMOTES", "PODS"], rows)?;
    }
    Ok(verdict(args.exit_code, &changes))
}

fn change_row(change: &SpaceChange, out: &Output) -> [Cell; 6] {
    let opening = match change.change {
        Opening::Opens => out.cell("opens", Tone::Bad),
        Opening::Closes => out.cell("closes", Tone::Good),
    };
    [
        opening,
        Cell::new(change.direction),
        Cell::new(&change.protocol),
        Cell::new(change.ports.as_deref().unwrap_or("-")),
        Cell::new(first_few(&change.remotes, NAMED)),
        Cell::new(first_few(&change.pods, NAMED)),
    ]
}

fn look_for_mistakes(args: &LintArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let findings = lint(&super::load(&args.file)?);
    if out.data(args.format.format(), &findings)? {
    } else if findings.is_empty() {
        out.line(out.paint("nothing found", Tone::Good))?;
    } else {
        let rows: Vec<[Cell; 2]> =
            findings.iter().map(|finding| finding_row(finding, out)).collect::<Result<_, _>>()?;
        out.table(["KIND", "FINDING"], rows)?;
    }
    Ok(verdict(args.exit_code, &findings))
}

fn finding_row(finding: &Finding, out: &Output) -> Result<[Cell; 2], CliError> {
    Ok([out.cell(name_of(&finding.kind)?, Tone::Bad), Cell::new(&finding.message)])
}

/// The name that JSON has for it.
fn name_of(value: &impl Serialize) -> Result<String, CliError> {
    Ok(serde_json::to_string(value)?.trim_matches('"').to_owned())
}

/// 1 where the exit code was asked for and there is something to tell.
fn verdict<T>(asked: bool, told: &[T]) -> ExitCode {
    ExitCode::from(u8::from(asked && !told.is_empty()))
}
