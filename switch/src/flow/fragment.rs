//! Fragments: the first decides, later ones inherit, what comes before the first is held for a moment.
//!
//! EC2 says nothing about fragments (its NAT gateway forwards those of UDP only), so all of this is ours. The step calls
//! `first` and `decide` for a fragment with offset 0, `later` for any other, and `expire` once a loop. Nothing is
//! reassembled. `T` is what is held, an owned frame say: each one handed in comes back exactly once. Memory is fixed.

mod ranges;

use std::collections::HashMap;
use std::net::IpAddr;

use espalier_api::protocol::{ICMP, ICMPV6, TCP, UDP};
use espalier_api::rule::Direction;

use super::key::PodSlot;
use super::queue::{Fifo, Links};
use super::time::Now;
use ranges::{Added, Ranges};

/// The largest payload offset plus length that any receiver can put together (RFC 791, RFC 8200).
const MOST_BYTES: u32 = 65_535;

/// What fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    slot: PodSlot,
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

impl FragmentKey {
    /// The key of a fragment. IPv6 tells packets apart by addresses and identification alone (RFC 8200 section 4.5),
    /// IPv4 by the protocol too (RFC 791).
    pub fn new(
        slot: PodSlot,
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        id: u32,
    ) -> Self {
        let protocol = if source.is_ipv4() { protocol } else { 0 };
        Self { slot, direction, source, destination, protocol, id }
    }
}

/// Where a fragment lies in its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub offset: u16,
    /// Bytes behind the IP header (IPv6: behind the fragment header).
    pub len: u32,
    /// Whether it is not the last.
    pub more: bool,
}

impl Part {
    /// Whether this is all of the packet: an "atomic fragment", which is to be treated as no fragment (RFC 6946).
    pub fn is_whole(&self) -> bool {
        self.offset == 0 && !self.more
    }

    fn check(&self) -> Result<(), FragmentDrop> {
        let uneven = self.more && !self.len.is_multiple_of(8);
        if self.len == 0 || uneven || u32::from(self.offset) + self.len > MOST_BYTES {
            return Err(FragmentDrop::Malformed);
        }
        Ok(())
    }
}

/// Why a fragment is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FragmentDrop {
    /// Its first fragment did not come in time.
    Orphan,
    /// Empty, longer than a packet can be, or of a length that is not a multiple of 8 although more follow.
    Malformed,
    /// A first fragment without the whole upper-layer header, the way to hide ports from a filter (RFC 1858).
    Tiny,
    /// It overlaps another in part, or contradicts the length; all of the packet is dropped (RFC 5722).
    Overlap,
    /// All its bytes were seen before.
    Duplicate,
    /// The packet has too many gaps.
    Scattered,
    /// The pod has its number of fragments held.
    HeldLimit,
    /// No room for another fragmented packet.
    PacketLimit,
    /// Given up for a newer packet of the same pod.
    Evicted,
    /// Its pod was removed.
    PodRemoved,
}

/// What to do with a later fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Later<T, V> {
    /// The first fragment's verdict holds for it too.
    Inherit(V, T),
    /// It is kept until the first fragment is decided, or until its time is over.
    Held,
    /// Drop it.
    Drop(FragmentDrop, T),
}

/// Sizes and times of a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentConfig {
    /// Slots for pods.
    pub pods: u16,
    /// Fragmented packets under way, of all pods; at least 1.
    pub packets: u32,
    /// Fragmented packets under way of one pod; at the cap, its oldest is given up.
    pub packets_per_pod: u32,
    /// Fragments held, of all pods.
    pub held: u32,
    /// Fragments held of one pod.
    pub held_per_pod: u32,
    /// How long fragments wait for their first, in milliseconds.
    pub hold_ms: u64,
    /// How long a verdict waits for later fragments, in milliseconds.
    pub keep_ms: u64,
}

