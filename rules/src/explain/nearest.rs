//! For a denied packet: the rule of the whole snapshot that came closest to allowing it, and what was in the way.
//!
//! Fewest differences first; among equals a wrong port is nearer than a wrong address, and so on down
//! [`Difference`]; then the closer port, the longer common prefix, and the order of attribution.

use std::cmp::Ordering;
use std::net::IpAddr;

use espalier_api::{Difference, Family, Nearest};
use ipnet::IpNet;

use super::target_words;
use crate::engine::{PolicyId, RuleRef};
use crate::lower::LoweredRule;
use crate::model::Model;
use crate::tuple::Tuple;

pub(super) fn find(model: &Model, policy: PolicyId, packet: &Tuple) -> Option<Nearest> {
    let candidates = model.rules().map(|(number, rule)| Candidate::new(model, policy, packet, number, rule));
    let nearest = candidates.min_by(|a, b| a.compare(b))?;
    let rule = nearest.rule;
    Some(Nearest {
        rule: rule.id().cloned(),
        group: rule.group.clone(),
        reason: format!(
            "nearest is {} ({}): it would allow {}",
            rule.label(),
            target_words(rule, rule.direction()),
            words(&nearest.differs, rule)
        ),
        differs: nearest.differs,
    })
}

struct Candidate<'a> {
    rule: &'a LoweredRule,
    number: RuleRef,
    differs: Vec<Difference>,
    port_distance: u16,
    foreign_bits: u8,
}

impl<'a> Candidate<'a> {
    fn new(model: &Model, policy: PolicyId, packet: &Tuple, number: RuleRef, rule: &'a LoweredRule) -> Self {
        let mut differs = Vec::new();
        let predicate = rule.predicate;
        let protocol = predicate.protocol.is_none_or(|own| own == packet.protocol);
        let mut port_distance = 0;
        if protocol && !predicate.contains(packet) {
            differs.push(Difference::Port);
            let selector = packet.selector;
            port_distance =
                predicate.first.saturating_sub(selector).max(selector.saturating_sub(predicate.last));
        }
        let mut foreign_bits = 0;
        if rule.prefix_len(packet.remote).is_none() {
            foreign_bits = missing_bits(&rule.prefixes, packet.remote);
            differs.push(if other_family(rule, packet.remote) {
                Difference::Family
            } else {
                Difference::Address
            });
        }
        if !protocol {
            differs.push(Difference::Protocol);
        }
        if rule.direction() != packet.direction {
            differs.push(Difference::Direction);
        }
        if !model.groups_of_policy(policy).contains(&rule.group) {
            differs.push(Difference::GroupNotAttached);
        }
        differs.sort_unstable();
        Self { rule, number, differs, port_distance, foreign_bits }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let key = |own: &Self| (own.differs.len(), own.port_distance, own.foreign_bits);
        let first = |own: &Self| (own.differs.len(), own.differs.clone());
        first(self)
            .cmp(&first(other))
            .then_with(|| key(self).cmp(&key(other)))
            .then_with(|| self.rule.precedence(other.rule))
            .then_with(|| self.number.cmp(&other.number))
    }
}

/// Whether every prefix of the rule is of the other family.
fn other_family(rule: &LoweredRule, remote: IpAddr) -> bool {
    let family = if remote.is_ipv4() { Family::V4 } else { Family::V6 };
    !rule.prefixes.is_empty() && rule.prefixes.iter().all(|net| Family::of(net) != family)
}

/// How many bits of the nearest prefix the address does not have.
fn missing_bits(prefixes: &[IpNet], remote: IpAddr) -> u8 {
    let missing = |net: &IpNet| {
        let (common, len) = match (net, remote) {
            (IpNet::V4(net), IpAddr::V4(remote)) => {
                ((u32::from(net.network()) ^ u32::from(remote)).leading_zeros(), net.prefix_len())
            }
            (IpNet::V6(net), IpAddr::V6(remote)) => {
                ((u128::from(net.network()) ^ u128::from(remote)).leading_zeros(), net.prefix_len())
            }
            _ => return u8::MAX,
        };
        len.saturating_sub(common as u8)
    };
    prefixes.iter().map(missing).min().unwrap_or(u8::MAX)
}

/// `another port and the other direction`.
fn words(differs: &[Difference], rule: &LoweredRule) -> String {
    let mut parts = Vec::new();
    let mut attached = String::new();
    for difference in differs {
        parts.push(match difference {
            Difference::Port => "another port",
            Difference::Address => "another address",
            Difference::Protocol => "another protocol",
            Difference::Family => "the other address family",
            Difference::Direction => "the other direction",
            Difference::GroupNotAttached => {
                attached = format!(" if the pod had {}", rule.group);
                continue;
            }
        });
    }
    let parts = if parts.is_empty() { "it".to_owned() } else { parts.join(" and ") };
    parts + &attached
}
