//! Answers "would this packet pass, and which rule decides?" in words.
//!
//! Called by the CLI offline and by the switch's `/v1/explain`; the decision itself comes from an [`Engine`].

use std::fmt;

use espalier_api::{Answer, Direction, Explained, PodName, Query, RuleTarget, Verdict, protocol};
use thiserror::Error;

use crate::engine::{Decision, Engine, PolicyId, RuleRef};
use crate::lower::LoweredRule;
use crate::model::Model;
use crate::tuple::Tuple;

mod nearest;

/// A question that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// The pod is not in the snapshot.
    #[error("pod: {0} is not in the snapshot: `espalier pods` lists those that are")]
    UnknownPod(PodName),
    /// TCP or UDP without a port.
    #[error("port: missing, {0} needs the destination port")]
    PortMissing(espalier_api::QueryProtocol),
    /// ICMP without a type.
    #[error("icmp_type: missing, {0} needs the type (8 is an echo request, 128 in ICMPv6)")]
    TypeMissing(espalier_api::QueryProtocol),
}

/// Judges the query's packet and says why.
pub fn explain<E: Engine + ?Sized>(model: &Model, engine: &E, query: &Query) -> Result<Answer, QueryError> {
    let policy = model
        .pod_index(&query.pod)
        .and_then(|pod| model.policy_of(pod))
        .ok_or_else(|| QueryError::UnknownPod(query.pod.clone()))?;
    let packet = tuple(query)?;
    let decision = engine.judge(policy, &packet);
    Ok(answer(model, policy, query, decision))
}

/// [`explain`], and for a deny the nearest rule that would have allowed the packet.
pub fn explain_nearest<E: Engine + ?Sized>(
    model: &Model,
    engine: &E,
    query: &Query,
) -> Result<Explained, QueryError> {
    let answer = explain(model, engine, query)?;
    let policy = model.pod_index(&query.pod).and_then(|pod| model.policy_of(pod));
    let nearest = match (answer.verdict, policy) {
        (Verdict::Deny, Some(policy)) => nearest::find(model, policy, &tuple(query)?),
        _ => None,
    };
    Ok(Explained { answer, nearest })
}

/// The packet a query speaks of: a first packet, so the other end's port of an ingress query is not known (0).
fn tuple(query: &Query) -> Result<Tuple, QueryError> {
    let number = query.protocol.0;
    Ok(match number {
        protocol::TCP | protocol::UDP => {
            let port = query.port.ok_or(QueryError::PortMissing(query.protocol))?;
            Tuple::with_ports(query.direction, query.remote, number, 0, port)
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let icmp_type = query.icmp_type.ok_or(QueryError::TypeMissing(query.protocol))?;
            Tuple::icmp(query.direction, query.remote, number, icmp_type, query.icmp_code.unwrap_or(0))
        }
        _ => Tuple::bare(query.direction, query.remote, number),
    })
}

fn answer(model: &Model, policy: PolicyId, query: &Query, decision: Decision) -> Answer {
    let what = What(query);
    match decision {
        Decision::Allow { rule, tracked } => allowed(model, &what, rule, tracked),
        Decision::Unfiltered { service } => {
            let name = model.services().get(service).map_or("", |service| service.name.as_str());
            let reason = format!("{what} is never filtered by security groups: {name}");
            Answer { verdict: Verdict::Allow, rule: None, group: None, tracked: false, reason }
        }
        Decision::Deny => {
            let groups = model.groups_of_policy(policy);
            let names: Vec<&str> = groups.iter().map(|group| group.as_str()).collect();
            let reason =
                format!("{what} is denied: no {} rule of {} allows it", query.direction, names.join(", "));
            Answer { verdict: Verdict::Deny, rule: None, group: None, tracked: false, reason }
        }
    }
}

fn allowed(model: &Model, what: &What<'_>, rule: RuleRef, tracked: bool) -> Answer {
    let rule = model.rule(rule);
    let name = rule.map(LoweredRule::label).unwrap_or_default();
    let target = rule.map(|rule| target_words(rule, what.0.direction)).unwrap_or_default();
    let state = if tracked { "tracked" } else { "untracked" };
    Answer {
        verdict: Verdict::Allow,
        rule: rule.and_then(|rule| rule.id().cloned()),
        group: rule.map(|rule| rule.group.clone()),
        tracked,
        reason: format!("{what} is allowed by {name} ({target}), {state}"),
    }
}

/// `tcp/5432, source group sg-…`.
fn target_words(rule: &LoweredRule, direction: Direction) -> String {
    let end = match direction {
        Direction::Ingress => "source",
        Direction::Egress => "destination",
    };
    let kind = match rule.source.target {
        RuleTarget::Group(_) => "group ",
        RuleTarget::PrefixList(_) => "prefix list ",
        RuleTarget::Cidr4(_) | RuleTarget::Cidr6(_) => "",
    };
    format!("{}, {end} {kind}{}", rule.source.protocol, rule.source.target)
}

