//! What opens and what closes between two snapshots: exactly, as (remote, protocol, port) space of each pod.
//!
//! Called by `espalier rules diff`. The address space is cut at the edges of all prefixes that either side names; in
//! between nothing can differ, so every piece is compared once and no packet is sampled.

use std::collections::BTreeMap;

use espalier_api::{Direction, PodName, Snapshot};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::engine::PolicyId;
use crate::lower::LoweredRule;
use crate::model::{Model, in_direction};
use ports::{Ports, Span};

mod pieces;
mod ports;

/// A part of the space that opens or closes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpaceChange {
    /// Opens or closes.
    pub change: Opening,
    /// The pods it is about; those whose rules change alike stand together.
    pub pods: Vec<PodName>,
    /// To or from them.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or the numbers of other protocols (`0-5`).
    pub protocol: String,
    /// Destination ports (`80`, `0-65535`), or ICMP types and codes (`8/0-8/255`); absent for other protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// The other ends.
    pub remotes: Vec<IpNet>,
}

/// Which way the space changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Opening {
    /// Denied before, allowed now.
    Opens,
    /// Allowed before, denied now.
    Closes,
}

/// All that opens and closes. A pod that one side does not have is denied everything there.
pub fn difference(old: &Snapshot, new: &Snapshot) -> Vec<SpaceChange> {
    let (old, new) = (Model::new(old).0, Model::new(new).0);
    let mut alike: BTreeMap<(Option<PolicyId>, Option<PolicyId>), Vec<PodName>> = BTreeMap::new();
    for (pod, policy) in old.pods() {
        alike.entry((Some(*policy), policy_of(&new, pod))).or_default().push(pod.clone());
    }
    for (pod, policy) in new.pods().iter().filter(|(pod, _)| old.pod_index(pod).is_none()) {
        alike.entry((None, Some(*policy))).or_default().push(pod.clone());
    }
    let mut changes = Vec::new();
    for ((before, after), pods) in alike {
        for direction in [Direction::Ingress, Direction::Egress] {
            let (before, after) = (rules(&old, before, direction), rules(&new, after, direction));
            compare(&before, &after, (&pods, direction), &mut changes);
        }
    }
    changes
}

fn policy_of(model: &Model, pod: &PodName) -> Option<PolicyId> {
    model.policy_of(model.pod_index(pod)?)
}

fn rules(model: &Model, policy: Option<PolicyId>, direction: Direction) -> Vec<&LoweredRule> {
    let of_policy = policy.into_iter().flat_map(|policy| model.rules_of_policy(policy));
    in_direction(of_policy, direction).map(|(_, rule)| rule).collect()
}

