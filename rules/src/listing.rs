//! The rules and groups of a model in the words of the control socket.
//!
//! Read by the switch's `/v1/pods/…/rules` and `/v1/groups`, and by the CLI offline.

use espalier_api::Direction;
use espalier_api::control::{GroupStatus, RuleStatus};

use crate::engine::PolicyId;
use crate::model::Model;

impl Model {
    /// The rules in force for a policy, group by group.
    pub fn rules_of(&self, policy: PolicyId) -> Vec<RuleStatus> {
        self.rules_of_policy(policy)
            .map(|(_, rule)| RuleStatus {
                group: rule.group.clone(),
                rule: rule.source.clone(),
                targets: rule.prefixes.len(),
                hits: None,
            })
            .collect()
    }

    /// The groups of the snapshot, in its order.
    pub fn groups(&self) -> Vec<GroupStatus> {
        self.groups
            .iter()
            .map(|group| {
                let count = |direction: Direction| {
                    let rules = group.rules.iter().filter_map(|rule| self.rule(*rule));
                    rules.filter(|rule| rule.direction() == direction).count()
                };
                GroupStatus {
                    group_id: group.id.clone(),
                    group_name: group.name.clone(),
                    ingress_rules: count(Direction::Ingress),
                    egress_rules: count(Direction::Egress),
                    members: self.members_of(&group.id).len(),
                    pods: group.pods.clone(),
                    hits: None,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;

    #[test]
    fn listings_count_rules_targets_members_and_pods() {
        let (model, _) = Model::new(&snapshot(
            "sg-1:
  - {SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 1, ToPort: 1, ReferencedGroupInfo: {GroupId: sg-2}}
sg-2:
  - {SecurityGroupRuleId: sgr-2, IsEgress: true, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}",
        ));
        let rules = model.rules_of(model.policy_of(0).unwrap());
        let rows: Vec<(&str, usize)> = rules.iter().map(|rule| (rule.group.as_str(), rule.targets)).collect();
        assert_eq!(rows, [("sg-1", 4), ("sg-2", 1)]);
        let groups = model.groups();
        assert_eq!((groups[1].ingress_rules, groups[1].egress_rules, groups[1].members), (0, 1, 4));
        assert_eq!(groups[0].pods.len(), 1);
        assert_eq!(groups[1].pods.len(), 2);
    }
}
