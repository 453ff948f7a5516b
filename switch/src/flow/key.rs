//! The name of a flow as its pod sees it, and the seeded hash over it.
//!
//! A key is pod-relative (local end, remote end), so packets of both directions make the same key. The step builds one
//! per packet; the table and the `flows` listing read it back. IPv4 keys pack into 16 bytes.

use std::net::{IpAddr, Ipv4Addr};

use espalier_api::protocol::{ICMP, ICMPV6};
use espalier_api::rule::{Direction, Family};

use crate::ip::Ip;

/// Dense index of a pod on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodSlot(pub u16);

impl PodSlot {
    /// The slot as an array index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What tells two flows of a protocol apart, beside their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Selector {
    /// TCP and UDP: both ports.
    Ports {
        /// The pod's port.
        local: u16,
        /// The other end's port.
        remote: u16,
    },
    /// ICMP and ICMPv6 queries: what is asked, the identifier, and who asks.
    Query {
        /// The ICMP type of the request.
        request: u8,
        /// The identifier in the request and its reply.
        id: u16,
        /// The direction of the requests.
        initiator: Direction,
    },
    /// Every other protocol: nothing.
    Addresses,
}

/// One flow of one pod. Both directions give the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey(pub(super) Repr);

/// The two sizes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Repr {
    V4(KeyV4),
    V6(KeyV6),
}

/// An IPv4 key as it lies in an entry: local address in the high half of `ends`; `meta` as [`meta`] packs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct KeyV4 {
    pub(super) ends: u64,
    pub(super) meta: u64,
}

/// An IPv6 key as it lies in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct KeyV6 {
    pub(super) local: [u64; 2],
    pub(super) remote: [u64; 2],
    pub(super) meta: u64,
}

/// The `meta` of a free entry, which no key has.
pub(super) const NO_KEY: u64 = u64::MAX;

// RFC 792 and RFC 4443; the other queries of ICMP are deprecated (RFC 6918).
const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;
const TIMESTAMP: u8 = 13;
const TIMESTAMP_REPLY: u8 = 14;
const ECHO_V6: u8 = 128;
const ECHO_V6_REPLY: u8 = 129;

const KIND_PORTS: u8 = 0;
const KIND_ADDRESSES: u8 = 1;
const KIND_QUERY_INGRESS: u8 = 2;
const KIND_QUERY_EGRESS: u8 = 3;

/// Slot, first selector word, second selector word, protocol, kind: from the high bits down.
#[inline(always)]
fn meta(slot: PodSlot, protocol: u8, selector: Selector) -> u64 {
    let (first, second, kind) = match selector {
        Selector::Ports { local, remote } => (local, remote, KIND_PORTS),
        Selector::Query { request, id, initiator } => {
            let kind = match initiator {
                Direction::Ingress => KIND_QUERY_INGRESS,
                Direction::Egress => KIND_QUERY_EGRESS,
            };
            (id, u16::from(request), kind)
        }
        Selector::Addresses => (0, 0, KIND_ADDRESSES),
    };
    u64::from(slot.0) << 48
        | u64::from(first) << 32
        | u64::from(second) << 16
        | u64::from(protocol) << 8
        | u64::from(kind)
}

/// The slot in a packed `meta`.
#[inline]
pub(super) fn slot_of(meta: u64) -> PodSlot {
    PodSlot((meta >> 48) as u16)
}

impl FlowKey {
    /// A flow of a protocol with ports.
    #[inline(always)]
    pub fn tcp_udp(
        slot: PodSlot,
        local: impl Into<Ip>,
        remote: impl Into<Ip>,
        protocol: u8,
        local_port: u16,
        remote_port: u16,
    ) -> Self {
        let selector = Selector::Ports { local: local_port, remote: remote_port };
        Self::new(slot, local, remote, protocol, selector)
    }

    /// The flow of an ICMP or ICMPv6 message that asks or answers; nothing for any other. Requests from the pod and
    /// requests from the remote end that happen to use one identifier are two flows.
    #[inline]
    pub fn query(
        slot: PodSlot,
        local: impl Into<Ip>,
        remote: impl Into<Ip>,
        protocol: u8,
        message: (u8, u16),
        direction: Direction,
    ) -> Option<Self> {
        let (kind, id) = message;
        let (request, initiator) = match (protocol, kind) {
            (ICMP, ECHO | TIMESTAMP) | (ICMPV6, ECHO_V6) => (kind, direction),
            (ICMP, ECHO_REPLY) => (ECHO, direction.opposite()),
            (ICMP, TIMESTAMP_REPLY) => (TIMESTAMP, direction.opposite()),
            (ICMPV6, ECHO_V6_REPLY) => (ECHO_V6, direction.opposite()),
            _ => return None,
        };
        Some(Self::new(slot, local, remote, protocol, Selector::Query { request, id, initiator }))
    }

    /// A flow of any other protocol (EC2 tracks those by addresses alone).
    #[inline(always)]
    pub fn addresses_only(slot: PodSlot, local: impl Into<Ip>, remote: impl Into<Ip>, protocol: u8) -> Self {
        Self::new(slot, local, remote, protocol, Selector::Addresses)
    }

    /// The key for `selector`. Ends of unlike families, which no packet has, are both taken as IPv6.
    #[inline(always)]
    pub fn new(
        slot: PodSlot,
        local: impl Into<Ip>,
        remote: impl Into<Ip>,
        protocol: u8,
        selector: Selector,
    ) -> Self {
        let meta = meta(slot, protocol, selector);
        let (local, remote) = (local.into(), remote.into());
        match (local.family, remote.family) {
            (Family::V4, Family::V4) => {
                Self(Repr::V4(KeyV4 { ends: local.words[1] << 32 | remote.words[1], meta }))
            }
            _ => Self(Repr::V6(KeyV6 { local: local.as_v6(), remote: remote.as_v6(), meta })),
        }
    }

