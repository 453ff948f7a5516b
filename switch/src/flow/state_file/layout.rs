//! The bytes of a state file: where things lie, and how header, pods and flows are written and read.
//!
//! Little-endian throughout. A file is a header page, 64 bytes for each pod slot, 64 bytes for each IPv4 entry and 128
//! for each IPv6 entry, each with a checksum of its own, so that one torn write costs one flow. A flow's checksum also
//! covers the identity of its pod: a slot that went to another pod does not take the old one's flows along.

use espalier_api::rule::Family;

use crate::flow::changes::REFRESH_MS;
use crate::flow::key::{FlowKey, KeyV4, KeyV6, Repr, fold, slot_of};
use crate::flow::listing::FlowRecord;
use crate::flow::state::{FlowState, Marks};
use crate::flow::time::{self, Now, elapsed};

pub(super) const MAGIC: [u8; 8] = *b"espflows";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 48;
/// Bytes of a pod's record, and of an identity in it.
pub(super) const POD: usize = 64;
pub(super) const IDENTITY: usize = 55;
/// The largest record of a flow.
pub(super) const LARGEST: usize = 128;
const PAGE: u64 = 4096;

/// How many of each a file has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Pod slots.
    pub pods: u16,
    /// IPv4 entries: entry numbers below this.
    pub ipv4: u32,
    /// IPv6 entries: the entry numbers that follow.
    pub ipv6: u32,
}

/// The state of the writer when it last wrote the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// The clock of the flow table.
    pub now: Now,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

impl Layout {
    pub(super) fn pod_at(self, slot: usize) -> u64 {
        PAGE + (slot * POD) as u64
    }

    fn entries_at(self) -> u64 {
        self.pod_at(self.pods.into()).next_multiple_of(PAGE)
    }

    /// Offset and length of an entry's record; nothing for an entry that is not there.
    pub(super) fn entry_at(self, entry: u32) -> Option<(u64, usize)> {
        if entry < self.ipv4 {
            return Some((self.entries_at() + u64::from(entry) * 64, 64));
        }
        let six = entry - self.ipv4;
        let at = self.entries_at() + u64::from(self.ipv4) * 64 + u64::from(six) * 128;
        (six < self.ipv6).then_some((at, 128))
    }

    pub(super) fn file_len(self) -> u64 {
        self.entries_at() + u64::from(self.ipv4) * 64 + u64::from(self.ipv6) * 128
    }
}

/// A checksum of `bytes`, whose length is known: folded multiplications of 8-byte words.
fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    bytes.chunks(8).fold(seed ^ FACTOR, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        fold(sum ^ u64::from_le_bytes(word), FACTOR).rotate_left(23).wrapping_add(FACTOR)
    })
}

/// What a pod's identity adds to the checksums of its flows.
pub(super) fn pod_seed(identity: &str) -> u64 {
    checksum(1, identity.as_bytes())
}

pub(super) fn encode_header(layout: Layout, clock: Clock) -> [u8; HEADER] {
    let mut out = Writer::<HEADER>::new();
    out.put(&MAGIC);
    out.put(&VERSION.to_le_bytes());
    out.put(&layout.ipv4.to_le_bytes());
    out.put(&layout.ipv6.to_le_bytes());
    out.put(&u32::from(layout.pods).to_le_bytes());
    out.put(&clock.now.0.to_le_bytes());
    out.put(&clock.wall_ms.to_le_bytes());
    let sum = checksum(0, &out.bytes[..out.at]);
    out.put(&sum.to_le_bytes());
    out.bytes
}

/// The layout and the clock, if the checksum is right. Magic and version were looked at before.
pub(super) fn decode_header(bytes: &[u8; HEADER]) -> Option<(Layout, Clock)> {
    let mut input = Reader(&bytes[12..]);
    let [ipv4, ipv6, pods] = [input.u32()?, input.u32()?, input.u32()?];
    let clock = Clock { now: Now(input.u64()?), wall_ms: input.u64()? };
    let sum = u64::from_le_bytes(*bytes.last_chunk()?);
    let layout = Layout { pods: u16::try_from(pods).ok()?, ipv4, ipv6 };
    (sum == checksum(0, &bytes[..HEADER - 8])).then_some((layout, clock))
}

pub(super) fn version(bytes: &[u8; HEADER]) -> u32 {
    u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])
}

/// A pod's record; all zero for none. Nothing if the identity is too long.
pub(super) fn encode_pod(identity: Option<&str>) -> Option<[u8; POD]> {
    let mut bytes = [0; POD];
    let Some(identity) = identity else { return Some(bytes) };
    bytes[0] = u8::try_from(identity.len()).ok().filter(|len| usize::from(*len) <= IDENTITY)?;
    bytes[1..1 + identity.len()].copy_from_slice(identity.as_bytes());
    let sum = checksum(2, &bytes[..POD - 8]);
    bytes[POD - 8..].copy_from_slice(&sum.to_le_bytes());
    Some(bytes)
}

