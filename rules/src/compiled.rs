//! The compiled engine's tables: what workers read. Remote address → class → (policy, class, protocol) → ports → rule.
//!
//! Immutable and shared; the [`Compiler`](crate::Compiler) makes the next version out of the pages that did not change.
//! No lookup allocates, locks or waits.

use std::net::IpAddr;
use std::sync::Arc;

use crate::engine::{Decision, Engine, PolicyId};
use crate::services::Services;
use crate::tuple::Tuple;
use address::Address;
use classes::ClassRef;
use hosts::{Hosts4, Hosts6};
use policies::row;
use trie::Trie;
use verdicts::{Verdicts, slot};

pub(crate) mod address;
pub(crate) mod classes;
pub(crate) mod family;
pub(crate) mod hosts;
pub(crate) mod interner;
pub(crate) mod pages;
pub(crate) mod policies;
pub(crate) mod ports;
pub(crate) mod rulebook;
pub(crate) mod trie;
pub(crate) mod verdicts;

/// Packets that a batch walks side by side: enough independent loads to hide a cache miss behind the others.
pub(crate) const LANES: usize = 32;

/// One version of the compiled rules.
#[derive(Debug, Clone)]
pub struct Tables {
    pub(crate) v4: Arc<Trie<u32>>,
    pub(crate) v6: Arc<Trie<u128>>,
    pub(crate) hosts4: Arc<Hosts4>,
    pub(crate) hosts6: Arc<Hosts6>,
    pub(crate) verdicts: Arc<Verdicts>,
    pub(crate) services: Arc<Services>,
}

/// Bytes of each table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSizes {
    /// Tries of both families.
    pub tries: usize,
    /// Host tables of both families.
    pub hosts: usize,
    /// Everything behind the class.
    pub verdicts: usize,
}

impl TableSizes {
    /// All of it.
    pub fn total(&self) -> usize {
        self.tries + self.hosts + self.verdicts
    }
}

impl Tables {
    /// Bytes that lookups read from.
    pub fn sizes(&self) -> TableSizes {
        TableSizes {
            tries: self.v4.bytes() + self.v6.bytes(),
            hosts: self.hosts4.bytes() + self.hosts6.bytes(),
            verdicts: self.verdicts.bytes(),
        }
    }

    /// The class of an address by prefix alone, as a number without meaning: the prefix stage for benches.
    #[inline]
    pub fn prefix_class(&self, remote: IpAddr) -> u32 {
        match remote {
            IpAddr::V4(address) => self.v4.get(address.into()),
            IpAddr::V6(address) => self.v6.get(address.into()),
        }
    }

    /// [`prefix_class`](Self::prefix_class) for a batch.
    pub fn prefix_classes(&self, remotes: &[IpAddr], classes: &mut [u32]) {
        for (remotes, classes) in remotes.chunks(LANES).zip(classes.chunks_mut(LANES)) {
            let mut lanes = [ClassRef::NONE; LANES];
            if let Some(addresses) = uniform(remotes.iter().copied()) {
                self.v4.get_batch(&addresses[..remotes.len()], &mut lanes);
            } else if let Some(addresses) = uniform(remotes.iter().copied()) {
                self.v6.get_batch(&addresses[..remotes.len()], &mut lanes);
            } else {
                for (lane, remote) in lanes.iter_mut().zip(remotes) {
                    *lane = ClassRef(self.prefix_class(*remote));
                }
            }
            for (class, lane) in classes.iter_mut().zip(lanes) {
                *class = lane.0;
            }
        }
    }

