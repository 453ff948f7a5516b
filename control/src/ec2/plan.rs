//! Which requests come next. Pure: what is wanted, what is known and the present round in, requests out.
//!
//! Asked again after every answer until nothing is due: groups show only once interfaces are known, members and prefix
//! lists only once rules are.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use espalier_api::{EniId, GroupId, PrefixListId};

use super::knowledge::Knowledge;
use super::table::Round;
use crate::facts::{GroupSelector, Wanted};

/// Values that EC2 takes in one filter.
const FILTER_VALUES: usize = 200;

/// What hardly changes, and what has no version, is read again after this time.
pub(crate) const SLOW: Duration = Duration::from_secs(600);

/// One request, or one per page of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Interfaces(Vec<EniId>),
    Groups(Vec<GroupId>),
    /// Groups by name, or by tags with the same key.
    Named {
        vpc: String,
        selectors: Vec<GroupSelector>,
    },
    RuleIds(Vec<GroupId>),
    Members(Vec<GroupId>),
    Lists(Vec<PrefixListId>),
    Entries {
        list: PrefixListId,
        version: Option<i64>,
    },
    Subnets(Vec<String>),
    Vpcs(Vec<String>),
    InstanceType(String),
}

/// Everything that is wanted, as far as it can be told from what is known.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    pub(crate) groups: HashSet<GroupId>,
    pub(crate) members: HashSet<GroupId>,
    pub(crate) lists: HashSet<PrefixListId>,
    pub(crate) subnets: HashSet<String>,
    pub(crate) vpc: Option<String>,
}

/// Follows interfaces to groups, and rules to the groups and lists they refer to.
pub(crate) fn reach(wanted: &Wanted, known: &Knowledge) -> Reach {
    let mut reach = Reach { vpc: wanted.vpc_id.clone(), ..Reach::default() };
    reach.groups.extend(wanted.groups.iter().cloned());
    for id in &wanted.interfaces {
        let Some(interface) = known.interfaces.get(id).and_then(Option::as_ref) else { continue };
        reach.subnets.extend(interface.subnet_id.clone());
        if wanted.follow_interfaces {
            reach.groups.extend(interface.groups.iter().cloned());
        }
        if reach.vpc.is_none() {
            reach.vpc.clone_from(&interface.vpc_id);
        }
    }
    for selector in &wanted.named_groups {
        reach.groups.extend(known.named.get(selector).into_iter().flatten().cloned());
    }
    for id in &reach.groups {
        for rules in known.rules_of(id) {
            reach.members.extend(rules.references.iter().cloned());
            reach.lists.extend(rules.lists.iter().cloned());
        }
    }
    reach
}

/// What to ask for now; nothing, if the round is over.
pub(crate) fn next(wanted: &Wanted, reach: &Reach, known: &Knowledge, round: &Round) -> Vec<Request> {
    let now = Duration::ZERO;
    let mut requests = Vec::new();
    let interfaces = known.interfaces.due(&wanted.interfaces, round, now);
    let waits_for_vpc = reach.vpc.is_none() && !interfaces.is_empty();
    requests.extend(batches(interfaces, Request::Interfaces));
    if !waits_for_vpc {
        requests.extend(named(wanted, reach, known, round));
    }
    let groups = known.groups.due(&reach.groups, round, now);
    requests.extend(batches(groups, Request::Groups));
    let ids =
        reach.groups.iter().filter(|id| !known.has_rule_ids(id) && !known.rule_ids.was_tried(id, round));
    let mut ids: HashSet<GroupId> = ids.filter(|id| known.has_group(id)).cloned().collect();
    let old = reach.groups.iter().filter(|id| known.has_group(id));
    ids.extend(known.rule_ids.due(old, round, SLOW));
    requests.extend(batches(ids.into_iter().collect(), Request::RuleIds));
    let members = known.members.due(&reach.members, round, now);
    requests.extend(batches(members, Request::Members));
    requests.extend(batches(known.lists.due(&reach.lists, round, now), Request::Lists));
    requests.extend(entries(reach, known, round));
    requests.extend(batches(known.subnets.due(&reach.subnets, round, SLOW), Request::Subnets));
    requests.extend(batches(known.vpcs.due(&reach.vpc, round, SLOW), Request::Vpcs));
    let types = known.types.due(&wanted.instance_type, round, Duration::MAX);
    requests.extend(types.into_iter().map(Request::InstanceType));
    requests
}

/// Splits at EC2's limit, in the order of the ids, so that the same ids are asked for together each time.
fn batches<K: Ord + Clone>(mut ids: Vec<K>, make: impl Fn(Vec<K>) -> Request) -> Vec<Request> {
    ids.sort_unstable();
    ids.chunks(FILTER_VALUES).map(|ids| make(ids.to_vec())).collect()
}

fn named(wanted: &Wanted, reach: &Reach, known: &Knowledge, round: &Round) -> Vec<Request> {
    let Some(vpc) = &reach.vpc else { return Vec::new() };
    // A request may filter by many values of one tag, but asks for all of several tags.
    let mut together: BTreeMap<Option<String>, Vec<GroupSelector>> = BTreeMap::new();
    for selector in known.named.due(&wanted.named_groups, round, Duration::ZERO) {
        let key = match &selector {
            GroupSelector::Name(_) => None,
            GroupSelector::Tag { key, .. } => Some(key.clone()),
        };
        together.entry(key).or_default().push(selector);
    }
    let request = |selectors| Request::Named { vpc: vpc.clone(), selectors };
    together.into_values().flat_map(|selectors| batches(selectors, request)).collect()
}

/// Entries are read once for each version; where the list shows none, from time to time.
fn entries<'a>(
    reach: &'a Reach,
    known: &'a Knowledge,
    round: &'a Round,
) -> impl Iterator<Item = Request> + 'a {
    reach.lists.iter().filter_map(|id| {
        let head = known.lists.get(id)?.as_ref()?;
        let due = match known.entries.get(id) {
            Some(entries) if head.version.is_some() && entries.version != head.version => {
                !known.entries.was_tried(id, round)
            }
            Some(_) if head.version.is_some() => false,
            _ => !known.entries.due([id], round, SLOW).is_empty(),
        };
        due.then(|| Request::Entries { list: id.clone(), version: head.version })
    })
}