impl FragmentConfig {
    /// The defaults for that many pods: 64 packets and 16 held fragments a pod, 500 ms and 30 s.
    pub fn for_pods(pods: u16) -> Self {
        let most = u32::from(pods.max(1));
        Self {
            pods,
            packets: (most * 64).min(4096),
            packets_per_pod: 64,
            held: (most * 16).min(1024),
            held_per_pod: 16,
            hold_ms: 500,
            keep_ms: 30_000,
        }
    }
}

/// One fragmented packet under way.
struct Packet<V> {
    key: FragmentKey,
    ranges: Ranges,
    since: Now,
    verdict: Option<V>,
    /// An overlap was seen: whatever else comes is dropped.
    spoilt: bool,
    /// Its held fragments, oldest first.
    held: Fifo,
}

/// A fragmented packet between two trackers.
pub struct PacketUnderWay<T, V> {
    key: FragmentKey,
    ranges: Ranges,
    since: Now,
    verdict: Option<V>,
    spoilt: bool,
    held: Vec<T>,
}

#[derive(Clone)]
struct PodShare {
    packets: Fifo,
    held: u32,
}

/// The fragmented packets of one worker's pods.
pub struct Fragments<T, V> {
    config: FragmentConfig,
    by_key: HashMap<FragmentKey, u32>,
    packets: Vec<Option<Packet<V>>>,
    free_packets: Vec<u32>,
    /// Order within a pod.
    pod_links: Links,
    pods: Vec<PodShare>,
    /// Order within `waiting` or `decided`, which is the order of their ends.
    age_links: Links,
    waiting: Fifo,
    decided: Fifo,
    held: Vec<Option<T>>,
    held_links: Links,
    free_held: Vec<u32>,
}

impl<T, V: Copy> Fragments<T, V> {
    /// An empty tracker; nothing if the memory is refused.
    pub fn new(config: FragmentConfig) -> Option<Self> {
        let (packets, held) = (config.packets.max(1) as usize, config.held as usize);
        Some(Self {
            config,
            // Twice the room, so that the map never grows for the traces that removals leave.
            by_key: HashMap::with_capacity(packets * 2),
            packets: (0..packets).map(|_| None).collect(),
            free_packets: (0..packets as u32).rev().collect(),
            pod_links: Links::new(packets)?,
            pods: vec![PodShare { packets: Fifo::EMPTY, held: 0 }; config.pods.into()],
            age_links: Links::new(packets)?,
            waiting: Fifo::EMPTY,
            decided: Fifo::EMPTY,
            held: (0..held).map(|_| None).collect(),
            held_links: Links::new(held)?,
            free_held: (0..held as u32).rev().collect(),
        })
    }

    /// Notes a first fragment, before it is judged; `protocol` is the upper layer's. On `Ok` judge it, then call
    /// [`Self::decide`]. `dropped` gets held fragments that its coming dooms.
    pub fn first(
        &mut self,
        key: &FragmentKey,
        protocol: u8,
        part: &Part,
        now: Now,
        dropped: &mut impl FnMut(FragmentDrop, T),
    ) -> Result<(), FragmentDrop> {
        part.check()?;
        if part.len < least_first(protocol) {
            return Err(FragmentDrop::Tiny);
        }
        let packet = self.open(key, now, dropped)?;
        self.note(packet, part, dropped).map(|_| ())
    }

    /// Gives the first fragment's verdict to the packet. `release` gets the held fragments, in the order they came.
    pub fn decide(&mut self, key: &FragmentKey, verdict: V, now: Now, mut release: impl FnMut(T)) {
        let Some(&number) = self.by_key.get(key) else { return };
        let Some(packet) = &mut self.packets[number as usize] else { return };
        if packet.verdict.replace(verdict).is_none() {
            self.age_links.unlink(&mut self.waiting, number);
            self.age_links.push(&mut self.decided, number, 0);
            packet.since = now;
        }
        let complete = packet.ranges.is_complete();
        self.give_up_held(number, &mut |item| release(item));
        if complete {
            self.close(number, &mut |_| {});
        }
    }

