//! What the switch itself says about the probes: which rule decides, and why.

use std::net::IpAddr;

use espalier_api::{Answer, Direction, Query, RuleId, Verdict};

use super::planned::Planned;
use crate::scenario::{Endpoint, Scenario};
use crate::{Lab, LabError};

/// The answer for a whole probe: out of the source pod, then into the destination pod.
#[derive(Debug, Clone)]
pub(super) struct Explained {
    pub(super) verdict: Verdict,
    pub(super) rule: Option<RuleId>,
    pub(super) reason: String,
}

/// Asks for all probes at once.
pub(super) fn ask(lab: &Lab, planned: &[Planned]) -> Result<Vec<Explained>, LabError> {
    let queries: Vec<Vec<Query>> = planned.iter().map(|planned| queries(lab.scenario(), planned)).collect();
    let mut answers = lab.control().explain(&queries.concat())?.into_iter();
    let merged = queries.iter().map(|queries| {
        let own: Vec<_> = queries.iter().zip(answers.by_ref()).collect();
        merge(&own)
    });
    let merged: Option<Vec<_>> = merged.collect();
    merged.ok_or_else(|| {
        LabError::Unexpected("the switch explained fewer packets than it was asked for".into())
    })
}

fn queries(scenario: &Scenario, planned: &Planned) -> Vec<Query> {
    let (icmp_type, icmp_code) = planned.icmp();
    let query = |endpoint: Endpoint, direction, remote: IpAddr| match endpoint {
        Endpoint::Pod(index) => Some(Query {
            pod: scenario.pods[index].name.clone(),
            direction,
            protocol: planned.probe.protocol.on_the_wire(),
            remote,
            port: planned.port(),
            icmp_type: planned.is_icmp().then_some(icmp_type),
            icmp_code: planned.is_icmp().then_some(icmp_code),
        }),
        _ => None,
    };
    let out = query(planned.from, Direction::Egress, planned.to_address);
    let into = query(planned.to, Direction::Ingress, planned.from_address);
    out.into_iter().chain(into).collect()
}

/// The first denial decides; else the last rule, which is the destination's where both ends are pods.
fn merge(answers: &[(&Query, Answer)]) -> Option<Explained> {
    let denial = answers.iter().find(|(_, answer)| answer.verdict == Verdict::Deny);
    let (query, deciding) = denial.or(answers.last())?;
    let reason = match denial {
        Some(_) => format!("{}: {}", query.direction, deciding.reason),
        None => {
            let each =
                answers.iter().map(|(query, answer)| format!("{}: {}", query.direction, answer.reason));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    Some(Explained { verdict: deciding.verdict, rule: deciding.rule.clone(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_decides_and_otherwise_the_destinations_rule() {
        let query = |direction| Query {
            pod: "a/b".parse().unwrap(),
            direction,
            protocol: "tcp".parse().unwrap(),
            remote: "10.0.0.1".parse().unwrap(),
            port: Some(80),
            icmp_type: None,
            icmp_code: None,
        };
        let answer = |verdict, rule: Option<&str>| Answer {
            verdict,
            rule: rule.map(|rule| rule.parse().unwrap()),
            group: None,
            tracked: true,
            reason: "why".into(),
        };
        let (out, into) = (query(Direction::Egress), query(Direction::Ingress));
        let allowed = (&out, answer(Verdict::Allow, Some("sgr-out")));
        let both = merge(&[allowed.clone(), (&into, answer(Verdict::Allow, Some("sgr-in")))]).unwrap();
        assert_eq!((both.verdict, both.rule.unwrap().as_str()), (Verdict::Allow, "sgr-in"));
        assert_eq!(both.reason, "egress: why; ingress: why");
        let denied = merge(&[allowed, (&into, answer(Verdict::Deny, None))]).unwrap();
        assert_eq!(
            (denied.verdict, denied.rule, denied.reason),
            (Verdict::Deny, None, "ingress: why".into())
        );
        assert!(merge(&[]).is_none());
    }
}