    /// Up to [`LANES`] packets, stage by stage, so that their memory accesses overlap.
    fn judge_lanes(&self, packets: &[(PolicyId, Tuple)], decisions: &mut [Decision]) {
        let mut classes = [ClassRef::NONE; LANES];
        let mut hosts = [ClassRef::NONE; LANES];
        let remotes = || packets.iter().map(|(_, packet)| packet.remote);
        if let Some(addresses) = uniform(remotes()) {
            self.hosts4.get_batch(&addresses[..packets.len()], &mut hosts);
            self.v4.get_batch(&addresses[..packets.len()], &mut classes);
        } else if let Some(addresses) = uniform(remotes()) {
            self.hosts6.get_batch(&addresses[..packets.len()], &mut hosts);
            self.v6.get_batch(&addresses[..packets.len()], &mut classes);
        } else {
            for ((host, class), remote) in hosts.iter_mut().zip(&mut classes).zip(remotes()) {
                (*host, *class) = self.classes_of(remote);
            }
        }
        let mut books = [(0, 0); LANES];
        for (lane, (policy, packet)) in packets.iter().enumerate() {
            let row = row(*policy, packet.direction);
            books[lane].0 = self.verdicts.book_of_ref(row, hosts[lane]);
            books[lane].1 = self.verdicts.book_of_ref(row, classes[lane]);
        }
        let mut ports = [Default::default(); LANES];
        for (lane, (_, packet)) in packets.iter().enumerate() {
            let (slot, _) = slot(packet);
            let (host, class) = books[lane];
            ports[lane] = (self.verdicts.ports_of(host, slot), self.verdicts.ports_of(class, slot));
        }
        for (lane, ((_, packet), decision)) in packets.iter().zip(decisions).enumerate() {
            let (_, selector) = slot(packet);
            let by_host = self.verdicts.verdict(ports[lane].0, selector);
            let by_prefix = self.verdicts.verdict(ports[lane].1, selector);
            let always_tracked = hosts[lane].is_tracked() || classes[lane].is_tracked();
            *decision = by_host.or(by_prefix).decision(always_tracked);
            if let Some(unfiltered) = self.service(packet, hosts[lane]) {
                *decision = unfiltered;
            }
        }
    }

    /// The classes of an address by host and by prefix.
    #[inline]
    fn classes_of(&self, remote: IpAddr) -> (ClassRef, ClassRef) {
        match remote {
            IpAddr::V4(address) => {
                let address = address.into();
                (ClassRef(self.hosts4.get(address)), ClassRef(self.v4.get(address)))
            }
            IpAddr::V6(address) => {
                let address = address.into();
                (ClassRef(self.hosts6.get(address)), ClassRef(self.v6.get(address)))
            }
        }
    }

    #[inline]
    fn service(&self, packet: &Tuple, host: ClassRef) -> Option<Decision> {
        let service = if host.has_service() { self.services.find(packet) } else { None };
        service.map(|service| Decision::Unfiltered { service })
    }
}

/// The addresses of a batch, if all are of this family.
#[inline]
fn uniform<A: Address>(remotes: impl Iterator<Item = IpAddr>) -> Option<[A; LANES]> {
    let mut addresses = [A::default(); LANES];
    for (address, remote) in addresses.iter_mut().zip(remotes) {
        *address = A::of(remote)?;
    }
    Some(addresses)
}

impl Engine for Tables {
    fn judge(&self, policy: PolicyId, packet: &Tuple) -> Decision {
        let row = row(policy, packet.direction);
        let (host, class) = self.classes_of(packet.remote);
        if let Some(unfiltered) = self.service(packet, host) {
            return unfiltered;
        }
        // Both sides are looked up at once: waiting for the host's verdict first would cost more than it saves.
        let (slot, selector) = slot(packet);
        let by = |class| {
            let book = self.verdicts.book_of_ref(row, class);
            self.verdicts.verdict(self.verdicts.ports_of(book, slot), selector)
        };
        by(host).or(by(class)).decision(host.is_tracked() || class.is_tracked())
    }

    fn judge_batch(&self, packets: &[(PolicyId, Tuple)], decisions: &mut [Decision]) {
        debug_assert_eq!(packets.len(), decisions.len());
        for (packets, decisions) in packets.chunks(LANES).zip(decisions.chunks_mut(LANES)) {
            self.judge_lanes(packets, decisions);
        }
    }
}
