//! Cuts the address space where any rule's prefix begins or ends.
//!
//! Used by the difference of two snapshots: within a piece, the rules that hold its addresses are the same.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::lower::LoweredRule;

/// A run of addresses of one family, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    v6: bool,
    first: u128,
    pub(super) last: u128,
}

impl Piece {
    /// Whether `next` goes on where this one ends.
    pub(super) fn touches(&self, next: &Self) -> bool {
        self.v6 == next.v6 && self.last.checked_add(1) == Some(next.first)
    }

    /// The fewest prefixes that make it up.
    pub(super) fn nets(&self) -> Vec<IpNet> {
        if self.v6 {
            let (first, last) = (Ipv6Addr::from(self.first), Ipv6Addr::from(self.last));
            return Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect();
        }
        let (first, last) = (Ipv4Addr::from(self.first as u32), Ipv4Addr::from(self.last as u32));
        Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
    }
}

/// A piece with the rules of both sides that hold it.
pub(super) type Cut<'a> = (Piece, Vec<&'a LoweredRule>, Vec<&'a LoweredRule>);

/// The pieces that any rule holds, in order: IPv4, then IPv6.
pub(super) fn cut<'a>(before: &[&'a LoweredRule], after: &[&'a LoweredRule]) -> Vec<Cut<'a>> {
    let mut pieces = Vec::new();
    for v6 in [false, true] {
        let sides = [before, after];
        // Where a rule begins or ends to hold addresses: (address, begins, side, rule).
        let mut edges: Vec<(u128, bool, usize, usize)> = Vec::new();
        for (side, rules) in sides.iter().enumerate() {
            for (number, rule) in rules.iter().enumerate() {
                for (first, last) in bounds(&rule.prefixes, v6) {
                    edges.push((first, true, side, number));
                    edges.extend(last.checked_add(1).map(|end| (end, false, side, number)));
                }
            }
        }
        edges.sort_unstable();
        let end = if v6 { u128::MAX } else { u128::from(u32::MAX) };
        let mut holding = [BTreeSet::new(), BTreeSet::new()];
        let mut rest = &edges[..];
        while let Some((at, ..)) = rest.first().copied() {
            let here = rest.partition_point(|edge| edge.0 == at);
            for (_, begins, side, number) in &rest[..here] {
                match begins {
                    true => holding[*side].insert(*number),
                    false => holding[*side].remove(number),
                };
            }
            rest = &rest[here..];
            let last = rest.first().map_or(end, |(next, ..)| next - 1);
            if holding.iter().any(|side| !side.is_empty()) && at <= end {
                let rules = |side: usize| holding[side].iter().map(|number| sides[side][*number]).collect();
                pieces.push((Piece { v6, first: at, last }, rules(0), rules(1)));
            }
        }
    }
    pieces
}

/// First and last address of the prefixes of one family, without those inside another and with touching ones joined:
/// so that a rule begins and ends once for each.
fn bounds(prefixes: &[IpNet], v6: bool) -> Vec<(u128, u128)> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let own = prefixes.iter().filter(|net| matches!(net, IpNet::V6(_)) == v6);
    let mut all: Vec<(u128, u128)> =
        own.map(|net| (number(net.network()), number(net.broadcast()))).collect();
    all.sort_unstable();
    let mut bounds: Vec<(u128, u128)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match bounds.last_mut() {
            Some(before) if before.1.checked_add(1).is_none_or(|next| first <= next) => {
                before.1 = before.1.max(last);
            }
            _ => bounds.push((first, last)),
        }
    }
    bounds
}
