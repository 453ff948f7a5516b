//! The plain engine: tries every lowered rule of the policy. Slow and obviously correct.
//!
//! It is the first of the two oracles the compiled engine is held to.

use std::cmp::Reverse;
use std::sync::Arc;

use espalier_api::protocol;

use crate::engine::{Decision, Engine, PolicyId, RuleRef};
use crate::lower::LoweredRule;
use crate::model::{Model, in_direction};
use crate::tuple::Tuple;

/// Evaluates a [`Model`] rule by rule.
#[derive(Debug, Clone)]
pub struct Linear {
    model: Arc<Model>,
}

impl Linear {
    /// An engine for this model.
    pub fn new(model: Arc<Model>) -> Self {
        Self { model }
    }

    fn matching(&self, policy: PolicyId, packet: &Tuple) -> impl Iterator<Item = (RuleRef, &LoweredRule)> {
        in_direction(self.model.rules_of_policy(policy), packet.direction)
            .filter(|(_, rule)| rule.predicate.contains(packet) && rule.prefix_len(packet.remote).is_some())
    }

    /// Untracked: TCP or UDP, permitted by any rule for all addresses, while one rule of the opposite direction
    /// permits all addresses on all ports (EC2 user guide, "Security group connection tracking"). The rule the flow is
    /// attributed to may be a narrower one: the replies pass by the opposite rule alone either way.
    fn tracked(&self, policy: PolicyId, packet: &Tuple) -> bool {
        if !matches!(packet.protocol, protocol::TCP | protocol::UDP) {
            return true;
        }
        let world_here = self.matching(policy, packet).any(|(_, rule)| rule.is_world(packet.remote));
        let world_back = in_direction(self.model.rules_of_policy(policy), packet.direction.opposite())
            .any(|(_, rule)| rule.is_world(packet.remote) && rule.predicate.covers_all_of(packet.protocol));
        !(world_here && world_back) || self.model.is_always_tracked(packet.remote)
    }
}

