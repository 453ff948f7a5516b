//! The interface between the switch and whatever evaluates rules: question in, [`Decision`] out.
//!
//! Implemented by the compiled tables and by the oracles; every implementation gives the same answer.

use crate::tuple::Tuple;

/// A set of security groups. Pods with the same set share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub(crate) u32);

/// A rule of the model the decision was made with ([`Model::rule`](crate::Model::rule)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef(pub(crate) u32);

/// A service that is never filtered ([`Services::get`](crate::Services::get)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef(pub(crate) u16);

impl PolicyId {
    /// Position in the model's list of policies.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl RuleRef {
    /// Position in the model's list of rules: below [`Model::rule_bound`](crate::Model::rule_bound).
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ServiceRef {
    /// Position in the model's list of services.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What is to happen to the first packet of a flow (or to every packet of an untracked one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// A rule allows it.
    Allow {
        /// The rule it is attributed to: of all that match, the one with the most specific prefix, then the
        /// narrowest ports, then the lowest id.
        rule: RuleRef,
        /// Whether its replies need state. Untracked replies pass by the opposite direction's rules.
        tracked: bool,
    },
    /// Security groups do not filter this service, in either direction; no state is made.
    Unfiltered {
        /// The service.
        service: ServiceRef,
    },
    /// No rule allows it.
    Deny,
}

impl Decision {
    /// Whether the packet passes.
    pub fn passes(self) -> bool {
        self != Self::Deny
    }
}

/// Evaluates packets against policies.
pub trait Engine {
    /// The decision for one packet of a pod that has `policy`.
    fn judge(&self, policy: PolicyId, packet: &Tuple) -> Decision;

    /// The decisions for a batch. `decisions` is as long as `packets`.
    fn judge_batch(&self, packets: &[(PolicyId, Tuple)], decisions: &mut [Decision]) {
        debug_assert_eq!(packets.len(), decisions.len());
        for ((policy, packet), decision) in packets.iter().zip(decisions) {
            *decision = self.judge(*policy, packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_stays_small() {
        assert!(size_of::<Decision>() <= 8);
    }
}
