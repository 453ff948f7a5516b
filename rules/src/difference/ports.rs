//! What a set of rules allows at one address: selectors by protocol, as sorted disjoint spans.
//!
//! Used by the difference of two snapshots for each piece of the address space.

use std::collections::BTreeMap;

use espalier_api::protocol;

use crate::lower::LoweredRule;

/// Protocols whose selectors are told apart; the others are one set of protocol numbers.
const NAMED: [u8; 4] = [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6];

/// Allowed selectors by place: [`NAMED`], then the other protocols, whose selector is their number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ports(BTreeMap<Place, Vec<(u16, u16)>>);

/// Place of a protocol in the order of the output.
type Place = usize;

/// A protocol with its selectors, or several protocols.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Span {
    /// Selectors of a named protocol.
    Named(Place, (u16, u16)),
    /// Numbers of other protocols.
    Others(Vec<(u16, u16)>),
}

impl Ports {
    /// What the rules allow.
    pub(super) fn of(rules: &[&LoweredRule]) -> Self {
        let mut ports: BTreeMap<Place, Vec<(u16, u16)>> = BTreeMap::new();
        for rule in rules {
            let range = (rule.predicate.first, rule.predicate.last);
            match rule.predicate.protocol {
                None => {
                    (0..NAMED.len()).for_each(|place| ports.entry(place).or_default().push((0, u16::MAX)));
                    ports.entry(NAMED.len()).or_default().extend(unnamed());
                }
                Some(number) => match NAMED.iter().position(|named| *named == number) {
                    Some(place) => ports.entry(place).or_default().push(range),
                    None => ports.entry(NAMED.len()).or_default().push((number.into(), number.into())),
                },
            }
        }
        ports.values_mut().for_each(merge);
        Self(ports)
    }

    /// What is in this set and not in the other.
    pub(super) fn without(&self, other: &Self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (place, own) in &self.0 {
            let left = subtract(own, other.0.get(place).map_or(&[], |spans| spans));
            if *place < NAMED.len() {
                spans.extend(left.into_iter().map(|span| Span::Named(*place, span)));
            } else if !left.is_empty() {
                spans.push(Span::Others(left));
            }
        }
        spans
    }
}

impl Span {
    /// `tcp`, or numbers.
    pub(super) fn protocol_words(&self) -> String {
        match self {
            Self::Named(place, _) => ["tcp", "udp", "icmp", "icmpv6"][*place].to_owned(),
            Self::Others(numbers) => numbers
                .iter()
                .map(|span| range(*span, |number| number.to_string()))
                .collect::<Vec<_>>()
                .join(","),
        }
    }

    /// `80-443`, `8/0-8/255`.
    pub(super) fn port_words(&self) -> Option<String> {
        let type_and_code = |selector: u16| {
            let [icmp_type, code] = selector.to_be_bytes();
            format!("{icmp_type}/{code}")
        };
        match self {
            Self::Named(place, span) if *place < 2 => Some(range(*span, |port| port.to_string())),
            Self::Named(_, span) => Some(range(*span, type_and_code)),
            Self::Others(_) => None,
        }
    }
}

fn range((first, last): (u16, u16), words: impl Fn(u16) -> String) -> String {
    if first == last { words(first) } else { format!("{}-{}", words(first), words(last)) }
}

/// The protocol numbers that have no place of their own.
fn unnamed() -> Vec<(u16, u16)> {
    let mut named: Vec<(u16, u16)> =
        NAMED.iter().map(|number| (u16::from(*number), u16::from(*number))).collect();
    merge(&mut named);
    subtract(&[(0, u8::MAX.into())], &named)
}

fn merge(spans: &mut Vec<(u16, u16)>) {
    spans.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(spans.len());
    for span in spans.drain(..) {
        match merged.last_mut() {
            Some(last) if u32::from(span.0) <= u32::from(last.1) + 1 => last.1 = last.1.max(span.1),
            _ => merged.push(span),
        }
    }
    *spans = merged;
}

/// Both sorted and disjoint.
fn subtract(from: &[(u16, u16)], what: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut left = Vec::new();
    for (first, last) in from {
        let (mut at, last) = (u32::from(*first), u32::from(*last));
        for (cut_first, cut_last) in what {
            let (cut_first, cut_last) = (u32::from(*cut_first), u32::from(*cut_last));
            if cut_last < at || cut_first > last {
                continue;
            }
            if cut_first > at {
                left.push((at as u16, (cut_first - 1) as u16));
            }
            at = cut_last + 1;
        }
        if at <= last {
            left.push((at as u16, last as u16));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_merge_and_subtract_at_the_edges() {
        let mut spans = vec![(5, 9), (0, 3), (4, 4), (65535, 65535)];
        merge(&mut spans);
        assert_eq!(spans, [(0, 9), (65535, 65535)]);
        assert_eq!(subtract(&[(0, 65535)], &[(0, 0), (5, 6), (65535, 65535)]), [(1, 4), (7, 65534)]);
        assert_eq!(subtract(&[(0, 9)], &[(0, 65535)]), []);
        assert_eq!(unnamed(), [(0, 0), (2, 5), (7, 16), (18, 57), (59, 255)]);
    }
}
