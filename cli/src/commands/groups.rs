//! `espalier groups [GROUP]`: the security groups in force, their members and the pods that have them.

use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::control::GroupStatus;
use espalier_api::{GroupId, InputError, Snapshot};

use crate::args::{Global, GroupsArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, listed};
use crate::source;

pub(super) fn run(global: &Global, args: &GroupsArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut source = match &args.snapshot {
        Some(path) => Source::File(Box::new(super::load(path)?)),
        None => Source::Switch(Box::new(Client::connect(global)?)),
    };
    let groups = source.groups()?;
    match &args.group {
        None if args.json => out.json(&groups)?,
        None => list(&groups, out)?,
        Some(id) => {
            let group = find(&groups, id)?;
            if args.json { out.json(group)? } else { show(group, &source.snapshot()?, out)? }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the groups are read from.
enum Source {
    File(Box<Snapshot>),
    Switch(Box<Client>),
}

impl Source {
    fn groups(&mut self) -> Result<Vec<GroupStatus>, CliError> {
        match self {
            Self::File(snapshot) => Ok(source::judge(snapshot).model().groups()),
            Self::Switch(client) => Ok(client.get("/v1/groups")?),
        }
    }

    fn snapshot(self) -> Result<Snapshot, CliError> {
        match self {
            Self::File(snapshot) => Ok(*snapshot),
            Self::Switch(mut client) => Ok(client.get("/v1/snapshot")?),
        }
    }
}

fn find<'a>(groups: &'a [GroupStatus], id: &GroupId) -> Result<&'a GroupStatus, InputError> {
    groups.iter().find(|group| group.group_id == *id).ok_or_else(|| {
        InputError::new("group", format!("{id} is not in force here: `espalier groups` lists those that are"))
    })
}

fn list(groups: &[GroupStatus], out: &mut Output) -> Result<(), CliError> {
    let rows = groups.iter().map(|group| {
        [
            Cell::new(&group.group_id),
            Cell::new(group.group_name.as_deref().unwrap_or("-")),
            Cell::new(group.ingress_rules),
            Cell::new(group.egress_rules),
            Cell::new(group.members),
            Cell::new(listed(&group.pods)),
        ]
    });
    out.table(["GROUP", "NAME", "INGRESS", "EGRESS", "MEMBERS", "PODS"], rows)
}

fn show(group: &GroupStatus, snapshot: &Snapshot, out: &mut Output) -> Result<(), CliError> {
    out.fields([
        ("group".to_owned(), Cell::new(&group.group_id)),
        ("name".to_owned(), Cell::new(group.group_name.as_deref().unwrap_or("-"))),
        ("members".to_owned(), Cell::new(group.members)),
        ("pods".to_owned(), Cell::new(listed(&group.pods))),
    ])?;
    let rules = snapshot
        .security_groups
        .iter()
        .filter(|candidate| candidate.group_id == group.group_id)
        .flat_map(|candidate| &candidate.rules);
    out.line("")?;
    out.table(["DIRECTION", "PROTOCOL", "TARGET", "RULE", "DESCRIPTION"], rules.map(super::rules::cells))
}
