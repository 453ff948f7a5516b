//! The rules of all subjects: the same list for the switch, for Open vSwitch and for nftables.

use ipnet::Ipv4Net;

use super::site::{ALLOWED, SERVICE};
use crate::input;
use crate::random::Random;

/// What a rule allows, each way: the other end and one port of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) net: Ipv4Net,
    pub(super) udp: bool,
    pub(super) port: u16,
}

/// Rules of which one, in the middle, allows the traffic.
#[derive(Debug, Clone)]
pub(super) struct Rules(pub(super) Vec<Rule>);

impl Rules {
    /// So many.
    pub(super) fn new(count: usize) -> Self {
        let mut random = Random::new(71);
        let mut rules: Vec<Rule> = input::prefixes(count.saturating_sub(1), 72)
            .into_iter()
            .map(|net| Rule { net, udp: random.below(4) == 0, port: 1 + random.below(60_000) as u16 })
            .collect();
        rules.insert(rules.len() / 2, service(true));
        Self(rules)
    }

    /// The same with one that allows connections to the pods.
    pub(super) fn with_syns(mut self) -> Self {
        self.0.push(service(false));
        self
    }
}

/// What allows the traffic.
fn service(udp: bool) -> Rule {
    let net = ALLOWED.parse().unwrap_or_else(|error| unreachable!("{ALLOWED} is a prefix: {error}"));
    Rule { net, udp, port: SERVICE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_in_the_middle_allows_the_traffic() {
        for count in [1, 10, 1000] {
            let Rules(rules) = Rules::new(count);
            assert_eq!(rules.len(), count);
            let allows = |rule: &Rule| rule.net.to_string() == ALLOWED;
            assert_eq!(rules.iter().position(allows), Some((count - 1) / 2));
            assert_eq!(rules.iter().filter(|rule| allows(rule)).count(), 1);
        }
    }
}
