//! `espalier rules POD`: every rule in force for a pod, from all its security groups.

use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::SecurityGroupRule;
use espalier_api::control::RuleStatus;

use crate::args::{Global, RulesArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::Output;

pub(super) fn run(global: &Global, args: &RulesArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let rules: Vec<RuleStatus> = Client::connect(global)?.get(&format!("/v1/pods/{}/rules", args.pod))?;
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