fn compare(
    before: &[&LoweredRule],
    after: &[&LoweredRule],
    (pods, direction): (&[PodName], Direction),
    changes: &mut Vec<SpaceChange>,
) {
    let mut found: BTreeMap<(Opening, Span), Vec<pieces::Piece>> = BTreeMap::new();
    for (piece, before, after) in pieces::cut(before, after) {
        let (before, after) = (Ports::of(&before), Ports::of(&after));
        for (opening, spans) in
            [(Opening::Opens, after.without(&before)), (Opening::Closes, before.without(&after))]
        {
            for span in spans {
                let pieces = found.entry((opening, span)).or_default();
                match pieces.last_mut() {
                    Some(last) if last.touches(&piece) => last.last = piece.last,
                    _ => pieces.push(piece),
                }
            }
        }
    }
    changes.extend(found.into_iter().map(|((change, span), pieces)| SpaceChange {
        change,
        pods: pods.to_vec(),
        direction,
        protocol: span.protocol_words(),
        ports: span.port_words(),
        remotes: pieces.iter().flat_map(pieces::Piece::nets).collect(),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;
    use crate::{Engine, Judge, Tuple};
    use proptest::prelude::*;

    fn told(old: &str, new: &str) -> Vec<String> {
        let words = |change: SpaceChange| {
            let remotes: Vec<String> = change.remotes.iter().map(IpNet::to_string).collect();
            format!(
                "{:?} {} {} {} {} {}",
                change.change,
                change.pods.len(),
                change.direction,
                change.protocol,
                change.ports.unwrap_or_default(),
                remotes.join(",")
            )
        };
        difference(&snapshot(old), &snapshot(new)).into_iter().map(words).collect()
    }

    #[test]
    fn a_wider_port_range_opens_only_what_is_new() {
        let rule = |to: u16| {
            format!(
                "sg-1:\n  - {{IpProtocol: tcp, FromPort: 80, ToPort: {to}, CidrIpv4: 10.0.0.0/8}}\nsg-2: []"
            )
        };
        assert_eq!(told(&rule(80), &rule(82)), ["Opens 1 ingress tcp 81-82 10.0.0.0/8"]);
        assert_eq!(told(&rule(82), &rule(80)), ["Closes 1 ingress tcp 81-82 10.0.0.0/8"]);
        assert_eq!(told(&rule(80), &rule(80)), [""; 0]);
    }

    #[test]
    fn what_another_rule_allows_anyway_does_not_change() {
        let old = "sg-1:\n  - {IpProtocol: '-1', CidrIpv4: 10.0.0.0/9}\nsg-2: []";
        let new = "sg-1:\n  - {IpProtocol: '-1', CidrIpv4: 10.0.0.0/9}\nsg-2:\n  - {IpProtocol: icmp, FromPort: 8, ToPort: -1, CidrIpv4: 10.0.0.0/8}";
        assert_eq!(
            told(old, new),
            ["Opens 1 ingress icmp 8/0-8/255 10.128.0.0/9", "Opens 1 ingress icmp 8/0-8/255 10.0.0.0/8"]
        );
    }

    #[test]
    fn all_protocols_are_four_named_ones_and_the_rest() {
        let new = "sg-1:\n  - {IsEgress: true, IpProtocol: '-1', CidrIpv6: '::/0'}\nsg-2: []";
        assert_eq!(
            told("", new),
            [
                "Opens 1 egress tcp 0-65535 ::/0",
                "Opens 1 egress udp 0-65535 ::/0",
                "Opens 1 egress icmp 0/0-255/255 ::/0",
                "Opens 1 egress icmpv6 0/0-255/255 ::/0",
                "Opens 1 egress 0,2-5,7-16,18-57,59-255  ::/0",
            ]
        );
    }

    prop_compose! {
        fn some_rules()(rules in prop::collection::vec((0u8..2, prop::sample::select(vec!["10.0.0.0/8", "10.0.1.0/24", "10.0.1.64/26", "10.0.9.0/28", "0.0.0.0/0", "10.0.1.11/32"]), 0u16..6, 0u16..4), 0..5)) -> String {
            let mut text = if rules.is_empty() { "sg-1: []\n" } else { "sg-1:\n" }.to_owned();
            for (egress, cidr, port, more) in rules {
                text += &format!("  - {{IsEgress: {}, IpProtocol: tcp, FromPort: {port}, ToPort: {}, CidrIpv4: {cidr}}}\n", egress == 1, port + more);
            }
            text + "sg-2: []"
        }
    }

    proptest! {
        /// The engines' verdicts change exactly where the difference says.
        #[test]
        fn it_is_what_the_engines_say(old in some_rules(), new in some_rules()) {
            let (old, new) = (snapshot(&old), snapshot(&new));
            let changes = difference(&old, &new);
            let ((before, _), (after, _)) = (Judge::plain(&old), Judge::plain(&new));
            for remote in ["9.255.255.255", "10.0.0.0", "10.0.1.63", "10.0.1.64", "10.0.1.11", "10.0.1.128", "10.0.9.15", "10.0.9.16", "11.0.0.0"] {
                for (port, direction) in (0..12u16).flat_map(|port| [(port, Direction::Ingress), (port, Direction::Egress)]) {
                    let remote = remote.parse().unwrap();
                    let packet = Tuple::with_ports(direction, remote, 6, 9, port);
                    let passes = |judge: &Judge| judge.judge(judge.policy_of(0).unwrap(), &packet).passes();
                    let wanted = match (passes(&before), passes(&after)) {
                        (false, true) => Some(Opening::Opens),
                        (true, false) => Some(Opening::Closes),
                        _ => None,
                    };
                    let holds = |change: &&SpaceChange| {
                        let ports = change.ports.clone().unwrap_or_default();
                        let (first, last) = ports.split_once('-').unwrap_or((&ports, &ports));
                        let (first, last): (u16, u16) = (first.parse().unwrap(), last.parse().unwrap());
                        change.direction == direction && (first..=last).contains(&port)
                            && change.remotes.iter().any(|net| net.contains(&remote))
                    };
                    let told: Vec<Opening> = changes.iter().filter(holds).map(|change| change.change).collect();
                    prop_assert_eq!(told, Vec::from_iter(wanted));
                }
            }
        }
    }
}