/// The packet in words: `ingress tcp/5432 from 10.0.1.10`.
struct What<'a>(&'a Query);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Query { direction, protocol: number, remote, port, icmp_type, icmp_code, .. } = self.0;
        write!(f, "{direction} ")?;
        match number.0 {
            protocol::TCP | protocol::UDP => write!(f, "{number}/{}", port.unwrap_or(0))?,
            protocol::ICMP | protocol::ICMPV6 => {
                write!(f, "{number} type {} code {}", icmp_type.unwrap_or(0), icmp_code.unwrap_or(0))?;
            }
            _ => write!(f, "protocol {number}")?,
        }
        let word = if *direction == Direction::Ingress { "from" } else { "to" };
        write!(f, " {word} {remote}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Judge;
    use crate::testing::snapshot;

    const RULES: &str = "sg-1:
  - {SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 5432, ToPort: 5432, ReferencedGroupInfo: {GroupId: sg-2}}
sg-2: []";

    fn nearest(query: &str) -> String {
        let (judge, _) = Judge::plain(&snapshot(RULES));
        let explained = judge.explain_nearest(&serde_json::from_str(query).unwrap()).unwrap();
        explained.nearest.unwrap().reason
    }

    #[test]
    fn the_nearest_rule_says_what_is_in_the_way() {
        let ask = |direction: &str, protocol: &str, remote: &str, port: u16| {
            nearest(&format!(
                r#"{{"pod":"default/web","direction":"{direction}","protocol":"{protocol}","remote":"{remote}","port":{port}}}"#
            ))
        };
        assert_eq!(
            ask("ingress", "tcp", "10.0.9.5", 5433),
            "nearest is sgr-1 of sg-1 (tcp/5432, source group sg-2): it would allow another port"
        );
        assert_eq!(
            ask("ingress", "tcp", "10.0.9.16", 5432),
            "nearest is sgr-1 of sg-1 (tcp/5432, source group sg-2): it would allow another address"
        );
        assert_eq!(
            ask("egress", "udp", "10.0.9.5", 5432),
            "nearest is sgr-1 of sg-1 (tcp/5432, source group sg-2): it would allow another protocol and the other direction"
        );
    }

    #[test]
    fn a_rule_of_a_group_the_pod_lacks_is_found() {
        let rules = "sg-1: []
sg-2: []
sg-3:
  - {SecurityGroupRuleId: sgr-3, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}";
        let (judge, _) = Judge::plain(&snapshot(rules));
        let query =
            r#"{"pod":"default/web","direction":"ingress","protocol":"tcp","remote":"10.0.9.5","port":1}"#;
        let nearest = judge.explain_nearest(&serde_json::from_str(query).unwrap()).unwrap().nearest.unwrap();
        assert_eq!(nearest.differs, [espalier_api::Difference::GroupNotAttached]);
        assert!(nearest.reason.ends_with("it would allow it if the pod had sg-3"), "{}", nearest.reason);
    }

    fn explained(query: &str) -> Result<Answer, QueryError> {
        let (judge, _) = Judge::plain(&snapshot(RULES));
        judge.explain(&serde_json::from_str(query).unwrap())
    }

    #[test]
    fn an_allow_names_rule_group_and_target() {
        let answer = explained(
            r#"{"pod":"default/web","direction":"ingress","protocol":"tcp","remote":"10.0.9.5","port":5432}"#,
        )
        .unwrap();
        assert_eq!(
            answer.reason,
            "ingress tcp/5432 from 10.0.9.5 is allowed by sgr-1 of sg-1 (tcp/5432, source group sg-2), tracked"
        );
        assert_eq!(answer.rule.unwrap().as_str(), "sgr-1");
        assert_eq!(answer.group.unwrap().as_str(), "sg-1");
    }

    #[test]
    fn a_deny_names_the_groups_asked() {
        let answer =
            explained(r#"{"pod":"default/web","direction":"egress","protocol":"50","remote":"10.0.9.5"}"#)
                .unwrap();
        assert_eq!(answer.verdict, Verdict::Deny);
        assert_eq!(
            answer.reason,
            "egress protocol 50 to 10.0.9.5 is denied: no egress rule of sg-1, sg-2 allows it"
        );
    }

    #[test]
    fn a_service_is_named() {
        let answer = explained(
            r#"{"pod":"default/web","direction":"egress","protocol":"udp","remote":"10.0.0.2","port":53}"#,
        )
        .unwrap();
        assert_eq!((answer.verdict, answer.rule, answer.tracked), (Verdict::Allow, None, false));
        assert!(
            answer.reason.ends_with("never filtered by security groups: amazon-dns"),
            "{}",
            answer.reason
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (query, wanted) in [
            (r#"{"pod":"a/b","direction":"egress","protocol":"50","remote":"::1"}"#, "pod: a/b"),
            (
                r#"{"pod":"default/web","direction":"egress","protocol":"tcp","remote":"::1"}"#,
                "port: missing",
            ),
            (r#"{"pod":"default/web","direction":"egress","protocol":"icmp","remote":"::1"}"#, "icmp_type"),
        ] {
            let error = explained(query).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
