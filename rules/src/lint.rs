//! What deserves a look in the rules of a snapshot: rules without effect, ports open to the world, dead references.
//!
//! Called by `espalier rules lint`. Findings are advice: a snapshot with findings is valid and enforced.

use std::collections::BTreeSet;

use espalier_api::{Direction, GroupId, RuleId, RuleTarget, Snapshot};
use serde::{Deserialize, Serialize};

use crate::lower::LoweredRule;
use crate::model::Model;
use crate::warning::Warning;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The group it is about.
    pub group: Option<GroupId>,
    /// The rule, where it has an id.
    pub rule: Option<RuleId>,
    /// What was found and what to do, in words.
    pub message: String,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Another rule of the group allows all that this one does.
    ShadowedRule,
    /// Ports that every address may reach.
    WorldOpen,
    /// A reference to a group without members.
    EmptyReference,
    /// A reference to a group or prefix list that is not known.
    MissingReference,
    /// A reference over a peering that is not active.
    StalePeering,
    /// A group that no pod has and no rule refers to.
    UnusedGroup,
    /// More rules or groups than EC2 accepts.
    Quota,
}

/// All findings, in the order of the snapshot within each kind.
pub fn lint(snapshot: &Snapshot) -> Vec<Finding> {
    let (model, warnings) = Model::new(snapshot);
    let mut findings: Vec<Finding> = Vec::new();
    for group in &snapshot.security_groups {
        let rules: Vec<&LoweredRule> =
            model.rules().map(|(_, rule)| rule).filter(|rule| rule.group == group.group_id).collect();
        shadowed(&rules, &mut findings);
        for rule in &rules {
            world_open(rule, &mut findings);
            empty_reference(&model, rule, &warnings, &mut findings);
        }
    }
    unused_groups(snapshot, &mut findings);
    findings.extend(warnings.iter().map(of_warning));
    findings.sort_by_key(|finding| finding.kind);
    findings
}

fn finding(kind: FindingKind, rule: &LoweredRule, message: String) -> Finding {
    Finding { kind, group: Some(rule.group.clone()), rule: rule.id().cloned(), message }
}

fn shadowed(rules: &[&LoweredRule], findings: &mut Vec<Finding>) {
    for (place, rule) in rules.iter().enumerate() {
        let covers = |(other_place, other): &(usize, &&LoweredRule)| {
            // Of two equal rules the later one is the shadowed one.
            *other_place != place && covers(other, rule) && (!covers(rule, other) || *other_place < place)
        };
        if let Some((_, other)) = rules.iter().enumerate().find(covers) {
            let message = format!(
                "{} allows nothing that {} does not allow already: remove it, or the wider one",
                rule.label(),
                other.label()
            );
            findings.push(finding(FindingKind::ShadowedRule, rule, message));
        }
    }
}

/// Whether `wide` allows all that `narrow` does. Targets that follow the outside world (groups, prefix lists) are only
/// compared by name: what they hold today says nothing about tomorrow.
fn covers(wide: &LoweredRule, narrow: &LoweredRule) -> bool {
    let protocol = wide.predicate.protocol.is_none() || wide.predicate.protocol == narrow.predicate.protocol;
    let ports =
        wide.predicate.first <= narrow.predicate.first && narrow.predicate.last <= wide.predicate.last;
    let target = match (&wide.source.target, &narrow.source.target) {
        (RuleTarget::Cidr4(wide), RuleTarget::Cidr4(narrow)) => wide.contains(narrow),
        (RuleTarget::Cidr6(wide), RuleTarget::Cidr6(narrow)) => wide.contains(narrow),
        (wide, narrow) => wide == narrow,
    };
    wide.direction() == narrow.direction() && protocol && ports && target
}

fn world_open(rule: &LoweredRule, findings: &mut Vec<Finding>) {
    let world = rule.prefixes.iter().any(|net| net.prefix_len() == 0);
    if rule.direction() == Direction::Ingress && world {
        let message = format!(
            "{} opens {} to every address ({}): name the sources, or keep it if it is meant for everybody",
            rule.label(),
            rule.source.protocol,
            rule.source.target
        );
        findings.push(finding(FindingKind::WorldOpen, rule, message));
    }
}

fn empty_reference(model: &Model, rule: &LoweredRule, warnings: &[Warning], findings: &mut Vec<Finding>) {
    let RuleTarget::Group(reference) = &rule.source.target else { return };
    let label = rule.label();
    let reported = |warning: &Warning| match warning {
        Warning::UnknownGroup { rule, .. } | Warning::StalePeering { rule, .. } => *rule == label,
        _ => false,
    };
    if model.members_of(&reference.group_id).is_empty() && !warnings.iter().any(reported) {
        let message =
            format!("{label} refers to {}, which has no members: it matches nothing now", reference.group_id);
        findings.push(finding(FindingKind::EmptyReference, rule, message));
    }
}