/// The identity in a pod's record, if it is whole.
pub(super) fn decode_pod(bytes: &[u8; POD]) -> Option<&str> {
    let sum = u64::from_le_bytes(*bytes.last_chunk()?);
    if sum != checksum(2, &bytes[..POD - 8]) {
        return None;
    }
    let len = usize::from(bytes[0]);
    str::from_utf8(bytes.get(1..1 + len)?).ok()
}

/// A flow's record at the front of 128 bytes, as the table had it at `now`; `pod_seed` of its pod.
pub(super) fn encode_flow(record: &FlowRecord, pod_seed: u64, now: Now) -> [u8; LARGEST] {
    let mut out = Writer::<LARGEST>::new();
    match record.key.0 {
        Repr::V4(key) => [key.ends, key.meta].iter().for_each(|word| out.put(&word.to_le_bytes())),
        Repr::V6(key) => {
            let words = [key.local[0], key.local[1], key.remote[0], key.remote[1], key.meta];
            words.iter().for_each(|word| out.put(&word.to_le_bytes()));
        }
    }
    record.bytes.iter().for_each(|count| out.put(&count.to_le_bytes()));
    record.packets.iter().for_each(|count| out.put(&count.to_le_bytes()[..5]));
    let tick_ago = |ms| now.tick().wrapping_sub(time::from_ms(ms));
    let words = [tick_ago(record.idle_ms), tick_ago(record.age_ms), record.generation, record.rule];
    words.iter().for_each(|word| out.put(&word.to_le_bytes()));
    out.put(&[record.state as u8 + 1, record.marks.bits()]);
    let sum = checksum(pod_seed, &out.bytes[..out.at]) as u32;
    out.put(&sum.to_le_bytes());
    out.bytes
}

/// What a record holds.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded {
    Free,
    Damaged,
    Flow(FlowRecord),
}

/// Reads a record: ages as of `saved`, one refresh younger than written, because a busy flow is not written at each
/// packet. `pod_seed` gives the seed of a slot.
pub(super) fn decode_flow(
    family: Family,
    bytes: &[u8],
    saved: Now,
    pod_seed: impl FnOnce(usize) -> Option<u64>,
) -> Decoded {
    if bytes.iter().all(|byte| *byte == 0) {
        return Decoded::Free;
    }
    read_flow(family, bytes, saved, pod_seed).map_or(Decoded::Damaged, Decoded::Flow)
}

fn read_flow(
    family: Family,
    bytes: &[u8],
    saved: Now,
    pod_seed: impl FnOnce(usize) -> Option<u64>,
) -> Option<FlowRecord> {
    let mut input = Reader(bytes);
    let (key, meta) = read_key(family, &mut input)?;
    let counts = [input.u64()?, input.u64()?];
    let packets = [input.u40()?, input.u40()?];
    let [last_seen, created, generation, rule] = [input.u32()?, input.u32()?, input.u32()?, input.u32()?];
    let [state, marks] = input.array()?;
    let summed = bytes.len() - input.0.len();
    if input.u32()? != checksum(pod_seed(slot_of(meta).index())?, &bytes[..summed]) as u32 {
        return None;
    }
    Some(FlowRecord {
        key,
        state: *FlowState::ALL.get(usize::from(state).checked_sub(1)?)?,
        marks: Marks::from_bits(marks),
        rule,
        generation,
        packets,
        bytes: counts,
        age_ms: time::to_ms(elapsed(saved.tick(), created)),
        idle_ms: time::to_ms(elapsed(saved.tick(), last_seen)).saturating_sub(REFRESH_MS),
    })
}

fn read_key(family: Family, input: &mut Reader<'_>) -> Option<(FlowKey, u64)> {
    let (repr, meta) = match family {
        Family::V4 => {
            let (ends, meta) = (input.u64()?, input.u64()?);
            (Repr::V4(KeyV4 { ends, meta }), meta)
        }
        Family::V6 => {
            let (local, remote) = ([input.u64()?, input.u64()?], [input.u64()?, input.u64()?]);
            let meta = input.u64()?;
            (Repr::V6(KeyV6 { local, remote, meta }), meta)
        }
    };
    Some((FlowKey(repr), meta))
}

/// Fills an array from the front.
struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u40(&mut self) -> Option<u64> {
        let [a, b, c, d, e] = self.array()?;
        Some(u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]))
    }
}