    /// What to do with a fragment that is not the first. `dropped` gets held fragments that its coming dooms.
    pub fn later(
        &mut self,
        key: &FragmentKey,
        part: &Part,
        now: Now,
        item: T,
        dropped: &mut impl FnMut(FragmentDrop, T),
    ) -> Later<T, V> {
        if let Err(reason) = part.check() {
            return Later::Drop(reason, item);
        }
        let number = match self.by_key.get(key) {
            Some(&number) => number,
            // Without a place to hold it there is no use in a new packet.
            None if self.room_to_hold(key).is_err() => return Later::Drop(FragmentDrop::HeldLimit, item),
            None => match self.open(key, now, dropped) {
                Ok(number) => number,
                Err(reason) => return Later::Drop(reason, item),
            },
        };
        let verdict = self.packets[number as usize].as_ref().and_then(|packet| packet.verdict);
        if verdict.is_none()
            && let Err(reason) = self.room_to_hold(key)
        {
            return Later::Drop(reason, item);
        }
        match (self.note(number, part, dropped), verdict) {
            (Err(reason), _) => Later::Drop(reason, item),
            (Ok(added), Some(verdict)) => {
                if added == Added::Complete {
                    self.close(number, &mut |_| {});
                }
                Later::Inherit(verdict, item)
            }
            (Ok(_), None) => {
                self.hold(number, item);
                Later::Held
            }
        }
    }

    /// Forgets what has waited for too long, at most `budget` packets. `dropped` gets the fragments held for them.
    pub fn expire(&mut self, now: Now, budget: usize, mut dropped: impl FnMut(FragmentDrop, T)) {
        for _ in 0..budget {
            let over = |number: &u32, most: u64| {
                let since = self.packets[*number as usize].as_ref().map_or(Now(0), |packet| packet.since);
                now.0.saturating_sub(since.0) > most
            };
            let waiting = self.waiting.head().filter(|number| over(number, self.config.hold_ms));
            let decided = self.decided.head().filter(|number| over(number, self.config.keep_ms));
            let Some(number) = waiting.or(decided) else { return };
            self.close(number, &mut |item| dropped(FragmentDrop::Orphan, item));
        }
    }

    /// Forgets all packets of a pod. `dropped` gets the fragments held for them.
    pub fn remove_pod(&mut self, slot: PodSlot, mut dropped: impl FnMut(FragmentDrop, T)) {
        while let Some(number) = self.pods.get(slot.index()).and_then(|pod| pod.packets.head()) {
            self.close(number, &mut |item| dropped(FragmentDrop::PodRemoved, item));
        }
    }

    /// Takes all packets of a pod out, for another tracker.
    pub fn take_pod(&mut self, slot: PodSlot) -> Vec<PacketUnderWay<T, V>> {
        let mut taken = Vec::new();
        while let Some(number) = self.pods.get(slot.index()).and_then(|pod| pod.packets.head()) {
            let Some(packet) = &self.packets[number as usize] else { break };
            let Packet { key, ranges, since, verdict, spoilt, .. } = packet;
            let mut whole = PacketUnderWay {
                key: *key,
                ranges: *ranges,
                since: *since,
                verdict: *verdict,
                spoilt: *spoilt,
                held: Vec::new(),
            };
            self.close(number, &mut |item| whole.held.push(item));
            taken.push(whole);
        }
        taken
    }

    /// Takes a packet of another tracker in. `dropped` gets the fragments there is no room for.
    pub fn put(&mut self, packet: PacketUnderWay<T, V>, mut dropped: impl FnMut(FragmentDrop, T)) {
        let PacketUnderWay { key, ranges, since, verdict, spoilt, held } = packet;
        let number = match self.open(&key, since, &mut dropped) {
            Ok(number) => number,
            Err(reason) => return held.into_iter().for_each(|item| dropped(reason, item)),
        };
        if let Some(packet) = &mut self.packets[number as usize] {
            packet.ranges = ranges;
            packet.spoilt = spoilt;
        }
        for item in held {
            match self.room_to_hold(&key) {
                Ok(()) => self.hold(number, item),
                Err(reason) => dropped(reason, item),
            }
        }
        if let Some(verdict) = verdict {
            self.decide(&key, verdict, since, |_| {});
        }
    }

