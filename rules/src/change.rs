//! What differs between two snapshots, as far as rules are concerned: the switch gets whole snapshots, the compiler
//! wants the change.
//!
//! Comparing costs one pass over both; lists that are equal are not looked into further.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use espalier_api::{Address, GroupId, Pod, PrefixListId, Snapshot};
use ipnet::IpNet;

use crate::services::Services;

/// One difference. Applied by [`Compiler::apply`](crate::Compiler::apply) together with the snapshot it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Members of a group.
    Members {
        /// The group.
        group: GroupId,
        /// Addresses and prefixes that are members now.
        joined: Vec<IpNet>,
        /// Those that are no more.
        left: Vec<IpNet>,
    },
    /// Entries of a prefix list.
    Entries {
        /// The list.
        list: PrefixListId,
        /// Entries it has now.
        added: Vec<IpNet>,
        /// Entries it has no more.
        removed: Vec<IpNet>,
    },
    /// The rules of a group, which the snapshot holds.
    Rules {
        /// The group.
        group: GroupId,
    },
    /// Pods, or the groups they have.
    Pods,
    /// Addresses of the never-filtered services; the list itself is the snapshot's.
    Services {
        /// Addresses that have a service now.
        added: Vec<IpAddr>,
        /// Those that have none any more.
        removed: Vec<IpAddr>,
    },
}

/// The changes that lead from `old` to `new`.
pub fn changes(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    rules(old, new, &mut changes);
    members(old, new, &mut changes);
    entries(old, new, &mut changes);
    if groups_of_pods(&old.pods) != groups_of_pods(&new.pods) {
        changes.push(Change::Pods);
    }
    let (before, after) = (Services::new(old), Services::new(new));
    if before != after {
        let addresses = |services: &Services| services.list().iter().map(|service| service.address).collect();
        let (added, removed) = difference(&addresses(&before), &addresses(&after));
        changes.push(Change::Services { added, removed });
    }
    changes
}

/// Private addresses of the interfaces that have a group: those listed, and this node's pods.
pub(crate) fn members_of(snapshot: &Snapshot, group: &GroupId) -> BTreeSet<IpNet> {
    let mut members = snapshot.group_members.get(group).map(|list| nets(list)).unwrap_or_default();
    for pod in snapshot.pods.iter().filter(|pod| pod.security_groups.contains(group)) {
        members.extend(pod.addresses.iter().map(|address| IpNet::from(*address)));
    }
    members
}

fn rules(old: &Snapshot, new: &Snapshot, changes: &mut Vec<Change>) {
    let mut before: BTreeMap<&GroupId, _> =
        old.security_groups.iter().map(|group| (&group.group_id, &group.rules)).collect();
    for group in &new.security_groups {
        let same = match before.remove(&group.group_id) {
            Some(rules) => *rules == group.rules,
            None => group.rules.is_empty(),
        };
        if !same {
            changes.push(Change::Rules { group: group.group_id.clone() });
        }
    }
    let gone = before.into_iter().filter(|(_, rules)| !rules.is_empty());
    changes.extend(gone.map(|(group, _)| Change::Rules { group: group.clone() }));
}

fn members(old: &Snapshot, new: &Snapshot, changes: &mut Vec<Change>) {
    let mut touched: BTreeSet<&GroupId> = BTreeSet::new();
    for (one, other) in [(old, new), (new, old)] {
        let differs =
            |(group, list): &(&GroupId, &Vec<Address>)| other.group_members.get(*group) != Some(list);
        touched.extend(one.group_members.iter().filter(differs).map(|(group, _)| group));
        touched.extend(pods_that_differ(&one.pods, &other.pods).flat_map(|pod| &pod.security_groups));
    }
    for group in touched {
        let (joined, left) = difference(&members_of(old, group), &members_of(new, group));
        if !joined.is_empty() || !left.is_empty() {
            changes.push(Change::Members { group: group.clone(), joined, left });
        }
    }
}

/// Pods of `one` that are not the same, as members of groups, in `other`.
fn pods_that_differ<'a>(one: &'a [Pod], other: &'a [Pod]) -> impl Iterator<Item = &'a Pod> {
    let by_name: BTreeMap<_, _> = other.iter().map(|pod| (&pod.name, pod)).collect();
    one.iter().filter(move |pod| {
        by_name.get(&pod.name).is_none_or(|twin| {
            (&pod.addresses, &pod.security_groups) != (&twin.addresses, &twin.security_groups)
        })
    })
}

fn entries(old: &Snapshot, new: &Snapshot, changes: &mut Vec<Change>) {
    let mut before: BTreeMap<&PrefixListId, &Vec<Address>> =
        old.prefix_lists.iter().map(|list| (&list.prefix_list_id, &list.entries)).collect();
    let none = Vec::new();
    let mut compare = |list: &PrefixListId, before: &Vec<Address>, after: &Vec<Address>| {
        if before == after {
            return;
        }
        let (added, removed) = difference(&nets(before), &nets(after));
        if !added.is_empty() || !removed.is_empty() {
            changes.push(Change::Entries { list: list.clone(), added, removed });
        }
    };
    for list in &new.prefix_lists {
        let id = &list.prefix_list_id;
        compare(id, before.remove(id).unwrap_or(&none), &list.entries);
    }
    for (list, entries) in before {
        compare(list, entries, &none);
    }
}

fn groups_of_pods(pods: &[Pod]) -> Vec<&[GroupId]> {
    pods.iter().map(|pod| pod.security_groups.as_slice()).collect()
}

pub(crate) fn nets(list: &[Address]) -> BTreeSet<IpNet> {
    list.iter().map(|address| address.net()).collect()
}

/// What only the second holds, and what only the first holds.
fn difference<T: Ord + Clone>(before: &BTreeSet<T>, after: &BTreeSet<T>) -> (Vec<T>, Vec<T>) {
    (after.difference(before).cloned().collect(), before.difference(after).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;

    #[test]
    fn equal_snapshots_have_no_changes() {
        assert_eq!(changes(&snapshot(""), &snapshot("")), []);
    }

    #[test]
    fn one_member_is_one_change() {
        let old = snapshot("");
        let mut new = old.clone();
        new.group_members.insert(
            "sg-2".parse().unwrap(),
            vec!["10.0.9.0/28".parse().unwrap(), "10.0.7.7".parse().unwrap()],
        );
        let joined = vec!["10.0.7.7/32".parse().unwrap()];
        let group: GroupId = "sg-2".parse().unwrap();
        assert_eq!(changes(&old, &new), [Change::Members { group, joined, left: vec![] }]);
    }

    #[test]
    fn a_pod_that_leaves_takes_its_membership_with_it() {
        let old = snapshot("");
        let mut new = old.clone();
        new.pods.pop();
        let left = vec!["10.0.1.11/32".parse().unwrap()];
        let group: GroupId = "sg-2".parse().unwrap();
        assert_eq!(changes(&old, &new), [Change::Members { group, joined: vec![], left }, Change::Pods]);
    }
}