    #[inline]
    fn meta(&self) -> u64 {
        match self.0 {
            Repr::V4(key) => key.meta,
            Repr::V6(key) => key.meta,
        }
    }

    /// The pod the flow belongs to.
    #[inline]
    pub fn slot(&self) -> PodSlot {
        slot_of(self.meta())
    }

    /// IPv4 or IPv6.
    #[inline]
    pub fn family(&self) -> Family {
        match self.0 {
            Repr::V4(_) => Family::V4,
            Repr::V6(_) => Family::V6,
        }
    }

    /// The pod's address.
    pub fn local(&self) -> IpAddr {
        match self.0 {
            Repr::V4(key) => Ipv4Addr::from_bits((key.ends >> 32) as u32).into(),
            Repr::V6(key) => Ip::v6(key.local).into(),
        }
    }

    /// The other end's address.
    pub fn remote(&self) -> IpAddr {
        match self.0 {
            Repr::V4(key) => Ipv4Addr::from_bits(key.ends as u32).into(),
            Repr::V6(key) => Ip::v6(key.remote).into(),
        }
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        (self.meta() >> 8) as u8
    }

    /// Ports or identifier.
    pub fn selector(&self) -> Selector {
        let (first, second) = ((self.meta() >> 32) as u16, (self.meta() >> 16) as u16);
        match self.meta() as u8 {
            KIND_ADDRESSES => Selector::Addresses,
            KIND_QUERY_INGRESS => {
                Selector::Query { request: second as u8, id: first, initiator: Direction::Ingress }
            }
            KIND_QUERY_EGRESS => {
                Selector::Query { request: second as u8, id: first, initiator: Direction::Egress }
            }
            _ => Selector::Ports { local: first, remote: second },
        }
    }

    /// The same flow, seen by another slot (a restored flow keeps its ends, not its slot).
    pub fn with_slot(self, slot: PodSlot) -> Self {
        Self::new(slot, self.local(), self.remote(), self.protocol(), self.selector())
    }
}

/// The secret of a table's hash. Whoever does not know it cannot make keys that collide.
#[derive(Clone)]
pub(super) struct Seed([u64; 6]);

impl Seed {
    /// Spreads 128 random bits over the words of the seed (the SplitMix64 sequence).
    pub(super) fn new(random: [u64; 2]) -> Self {
        let mut state = random[0];
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state ^ random[1];
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self(std::array::from_fn(|_| next()))
    }

    /// The hash of `key`: chained 64×64→128 multiplications whose halves are folded together, every factor masked by
    /// a secret word.
    #[inline]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        let seed = &self.0;
        match key.0 {
            Repr::V4(key) => {
                let first = fold(key.ends ^ seed[0], key.meta ^ seed[1]);
                fold(first ^ seed[2], seed[3])
            }
            Repr::V6(key) => {
                let local = fold(key.local[0] ^ seed[0], key.local[1] ^ seed[1]);
                let remote = fold(key.remote[0] ^ seed[2], key.remote[1] ^ seed[3]);
                fold(local ^ key.meta ^ seed[4], remote ^ seed[5])
            }
        }
    }
}

#[inline]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    fn selector() -> impl Strategy<Value = Selector> {
        prop_oneof![
            (any::<u16>(), any::<u16>()).prop_map(|(local, remote)| Selector::Ports { local, remote }),
            (any::<u8>(), any::<u16>(), any::<bool>()).prop_map(|(request, id, out)| Selector::Query {
                request,
                id,
                initiator: if out { Direction::Egress } else { Direction::Ingress }
            }),
            Just(Selector::Addresses),
        ]
    }

    fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<(u32, u32)>()
                .prop_map(|(a, b)| (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into())),
            any::<(u128, u128)>()
                .prop_map(|(a, b)| (Ipv6Addr::from_bits(a).into(), Ipv6Addr::from_bits(b).into())),
        ]
    }

    proptest! {
        #[test]
        fn a_key_gives_back_what_made_it(slot: u16, (local, remote) in ends(), protocol: u8, selector in selector()) {
            let key = FlowKey::new(PodSlot(slot), local, remote, protocol, selector);
            prop_assert_eq!(key.slot(), PodSlot(slot));
            prop_assert_eq!((key.local(), key.remote()), (local, remote));
            prop_assert_eq!(key.protocol(), protocol);
            prop_assert_eq!(key.selector(), selector);
            prop_assert_eq!(key.with_slot(PodSlot(7)).slot(), PodSlot(7));
            prop_assert_eq!(key.with_slot(PodSlot(7)).with_slot(PodSlot(slot)), key);
        }
    }

    #[test]
    fn an_identifier_asked_from_both_ends_makes_two_flows() {
        let (local, remote) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let key = |kind, direction| FlowKey::query(PodSlot(1), local, remote, 1, (kind, 9), direction);
        assert_ne!(key(8, Direction::Egress), key(8, Direction::Ingress));
        assert_eq!(key(8, Direction::Egress), key(0, Direction::Ingress));
        assert_eq!(key(13, Direction::Ingress), key(14, Direction::Egress));
        assert_ne!(key(8, Direction::Egress), key(13, Direction::Egress), "what is asked counts");
        assert_eq!(key(3, Direction::Egress), None);
    }

    #[test]
    fn the_seed_decides_the_hash() {
        let key = FlowKey::addresses_only(PodSlot(0), Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, 47);
        assert_ne!(Seed::new([1, 2]).hash(&key), Seed::new([1, 3]).hash(&key));
        assert_ne!(Seed::new([1, 2]).hash(&key), Seed::new([2, 2]).hash(&key));
    }
}
