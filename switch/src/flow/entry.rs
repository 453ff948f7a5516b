//! The entries of the table: 64 bytes for an IPv4 flow, 128 for an IPv6 one, in two pools under one numbering.
//!
//! Only the table calls this. Entry numbers below the IPv4 capacity are IPv4, the rest IPv6. Holds no policy.

use espalier_api::rule::{Direction, Family};

use espalier_xsk::prefetch;

use super::key::{FlowKey, KeyV4, KeyV6, NO_KEY, PodSlot, Repr, slot_of};
use super::memory::filled;
use super::state::{FlowState, Marks};

/// What is remembered of a flow, whatever its family.
#[derive(Debug, Clone)]
#[repr(C)]
pub(super) struct Track {
    /// Bytes, by `Direction as usize`.
    bytes: [u64; 2],
    /// The lower 32 bits of the packet counts.
    packets: [u32; 2],
    pub(super) last_seen: u32,
    pub(super) created: u32,
    pub(super) generation: u32,
    pub(super) rule: u32,
    /// The place for address translation: the number of a translation, 0 for none. Nothing sets it yet.
    _translation: u32,
    /// Nothing for a free entry.
    pub(super) state: Option<FlowState>,
    pub(super) marks: Marks,
    /// Bits 32 to 39 of the packet counts.
    packets_high: [u8; 2],
}

#[derive(Debug, Clone)]
#[repr(C, align(64))]
struct EntryV4 {
    key: KeyV4,
    track: Track,
}

#[derive(Debug, Clone)]
#[repr(C, align(64))]
struct EntryV6 {
    key: KeyV6,
    track: Track,
}

const _: () = assert!(size_of::<EntryV4>() == 64 && size_of::<EntryV6>() == 128);

impl Track {
    const FREE: Self = Self {
        bytes: [0; 2],
        packets: [0; 2],
        last_seen: 0,
        created: 0,
        generation: 0,
        rule: 0,
        _translation: 0,
        state: None,
        marks: Marks::NONE,
        packets_high: [0; 2],
    };

    /// A flow without a packet yet.
    pub(super) fn new(state: FlowState, marks: Marks, rule: u32, generation: u32, tick: u32) -> Self {
        Self { state: Some(state), marks, rule, generation, last_seen: tick, created: tick, ..Self::FREE }
    }

    /// Adds one packet.
    #[inline]
    pub(super) fn count(&mut self, direction: Direction, bytes: u32) {
        let side = direction as usize;
        self.bytes[side] = self.bytes[side].wrapping_add(bytes.into());
        let (packets, carry) = self.packets[side].overflowing_add(1);
        self.packets[side] = packets;
        if carry {
            self.packets_high[side] = self.packets_high[side].wrapping_add(1);
        }
    }

    /// Packets by `Direction as usize`.
    pub(super) fn packets(&self) -> [u64; 2] {
        [Direction::Ingress, Direction::Egress].map(|direction| self.packets_of(direction))
    }

    /// Packets of one direction.
    #[inline(always)]
    pub(super) fn packets_of(&self, direction: Direction) -> u64 {
        let side = direction as usize;
        u64::from(self.packets_high[side]) << 32 | u64::from(self.packets[side])
    }

    /// Bytes by `Direction as usize`.
    pub(super) fn bytes(&self) -> [u64; 2] {
        self.bytes
    }

    /// Takes over counts from an earlier life.
    pub(super) fn set_counts(&mut self, packets: [u64; 2], bytes: [u64; 2]) {
        self.bytes = bytes;
        self.packets = packets.map(|count| count as u32);
        self.packets_high = packets.map(|count| (count >> 32) as u8);
    }
}

impl EntryV4 {
    const FREE: Self = Self { key: KeyV4 { ends: 0, meta: NO_KEY }, track: Track::FREE };
}

impl EntryV6 {
    const FREE: Self =
        Self { key: KeyV6 { local: [0; 2], remote: [0; 2], meta: NO_KEY }, track: Track::FREE };
}

/// Both pools.
pub(super) struct Entries {
    v4: Vec<EntryV4>,
    v6: Vec<EntryV6>,
}

impl Entries {
    /// Bytes for that many entries.
    pub(super) fn bytes([v4, v6]: [u32; 2]) -> usize {
        v4 as usize * size_of::<EntryV4>() + v6 as usize * size_of::<EntryV6>()
    }

