//! `espalier rules POD`: every rule in force for a pod, from all its security groups.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::control::RuleStatus;
use espalier_api::{InputError, PodName, SecurityGroupRule};

use crate::args::{Global, RulesArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::Output;
use crate::source;

pub(super) fn run(global: &Global, args: &RulesArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let rules = match &args.snapshot {
        Some(path) => offline(path, &args.pod)?,
        None => Client::connect(global)?.get(&format!("/v1/pods/{}/rules", args.pod))?,
    };
    if args.json {
        out.json(&rules)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = rules.iter().map(|status| {
        let [direction, protocol, target, rule, description] = cells(&status.rule);
        [direction, protocol, target, Cell::new(status.targets), Cell::new(&status.group), rule, description]
    });
    out.table(["DIRECTION", "PROTOCOL", "TARGET", "PREFIXES", "GROUP", "RULE", "DESCRIPTION"], rows)?;
    Ok(ExitCode::SUCCESS)
}

fn offline(path: &Path, pod: &PodName) -> Result<Vec<RuleStatus>, CliError> {
    let judge = source::judge(&super::load(path)?);
    let policy = judge.model().pod_index(pod).and_then(|index| judge.policy_of(index)).ok_or_else(|| {
        InputError::new("pods", format!("{pod} is not in the snapshot")).in_file(path.display().to_string())
    })?;
    Ok(judge.model().rules_of(policy))
}

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