    /// Fragmented packets under way.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Fragments held.
    pub fn held(&self) -> usize {
        self.held.len() - self.free_held.len()
    }

    /// The packet under `key`, a new one if need be; the pod's oldest goes when it has its number.
    fn open(
        &mut self,
        key: &FragmentKey,
        now: Now,
        dropped: &mut impl FnMut(FragmentDrop, T),
    ) -> Result<u32, FragmentDrop> {
        if let Some(&number) = self.by_key.get(key) {
            return Ok(number);
        }
        let pod = self.pods.get(key.slot.index()).ok_or(FragmentDrop::PacketLimit)?;
        if pod.packets.len() >= self.config.packets_per_pod || self.free_packets.is_empty() {
            let oldest = pod.packets.head().ok_or(FragmentDrop::PacketLimit)?;
            self.close(oldest, &mut |item| dropped(FragmentDrop::Evicted, item));
        }
        let number = self.free_packets.pop().ok_or(FragmentDrop::PacketLimit)?;
        self.packets[number as usize] = Some(Packet {
            key: *key,
            ranges: Ranges::EMPTY,
            since: now,
            verdict: None,
            spoilt: false,
            held: Fifo::EMPTY,
        });
        self.by_key.insert(*key, number);
        self.pod_links.push(&mut self.pods[key.slot.index()].packets, number, 0);
        self.age_links.push(&mut self.waiting, number, 0);
        Ok(number)
    }

    /// Adds a part to the seen bytes. An overlap spoils the packet: what is held and what is to come is dropped.
    fn note(
        &mut self,
        number: u32,
        part: &Part,
        dropped: &mut impl FnMut(FragmentDrop, T),
    ) -> Result<Added, FragmentDrop> {
        let Some(packet) = &mut self.packets[number as usize] else { return Err(FragmentDrop::Orphan) };
        if packet.spoilt {
            return Err(FragmentDrop::Overlap);
        }
        let added = packet.ranges.add(part);
        if added == Err(FragmentDrop::Overlap) {
            packet.spoilt = true;
            self.give_up_held(number, &mut |item| dropped(FragmentDrop::Overlap, item));
        }
        added
    }

    fn room_to_hold(&self, key: &FragmentKey) -> Result<(), FragmentDrop> {
        let held = self.pods.get(key.slot.index()).map_or(u32::MAX, |pod| pod.held);
        if held >= self.config.held_per_pod || self.free_held.is_empty() {
            return Err(FragmentDrop::HeldLimit);
        }
        Ok(())
    }

    /// Holds an item; `room_to_hold` was asked.
    fn hold(&mut self, number: u32, item: T) {
        let (Some(packet), Some(place)) = (&mut self.packets[number as usize], self.free_held.pop()) else {
            return;
        };
        self.held[place as usize] = Some(item);
        self.held_links.push(&mut packet.held, place, 0);
        self.pods[packet.key.slot.index()].held += 1;
    }

    fn give_up_held(&mut self, number: u32, give: &mut impl FnMut(T)) {
        let Some(packet) = &mut self.packets[number as usize] else { return };
        while let Some(place) = packet.held.head() {
            self.held_links.unlink(&mut packet.held, place);
            self.pods[packet.key.slot.index()].held -= 1;
            self.free_held.push(place);
            if let Some(item) = self.held[place as usize].take() {
                give(item);
            }
        }
    }

    fn close(&mut self, number: u32, give: &mut impl FnMut(T)) {
        self.give_up_held(number, give);
        let Some(packet) = self.packets[number as usize].take() else { return };
        self.by_key.remove(&packet.key);
        self.pod_links.unlink(&mut self.pods[packet.key.slot.index()].packets, number);
        let queue = if packet.verdict.is_some() { &mut self.decided } else { &mut self.waiting };
        self.age_links.unlink(queue, number);
        self.free_packets.push(number);
    }
}

/// The bytes of the upper layer that a verdict and the flow's state need.
fn least_first(protocol: u8) -> u32 {
    match protocol {
        TCP => 20,
        UDP | ICMP | ICMPV6 => 8,
        _ => 1,
    }
}