    /// Free entries, or nothing if the memory is refused.
    pub(super) fn new([v4, v6]: [u32; 2]) -> Option<Self> {
        Some(Self { v4: filled(v4 as usize, EntryV4::FREE)?, v6: filled(v6 as usize, EntryV6::FREE)? })
    }

    /// How many there are, free or not.
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(super) fn family(&self, entry: u32) -> Family {
        if (entry as usize) < self.v4.len() { Family::V4 } else { Family::V6 }
    }

    /// Whether `entry` is the flow `key`.
    #[inline]
    pub(super) fn is(&self, entry: u32, key: &FlowKey) -> bool {
        let entry = entry as usize;
        match key.0 {
            Repr::V4(key) => self.v4.get(entry).is_some_and(|held| held.key == key),
            Repr::V6(key) => {
                self.v6.get(entry.wrapping_sub(self.v4.len())).is_some_and(|held| held.key == key)
            }
        }
    }

    /// Has `entry` on its way, if there is such an entry.
    #[inline]
    pub(super) fn prefetch(&self, entry: u32) {
        let entry = entry as usize;
        if let Some(held) = self.v4.get(entry) {
            prefetch(held);
        } else if let Some(held) = self.v6.get(entry - self.v4.len()) {
            prefetch(&held.key);
            prefetch(&held.track.last_seen);
        }
    }

    pub(super) fn key(&self, entry: u32) -> FlowKey {
        let entry = entry as usize;
        FlowKey(match self.v4.get(entry) {
            Some(held) => Repr::V4(held.key),
            None => Repr::V6(self.v6[entry - self.v4.len()].key),
        })
    }

    #[inline]
    pub(super) fn track(&self, entry: u32) -> &Track {
        let entry = entry as usize;
        match self.v4.get(entry) {
            Some(held) => &held.track,
            None => &self.v6[entry - self.v4.len()].track,
        }
    }

    /// What is remembered of `entry`, if it is the flow `key`.
    #[inline(always)]
    pub(super) fn track_of(&mut self, entry: u32, key: &FlowKey) -> Option<&mut Track> {
        let entry = entry as usize;
        match key.0 {
            Repr::V4(key) => {
                let held = self.v4.get_mut(entry)?;
                (held.key == key).then_some(&mut held.track)
            }
            Repr::V6(key) => {
                let held = self.v6.get_mut(entry.wrapping_sub(self.v4.len()))?;
                (held.key == key).then_some(&mut held.track)
            }
        }
    }

    /// The pod, the protocol and the state of `entry`.
    #[inline]
    pub(super) fn track_mut(&mut self, entry: u32) -> (PodSlot, u8, &mut Track) {
        let entry = entry as usize;
        let split = self.v4.len();
        let (meta, track) = match self.v4.get_mut(entry) {
            Some(held) => (held.key.meta, &mut held.track),
            None => {
                let held = &mut self.v6[entry - split];
                (held.key.meta, &mut held.track)
            }
        };
        (slot_of(meta), (meta >> 8) as u8, track)
    }

    /// Writes `entry`, which belongs to the pool of the key's family.
    pub(super) fn put(&mut self, entry: u32, key: &FlowKey, track: Track) {
        let entry = entry as usize;
        match key.0 {
            Repr::V4(key) => self.v4[entry] = EntryV4 { key, track },
            Repr::V6(key) => {
                let split = self.v4.len();
                self.v6[entry - split] = EntryV6 { key, track };
            }
        }
    }

    /// Frees `entry`: it is no flow, and no key is its own.
    pub(super) fn clear(&mut self, entry: u32) {
        let entry = entry as usize;
        let split = self.v4.len();
        match self.v4.get_mut(entry) {
            Some(held) => *held = EntryV4::FREE,
            None => self.v6[entry - split] = EntryV6::FREE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_counts_go_past_32_bits() {
        let marks = Marks::new(Direction::Egress, false, false);
        let mut track = Track::new(FlowState::Udp, marks, 0, 0, 0);
        track.set_counts([u64::from(u32::MAX), 5], [10, 20]);
        track.count(Direction::Ingress, 100);
        track.count(Direction::Egress, 1);
        assert_eq!(track.packets(), [1 << 32, 6]);
        assert_eq!(track.bytes(), [110, 21]);
    }
}
