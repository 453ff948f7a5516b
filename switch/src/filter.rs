//! Filters in the switch's own numbers: what the words of `espalier_api::filter` name, looked up once by the manager.
//!
//! A worker asks such a filter about flows and about packets under way, without a string or an allocation. A name means
//! what it meant when it was looked up: a rule that a later snapshot brings is not among those of its group.

use espalier_api::Direction;
use espalier_api::filter::{Filter, Headers, Subject};

use crate::counters::Blame;
use crate::flow::{FlowRecord, PodSlot, Selector};
use crate::observe::{End, Seen};
use crate::packet::{self, VLAN_TAG};
use crate::reason::DropReason;
use crate::step::{From, Handed, Outcome};
use crate::worker::RuleSpan;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// A pod, and the VLAN of its branch.
    Pod {
        /// Where it is in the tables.
        slot: PodSlot,
        /// VLAN of the tag.
        vlan: u16,
    },
    /// A rule, or those of a group.
    Rules(Vec<RuleSpan>),
    /// Why a packet was dropped.
    Reason(DropReason),
}

/// Whether a flow fits: its first packet tells what is source and what is destination.
pub fn fits_flow(filter: &Filter<Known>, flow: &FlowRecord) -> bool {
    let inwards = flow.initiator() == Direction::Ingress;
    let addresses = turned(inwards, (flow.key.local(), flow.key.remote()));
    let ports = match flow.key.selector() {
        Selector::Ports { local, remote } => Some(turned(inwards, (local, remote))),
        Selector::Query { .. } | Selector::Addresses => None,
    };
    let headers = Headers::of_flow(addresses, flow.key.protocol(), ports);
    let subject = Subject { headers, ingress: inwards, egress: !inwards, ..Subject::default() };
    filter.matches(&subject, |known| match known {
        Known::Pod { slot, .. } => *slot == flow.key.slot(),
        Known::Rules(spans) => spans.iter().any(|span| span.covers(flow.account())),
        Known::Reason(_) => false,
    })
}

/// Whether a packet fits that was decided, or lost on its way out.
pub fn fits_packet(filter: &Filter<Known>, seen: &Seen<'_>) -> bool {
    let subject = subject(seen);
    filter.matches(&subject, |known| match known {
        Known::Pod { slot, vlan } => concerns(seen, *slot, *vlan),
        Known::Rules(spans) => seen.legs.iter().any(|leg| {
            let rule = leg.rule(seen.generation);
            rule.is_some_and(|rule| spans.iter().any(|span| span.covers(rule)))
        }),
        Known::Reason(reason) => seen.end.dropped() == Some(*reason),
    })
}

fn subject(seen: &Seen<'_>) -> Subject {
    let has = |direction| seen.legs.iter().any(|leg| leg.direction == direction);
    let from_pod = matches!(seen.from, Some(From::Pod { .. }));
    let to_pod = matches!(seen.from, Some(From::Trunk { .. } | From::Peer(_)));
    let (lost_in, lost_out) = match seen.end {
        End::Lost { blame: Blame::Ingress(_), .. } => (true, false),
        End::Lost { blame: Blame::Egress(_), .. } => (false, true),
        _ => (false, false),
    };
    let tag = own_tag(seen.from, seen.bytes);
    Subject {
        headers: Headers::behind(seen.bytes, tag),
        len: seen.len.saturating_sub(tag),
        ingress: has(Direction::Ingress) || to_pod || lost_in,
        egress: has(Direction::Egress) || from_pod || lost_out,
        fate: Some(seen.end.fate()),
    }
}

/// Source and destination from the pod's end and the other.
fn turned<T>(inwards: bool, (local, remote): (T, T)) -> (T, T) {
    if inwards { (remote, local) } else { (local, remote) }
}

/// Bytes of the tag that the steering program wrote into the frame, which the sender knows nothing of.
pub fn own_tag(from: Option<From>, bytes: &[u8]) -> usize {
    let written = match from {
        Some(From::Pod { tagged, .. }) => tagged,
        // On its way out: with a tag of its sender's it would not have come so far.
        None => packet::has_tag(bytes),
        Some(From::Trunk { .. } | From::Peer(_)) => false,
    };
    if written { VLAN_TAG } else { 0 }
}

/// Whether it came from the pod's port or branch, was on its way to the pod, or met its policy.
fn concerns(seen: &Seen<'_>, pod: PodSlot, branch: u16) -> bool {
    let came = match seen.from {
        Some(From::Pod { slot, .. }) => slot == pod,
        Some(From::Trunk { vlan } | From::Peer(Handed::Trunk { vlan })) => vlan == branch,
        Some(From::Peer(Handed::Pod)) | None => false,
    };
    let goes = match seen.end {
        End::Decided(Outcome::Forward(exit)) => exit.pod() == Some(pod),
        End::Decided(Outcome::HandOver { to }) => to == pod,
        End::Lost { blame: Blame::Ingress(slot) | Blame::Egress(slot), .. } => slot == pod,
        End::Lost { blame: Blame::Nobody, .. } | End::Decided(Outcome::Drop(_) | Outcome::Consumed) => false,
    };
    came || goes || seen.legs.iter().any(|leg| leg.slot == pod)
}