fn unused_groups(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let attached = snapshot.pods.iter().flat_map(|pod| &pod.security_groups);
    let rules =
        snapshot.security_groups.iter().flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
    // A group that only refers to itself is not used by it.
    let referenced = rules.filter_map(|(group, rule)| match &rule.target {
        RuleTarget::Group(reference) if reference.group_id != group.group_id => Some(&reference.group_id),
        _ => None,
    });
    let used: BTreeSet<&GroupId> = attached.chain(referenced).collect();
    let unused = snapshot.security_groups.iter().filter(|group| !used.contains(&group.group_id));
    findings.extend(unused.map(|group| Finding {
        kind: FindingKind::UnusedGroup,
        group: Some(group.group_id.clone()),
        rule: None,
        message: format!("no pod has {} and no other group refers to it: leave it out", group.group_id),
    }));
}

fn of_warning(warning: &Warning) -> Finding {
    let kind = match warning {
        Warning::UnknownGroup { .. } | Warning::UnknownPrefixList { .. } => FindingKind::MissingReference,
        Warning::StalePeering { .. } => FindingKind::StalePeering,
        Warning::GroupQuota { .. } | Warning::RuleQuota { .. } | Warning::InterfaceQuota { .. } => {
            FindingKind::Quota
        }
    };
    let group = match warning {
        Warning::RuleQuota { group, .. } => Some(group.clone()),
        _ => None,
    };
    Finding { kind, group, rule: None, message: warning.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;

    fn found(rules: &str) -> Vec<(FindingKind, String)> {
        let about = |finding: Finding| {
            let rule = finding.rule.map(|rule| rule.to_string());
            (finding.kind, rule.or(finding.group.map(|group| group.to_string())).unwrap_or_default())
        };
        lint(&snapshot(rules)).into_iter().map(about).collect()
    }

    #[test]
    fn each_kind_is_found_once() {
        let rules = "sg-1:
  - {SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 10.1.0.0/16}
  - {SecurityGroupRuleId: sgr-2, IpProtocol: tcp, FromPort: 79, ToPort: 81, CidrIpv4: 10.0.0.0/8}
  - {SecurityGroupRuleId: sgr-3, IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIpv4: 0.0.0.0/0}
  - {SecurityGroupRuleId: sgr-4, IpProtocol: tcp, FromPort: 1, ToPort: 1, ReferencedGroupInfo: {GroupId: sg-3}}
  - {SecurityGroupRuleId: sgr-5, IpProtocol: tcp, FromPort: 1, ToPort: 1, ReferencedGroupInfo: {GroupId: sg-9}}
  - {SecurityGroupRuleId: sgr-6, IpProtocol: tcp, FromPort: 1, ToPort: 1, ReferencedGroupInfo: {GroupId: sg-2, PeeringStatus: deleted}}
sg-2: []
sg-3: []
sg-4:
  - {SecurityGroupRuleId: sgr-7, IpProtocol: '-1', ReferencedGroupInfo: {GroupId: sg-2}}";
        assert_eq!(
            found(rules),
            [
                (FindingKind::ShadowedRule, "sgr-1".to_owned()),
                (FindingKind::WorldOpen, "sgr-3".to_owned()),
                (FindingKind::EmptyReference, "sgr-4".to_owned()),
                (FindingKind::MissingReference, String::new()),
                (FindingKind::StalePeering, String::new()),
                (FindingKind::UnusedGroup, "sg-4".to_owned()),
            ]
        );
    }

    #[test]
    fn near_misses_are_not_shadowed() {
        let rules = "sg-1:
  - {SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 80, ToPort: 82, CidrIpv4: 10.1.0.0/16}
  - {SecurityGroupRuleId: sgr-2, IpProtocol: tcp, FromPort: 79, ToPort: 81, CidrIpv4: 10.0.0.0/8}
  - {SecurityGroupRuleId: sgr-3, IpProtocol: udp, FromPort: 80, ToPort: 80, CidrIpv4: 10.1.0.0/16}
  - {SecurityGroupRuleId: sgr-4, IsEgress: true, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 10.1.0.0/16}
  - {SecurityGroupRuleId: sgr-5, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv6: '2001:db8::/32'}
sg-2: []";
        assert_eq!(found(rules), []);
    }

    #[test]
    fn of_equal_rules_the_later_is_shadowed() {
        let rules = "sg-1:
  - {SecurityGroupRuleId: sgr-2, IpProtocol: '-1', CidrIpv4: 10.1.0.0/16}
  - {SecurityGroupRuleId: sgr-1, IpProtocol: '-1', CidrIpv4: 10.1.0.0/16}
sg-2: []";
        assert_eq!(found(rules), [(FindingKind::ShadowedRule, "sgr-1".to_owned())]);
    }
}
