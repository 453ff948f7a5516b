//! `espalier groups [GROUP]`: the security groups in force, their members and the pods that have them.

use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::control::GroupStatus;
use espalier_api::hits::RuleHits;
use espalier_api::{Address, GroupId, InputError, SecurityGroupRule, Snapshot};
use serde::Serialize;

use crate::args::{Format, Global, GroupsArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, column, first_few, grouped, if_it_fits, listed, wide};
use crate::{source, suggest};

/// Members shown to people; programs get all.
const MEMBERS_SHOWN: usize = 24;
/// Pods named beside a group; a wide table has all.
const PODS_SHOWN: usize = 2;

pub(super) fn run(global: &Global, args: &GroupsArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut source = match &args.snapshot {
        Some(path) => Source::File(Box::new(super::load(path)?)),
        None => Source::Switch(Box::new(Client::connect(global)?)),
    };
    let groups = source.groups()?;
    let format = args.format.format();
    match &args.group {
        None if out.data(format, &groups)? => {}
        None => list(&groups, format, out)?,
        Some(id) => {
            let group = find(&groups, id)?;
            let whole = Whole::new(group, &source.snapshot()?);
            if !out.data(format, &whole)? {
                show(&whole, format, out)?;
            }
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
        let message = format!("{id} is not in force here: `espalier groups` lists those that are");
        suggest::with_near(InputError::new("group", message), id, groups.iter().map(|group| &group.group_id))
    })
}

fn list(groups: &[GroupStatus], format: Format, out: &mut Output) -> Result<(), CliError> {
    let pods_shown = if format == Format::Wide { usize::MAX } else { PODS_SHOWN };
    let rows = groups.iter().map(|group| {
        [
            Cell::new(&group.group_id),
            Cell::new(group.group_name.as_deref().unwrap_or("-")),
            Cell::new(group.ingress_rules + group.egress_rules),
            Cell::new(group.ingress_rules),
            Cell::new(group.egress_rules),
            Cell::new(group.members),
            Cell::new(listed(group.hits.map(|hits| grouped(hits.all_packets())))),
            group.hits.as_ref().map_or_else(|| Cell::new("-"), super::rules::last_hit),
            Cell::new(first_few(&group.pods, pods_shown)),
        ]
    });
    let columns = [
        column("GROUP"),
        column("NAME"),
        column("RULES"),
        wide("INGRESS"),
        wide("EGRESS"),
        column("MEMBERS"),
        if_it_fits("PACKETS"),
        if_it_fits("LAST HIT"),
        column("PODS"),
    ];
    out.list(columns, rows, format)
}

/// A group with what is in it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    #[serde(flatten)]
    group: &'a GroupStatus,
    member_addresses: Vec<Address>,
    rules: Vec<SecurityGroupRule>,
}

impl<'a> Whole<'a> {
    fn new(group: &'a GroupStatus, snapshot: &Snapshot) -> Self {
        let id = &group.group_id;
        let own = snapshot.pods.iter().filter(|pod| pod.security_groups.contains(id));
        let own = own.flat_map(|pod| pod.addresses.iter().map(|address| Address::from(*address)));
        let mut member_addresses: Vec<Address> =
            snapshot.group_members.get(id).into_iter().flatten().copied().chain(own).collect();
        member_addresses.sort_unstable();
        member_addresses.dedup();
        let rules = snapshot.security_groups.iter().filter(|candidate| candidate.group_id == *id);
        Self { group, member_addresses, rules: rules.flat_map(|candidate| candidate.rules.clone()).collect() }
    }

    /// The first members, for people.
    fn shown_members(&self) -> String {
        let shown = self.member_addresses.iter().take(MEMBERS_SHOWN).map(|address| address.net());
        let shown = listed(shown.map(|net| match net.prefix_len() == net.max_prefix_len() {
            true => net.addr().to_string(),
            false => net.to_string(),
        }));
        match self.member_addresses.len().saturating_sub(MEMBERS_SHOWN) {
            0 => shown,
            more => format!("{shown} and {more} more (--json has them)"),
        }
    }
}

/// What a group's rules let pass, in words.
fn let_pass(hits: &RuleHits) -> String {
    let way = |packets, bytes| format!("{} packets, {} bytes", grouped(packets), grouped(bytes));
    format!(
        "{}; replies {}; {} flows",
        way(hits.packets, hits.bytes),
        way(hits.reply_packets, hits.reply_bytes),
        grouped(hits.flows)
    )
}

fn show(whole: &Whole, format: Format, out: &mut Output) -> Result<(), CliError> {
    let group = whole.group;
    out.fields([
        ("group".to_owned(), Cell::new(&group.group_id)),
        ("name".to_owned(), Cell::new(group.group_name.as_deref().unwrap_or("-"))),
        ("members".to_owned(), Cell::new(whole.shown_members())),
        ("pods".to_owned(), Cell::new(listed(&group.pods))),
        ("let pass".to_owned(), Cell::new(group.hits.as_ref().map_or_else(|| "-".to_owned(), let_pass))),
    ])?;
    out.line("")?;
    out.list(super::rules::COLUMNS, whole.rules.iter().map(super::rules::cells), format)
}