impl Engine for Linear {
    fn judge(&self, policy: PolicyId, packet: &Tuple) -> Decision {
        if let Some(service) = self.model.services().find(packet) {
            return Decision::Unfiltered { service };
        }
        let best = self.matching(policy, packet).min_by(|(_, a), (_, b)| {
            let length = |rule: &LoweredRule| Reverse(rule.prefix_len(packet.remote));
            length(a).cmp(&length(b)).then_with(|| a.precedence(b))
        });
        match best {
            Some((rule, _)) => Decision::Allow { rule, tracked: self.tracked(policy, packet) },
            None => Decision::Deny,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;
    use espalier_api::Direction;
    use espalier_api::Direction::{Egress, Ingress};

    /// `rule id`, with `!` if the flow is untracked; `-` for a deny.
    fn judged(rules: &str, packet: Tuple) -> String {
        let model = Arc::new(Model::new(&snapshot(rules)).0);
        let engine = Linear::new(model.clone());
        match engine.judge(model.policy_of(0).unwrap(), &packet) {
            Decision::Allow { rule, tracked } => {
                format!("{}{}", model.rule(rule).unwrap().id().unwrap(), if tracked { "" } else { "!" })
            }
            Decision::Unfiltered { .. } => "unfiltered".into(),
            Decision::Deny => "-".into(),
        }
    }

    fn tcp(direction: Direction, remote: &str, port: u16) -> Tuple {
        Tuple::with_ports(direction, remote.parse().unwrap(), 6, 50000, port)
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert_eq!(judged("sg-1: []\nsg-2: []", tcp(Ingress, "10.0.1.11", 80)), "-");
        assert_eq!(judged("sg-1: []\nsg-2: []", tcp(Egress, "10.0.1.11", 80)), "-");
    }

    #[test]
    fn the_reported_rule_is_the_most_specific_then_narrowest_then_lowest() {
        let rules = "sg-1:
  - {SecurityGroupRuleId: sgr-5, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 10.0.0.0/8}
  - {SecurityGroupRuleId: sgr-4, IpProtocol: '-1', CidrIpv4: 10.0.1.0/24}
sg-2:
  - {SecurityGroupRuleId: sgr-3, IpProtocol: tcp, FromPort: 79, ToPort: 80, CidrIpv4: 10.0.1.0/24}
  - {SecurityGroupRuleId: sgr-2, IpProtocol: tcp, FromPort: 80, ToPort: 81, CidrIpv4: 10.0.1.0/24}
  - {SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 0, ToPort: 65535, ReferencedGroupInfo: {GroupId: sg-2}}
";
        for (remote, port, wanted) in [
            ("10.9.9.9", 80, "sgr-5"),
            ("10.0.1.99", 80, "sgr-2"),
            ("10.0.1.99", 79, "sgr-3"),
            ("10.0.1.99", 78, "sgr-4"),
            ("10.0.1.11", 80, "sgr-1"),
            ("10.9.9.9", 81, "-"),
        ] {
            assert_eq!(judged(rules, tcp(Ingress, remote, port)), wanted, "{remote} {port}");
        }
    }

    #[test]
    fn families_are_apart() {
        let rules = "sg-1:
  - {SecurityGroupRuleId: sgr-1, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}
sg-2: []";
        assert_eq!(judged(rules, tcp(Ingress, "2001:db8::99", 80)), "-");
        assert_eq!(judged(rules, tcp(Ingress, "::ffff:10.0.0.9", 80)), "-");
        assert_eq!(judged(rules, tcp(Ingress, "10.0.0.9", 80)), "sgr-1");
    }

    #[test]
    fn icmp_types_and_codes() {
        let rules = "sg-1:
  - {SecurityGroupRuleId: sgr-1, IpProtocol: icmp, FromPort: 8, ToPort: -1, CidrIpv4: 10.0.0.0/8}
  - {SecurityGroupRuleId: sgr-2, IpProtocol: icmp, FromPort: 3, ToPort: 4, CidrIpv4: 10.0.0.0/8}
sg-2: []";
        let icmp = |t, c| Tuple::icmp(Ingress, "10.0.0.9".parse().unwrap(), 1, t, c);
        for (t, c, wanted) in [(8, 0, "sgr-1"), (8, 255, "sgr-1"), (3, 4, "sgr-2"), (3, 3, "-"), (9, 0, "-")]
        {
            assert_eq!(judged(rules, icmp(t, c)), wanted);
        }
        assert_eq!(judged(rules, tcp(Ingress, "10.0.0.9", 0x0800)), "-");
    }

    #[test]
    fn tracking_follows_the_guides_example() {
        let rules = |egress: &str| {
            format!(
                "sg-1:
  - {{SecurityGroupRuleId: sgr-22, IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIpv4: 203.0.113.1/32}}
  - {{SecurityGroupRuleId: sgr-80, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 0.0.0.0/0}}
  - {{SecurityGroupRuleId: sgr-81, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv6: '::/0'}}
  - {{SecurityGroupRuleId: sgr-1, IpProtocol: icmp, FromPort: -1, ToPort: -1, CidrIpv4: 0.0.0.0/0}}
  - {{SecurityGroupRuleId: sgr-8, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 198.51.100.0/24}}
sg-2:
  - {{SecurityGroupRuleId: sgr-e, IsEgress: true, {egress}}}"
            )
        };
        let all = rules("IpProtocol: '-1', CidrIpv4: 0.0.0.0/0");
        assert_eq!(judged(&all, tcp(Ingress, "203.0.113.1", 22)), "sgr-22");
        assert_eq!(judged(&all, tcp(Ingress, "203.0.113.1", 80)), "sgr-80!");
        assert_eq!(judged(&all, tcp(Ingress, "198.51.100.7", 80)), "sgr-8!");
        assert_eq!(judged(&all, tcp(Ingress, "2001:db8::99", 80)), "sgr-81");
        let ping = Tuple::icmp(Ingress, "203.0.113.1".parse().unwrap(), 1, 8, 0);
        assert_eq!(judged(&all, ping), "sgr-1");
        let partial = rules("IpProtocol: tcp, FromPort: 1, ToPort: 65535, CidrIpv4: 0.0.0.0/0");
        assert_eq!(judged(&partial, tcp(Ingress, "203.0.113.1", 80)), "sgr-80");
        let tcp_all = rules("IpProtocol: tcp, FromPort: 0, ToPort: 65535, CidrIpv4: 0.0.0.0/0");
        assert_eq!(judged(&tcp_all, tcp(Ingress, "203.0.113.1", 80)), "sgr-80!");
        let halves = rules("IpProtocol: '-1', CidrIpv4: 0.0.0.0/1");
        assert_eq!(judged(&halves, tcp(Ingress, "203.0.113.1", 80)), "sgr-80");
    }

    #[test]
    fn services_need_no_rule() {
        let dns = Tuple::with_ports(Egress, "169.254.169.253".parse().unwrap(), 17, 40000, 53);
        assert_eq!(judged("sg-1: []\nsg-2: []", dns), "unfiltered");
    }
}
