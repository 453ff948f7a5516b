//! The stamp: 18 bytes of payload that tell which run, flow and turn a frame is of and when it was sent.
//!
//! Written by the AF_XDP engine here and by the kernel program (`xsk/bpf/traffic.bpf.c`) in the same layout, read by
//! the receiver. The one's complement sum of a stamp is always zero, so the checksums around it need no change.

/// Bytes of a stamp: mark 3, flow 3, sequence number 5, time 5, balance 2; network byte order.
pub const STAMP_LEN: usize = 18;

/// Flows a stamp can tell apart, and the receiver has room for.
pub const MAX_FLOWS: u32 = 1 << 20;

/// The first two bytes of every stamp.
const MAGIC: u16 = 0xe59a;

const FORTY_BITS: u64 = (1 << 40) - 1;

/// One run of a sender. Frames of an earlier run that come late are told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run(pub u8);

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run.
    pub run: Run,
    /// The flow, below [`MAX_FLOWS`].
    pub flow: u32,
    /// The frame's number in its run, 40 bits.
    pub sequence: u64,
    /// CLOCK_MONOTONIC in nanoseconds when the frame was made, its low 40 bits.
    pub time: u64,
}

/// What the payload of a frame turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A stamp.
    Stamp(Stamp),
    /// A stamp whose bytes were changed on the way.
    Corrupt,
    /// Not a frame of this generator.
    Foreign,
}

impl Run {
    /// The next one, for the next trial.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// What its stamps begin with, as a 24-bit number.
    #[must_use]
    pub fn mark(self) -> u32 {
        u32::from(MAGIC) << 8 | u32::from(self.0)
    }
}

impl Stamp {
    /// The stamp's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; STAMP_LEN] {
        let first = u64::from(self.run.mark()) << 40
            | u64::from(self.flow & 0x00ff_ffff) << 16
            | (self.sequence & FORTY_BITS) >> 24;
        let second = self.sequence << 40 | self.time & FORTY_BITS;
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&first.to_be_bytes());
        bytes[8..16].copy_from_slice(&second.to_be_bytes());
        bytes[16..].copy_from_slice(&(!word_sum(first, second)).to_be_bytes());
        bytes
    }

    /// Nanoseconds from the stamp to `now`, both CLOCK_MONOTONIC of one machine; right below 9 minutes. The clocks of
    /// two cores may differ by a little: a stamp from the future is 0 old.
    #[must_use]
    pub fn age(&self, now: u64) -> u64 {
        let age = now.wrapping_sub(self.time) & FORTY_BITS;
        if age > FORTY_BITS / 2 { 0 } else { age }
    }
}

impl Reading {
    /// Reads the beginning of a payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let Some(bytes) = payload.first_chunk::<STAMP_LEN>() else { return Self::Foreign };
        let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|n| bytes[at + n]));
        let (first, second) = (word(0), word(8));
        if (first >> 48) as u16 != MAGIC {
            return Self::Foreign;
        }
        let balance = u16::from_be_bytes([bytes[16], bytes[17]]);
        let flow = (first >> 16 & 0x00ff_ffff) as u32;
        if balance != !word_sum(first, second) || flow >= MAX_FLOWS {
            return Self::Corrupt;
        }
        Self::Stamp(Stamp {
            run: Run((first >> 40) as u8),
            flow,
            sequence: (first & 0xffff) << 24 | second >> 40,
            time: second & FORTY_BITS,
        })
    }
}

/// The one's complement sum of the sixteen bytes, folded to 16 bits (RFC 1071).
fn word_sum(first: u64, second: u64) -> u16 {
    let words = [first, second].into_iter().flat_map(|v| [v >> 48, v >> 32, v >> 16, v]);
    let sum: u64 = words.map(|word| word & 0xffff).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stamp_reads_as_it_was_written_and_sums_to_zero(
            run: u8, flow in 0..MAX_FLOWS, sequence in 0..=FORTY_BITS, time in 0..=FORTY_BITS
        ) {
            let stamp = Stamp { run: Run(run), flow, sequence, time };
            let bytes = stamp.to_bytes();
            prop_assert_eq!(Reading::of(&bytes), Reading::Stamp(stamp));
            let sum: u32 = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            prop_assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 2..STAMP_LEN, change in 1..=255_u8) {
            let mut bytes = Stamp { run: Run(3), flow: 7, sequence: 1 << 30, time: 12345 }.to_bytes();
            bytes[at] ^= change;
            prop_assert_eq!(Reading::of(&bytes), Reading::Corrupt);
        }
    }

    #[test]
    fn ages_hold_over_the_wrap_of_the_time() {
        let stamp = Stamp { run: Run(0), flow: 0, sequence: 0, time: FORTY_BITS - 10 };
        assert_eq!(stamp.age(FORTY_BITS + 1 + 20), 31);
        assert_eq!(stamp.age(FORTY_BITS - 11), 0);
        assert_eq!(Reading::of(&[0; 64]), Reading::Foreign);
        assert_eq!(Reading::of(&[0xe5, 0x9a]), Reading::Foreign);
    }
}
