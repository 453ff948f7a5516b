//! The compiled engine's tables: what workers read. Remote address → class → (policy, class, protocol) → ports → rule.
//!
//! Immutable and shared; the [`Compiler`](crate::Compiler) makes the next version out of the pages that did not change.
//! No lookup allocates, locks or waits.

use std::net::IpAddr;
use std::sync::Arc;

use crate::engine::{Decision, Engine, PolicyId};
use crate::services::Services;
use crate::tuple::Tuple;
use classes::ClassRef;
use hosts::{Hosts4, Hosts6};
use policies::row;
use trie::{Cursor, Trie};
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
const LANES: usize = 32;

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
            let mut cursors = [Cursor::default(); LANES];
            for (cursor, remote) in cursors.iter_mut().zip(remotes) {
                *cursor = self.start(*remote);
            }
            self.walk(remotes.iter().copied(), &mut cursors);
            for (class, cursor) in classes.iter_mut().zip(cursors) {
                *class = cursor.value();
            }
        }
    }

    #[inline]
    fn host(&self, remote: IpAddr) -> ClassRef {
        ClassRef(match remote {
            IpAddr::V4(address) => self.hosts4.get(address.into()),
            IpAddr::V6(address) => self.hosts6.get(address.into()),
        })
    }

    #[inline]
    fn start(&self, remote: IpAddr) -> Cursor {
        match remote {
            IpAddr::V4(address) => self.v4.start(address.into()),
            IpAddr::V6(address) => self.v6.start(address.into()),
        }
    }

    /// Walks all lanes to their end, one node each a round.
    #[inline]
    fn walk(&self, remotes: impl Iterator<Item = IpAddr> + Clone, cursors: &mut [Cursor; LANES]) {
        loop {
            let mut done = true;
            for (cursor, remote) in cursors.iter_mut().zip(remotes.clone()) {
                if !cursor.is_done() {
                    *cursor = match remote {
                        IpAddr::V4(address) => self.v4.step(address.into(), *cursor),
                        IpAddr::V6(address) => self.v6.step(address.into(), *cursor),
                    };
                    done &= cursor.is_done();
                }
            }
            if done {
                return;
            }
        }
    }

    /// Up to [`LANES`] packets, stage by stage, so that their memory accesses overlap.
    fn judge_lanes(&self, packets: &[(PolicyId, Tuple)], decisions: &mut [Decision]) {
        let mut cursors = [Cursor::default(); LANES];
        let mut hosts = [ClassRef::NONE; LANES];
        for (lane, (_, packet)) in packets.iter().enumerate() {
            cursors[lane] = self.start(packet.remote);
        }
        for (lane, (_, packet)) in packets.iter().enumerate() {
            hosts[lane] = self.host(packet.remote);
        }
        self.walk(packets.iter().map(|(_, packet)| packet.remote), &mut cursors);
        let mut books = [(0, 0); LANES];
        for (lane, (policy, packet)) in packets.iter().enumerate() {
            let row = row(*policy, packet.direction);
            books[lane].0 = self.verdicts.book_of_ref(row, hosts[lane]);
            books[lane].1 = self.verdicts.book_of_ref(row, ClassRef(cursors[lane].value()));
        }
        let mut ports = [Default::default(); LANES];
        for (lane, (_, packet)) in packets.iter().enumerate() {
            let (slot, _) = slot(packet);
            ports[lane] =
                (self.verdicts.ports_of(books[lane].0, slot), self.verdicts.ports_of(books[lane].1, slot));
        }
        for (lane, ((_, packet), decision)) in packets.iter().zip(decisions).enumerate() {
            let (_, selector) = slot(packet);
            let mut verdict = self.verdicts.verdict(ports[lane].0, selector);
            if verdict.is_deny() {
                verdict = self.verdicts.verdict(ports[lane].1, selector);
            }
            let always_tracked = hosts[lane].is_tracked() || ClassRef(cursors[lane].value()).is_tracked();
            *decision = match self.service(packet, hosts[lane]) {
                Some(decision) => decision,
                None => verdict.decision(always_tracked),
            };
        }
    }

    #[inline]
    fn service(&self, packet: &Tuple, host: ClassRef) -> Option<Decision> {
        let service = if host.has_service() { self.services.find(packet) } else { None };
        service.map(|service| Decision::Unfiltered { service })
    }
}

impl Engine for Tables {
    fn judge(&self, policy: PolicyId, packet: &Tuple) -> Decision {
        let row = row(policy, packet.direction);
        let host = self.host(packet.remote);
        if host.is_some() {
            if let Some(decision) = self.service(packet, host) {
                return decision;
            }
            // A host rule's prefix is the most specific there is: if it allows, nothing else is asked.
            let verdict = self.verdicts.find(row, host, packet);
            if !verdict.is_deny() {
                let always_tracked = verdict.is_untracked()
                    && (host.is_tracked() || ClassRef(self.prefix_class(packet.remote)).is_tracked());
                return verdict.decision(always_tracked);
            }
        }
        let class = ClassRef(self.prefix_class(packet.remote));
        self.verdicts.find(row, class, packet).decision(class.is_tracked() || host.is_tracked())
    }

    fn judge_batch(&self, packets: &[(PolicyId, Tuple)], decisions: &mut [Decision]) {
        debug_assert_eq!(packets.len(), decisions.len());
        for (packets, decisions) in packets.chunks(LANES).zip(decisions.chunks_mut(LANES)) {
            self.judge_lanes(packets, decisions);
        }
    }
}
