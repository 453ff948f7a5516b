//! Rates and the pacer that holds a sender to one.
//!
//! The pacer is the same rule as `is_due` in `xsk/bpf/traffic.bpf.c`: frames are due at fixed intervals, and a sender
//! that fell behind catches up on [`SLACK`] at most, so that a pause does not become a burst (the kernel's engine, which
//! bursts faster, on less).

use std::fmt;
use std::str::FromStr;

/// Nanoseconds of delay that are caught up on.
pub const SLACK: u64 = 1_000_000;

/// The binary point of [`Rate::interval`].
pub(crate) const INTERVAL_SHIFT: u32 = 16;

const NS_PER_S: f64 = 1e9;

/// How fast to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// Frames a second.
    Packets(f64),
    /// Bits of frames a second, from the Ethernet header to the last byte of payload.
    Bits(f64),
}

/// Tells how many frames are due.
#[derive(Debug, Clone)]
pub struct Pacer {
    start: u64,
    due: u64,
    interval: u64,
}

impl Rate {
    /// Nanoseconds between two frames in 1/65536, for frames of `mean_bytes` on average; 0 for no limit.
    #[must_use]
    pub fn interval(self, mean_bytes: f64) -> u64 {
        let seconds = match self {
            Self::Max => return 0,
            Self::Packets(pps) => 1.0 / pps,
            Self::Bits(bps) => mean_bytes * 8.0 / bps,
        };
        ((seconds * NS_PER_S * f64::from(1 << INTERVAL_SHIFT)).round() as u64).max(1)
    }
}

impl Pacer {
    /// Begins at `now` with a frame due.
    #[must_use]
    pub fn new(now: u64, interval: u64) -> Self {
        Self { start: now, due: 0, interval }
    }

    /// How many frames to send at `now`, at most `most`; they count as sent.
    pub fn take(&mut self, now: u64, most: usize) -> usize {
        if self.interval == 0 {
            return most;
        }
        let elapsed = now.saturating_sub(self.start) << INTERVAL_SHIFT;
        if elapsed < self.due {
            return 0;
        }
        self.due = self.due.max(elapsed.saturating_sub(SLACK << INTERVAL_SHIFT));
        let due = ((elapsed - self.due) / self.interval + 1).min(most as u64);
        self.due += due * self.interval;
        due as usize
    }

    /// Nanoseconds from `now` until the next frame is due.
    #[must_use]
    pub fn until_due(&self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.start) << INTERVAL_SHIFT;
        self.due.saturating_sub(elapsed) >> INTERVAL_SHIFT
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("max") {
            return Ok(Self::Max);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let usage =
            || format!("{text:?} is no rate: use max, packets such as 200kpps, or bits such as 1.5Gbps");
        let number: f64 = number.parse().map_err(|_| usage())?;
        let unit = unit.to_ascii_lowercase();
        let (scale, unit) = match unit.as_bytes().first() {
            Some(b'k') => (1e3, &unit[1..]),
            Some(b'm') => (1e6, &unit[1..]),
            Some(b'g') => (1e9, &unit[1..]),
            _ => (1.0, unit.as_str()),
        };
        let value = number * scale;
        if !(0.001..=1e12).contains(&value) {
            return Err(format!("{text:?}: a rate is over 0.001 and at most 1e12 a second"));
        }
        match unit {
            "pps" | "" => Ok(Self::Packets(value)),
            "bps" | "bit" => Ok(Self::Bits(value)),
            _ => Err(usage()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Packets(pps) => write!(f, "{}pps", scaled(*pps)),
            Self::Bits(bps) => write!(f, "{}bps", scaled(*bps)),
        }
    }
}

/// A number with the unit prefix people read: `1.25M`.
#[must_use]
pub fn scaled(value: f64) -> String {
    let (number, prefix) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let text = format!("{number:.3}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_units() {
        for (text, rate) in [
            ("max", Rate::Max),
            ("MAX", Rate::Max),
            ("1000", Rate::Packets(1e3)),
            ("200kpps", Rate::Packets(2e5)),
            ("1.5Mpps", Rate::Packets(1.5e6)),
            ("10Gbps", Rate::Bits(1e10)),
            ("300Mbit", Rate::Bits(3e8)),
        ] {
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
        for text in ["", "fast", "0", "-1", "10kb", "1.2.3", "1e3pps", "k"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(Rate::Packets(1.25e6).to_string(), "1.25Mpps");
        assert_eq!(Rate::Bits(500.0).to_string(), "500bps");
    }

    #[test]
    fn intervals_follow_the_unit() {
        assert_eq!(Rate::Packets(1e6).interval(60.0), 1000 << INTERVAL_SHIFT);
        assert_eq!(Rate::Bits(8e9).interval(1000.0), 1000 << INTERVAL_SHIFT);
        assert_eq!(Rate::Max.interval(60.0), 0);
    }

    #[test]
    fn the_pacer_keeps_the_rate_and_forgives_long_pauses() {
        let mut pacer = Pacer::new(500, Rate::Packets(1e6).interval(60.0));
        assert_eq!(pacer.take(500, 64), 1);
        assert_eq!((pacer.take(1499, 64), pacer.until_due(1499)), (0, 1));
        assert_eq!(pacer.take(1500, 64), 1);
        assert_eq!(pacer.take(11_500, 64), 10);
        // A second's pause: only the last millisecond is caught up on.
        let after = 1_000_011_500;
        let mut caught_up = 0;
        while let n @ 1.. = pacer.take(after, 64) {
            caught_up += n;
        }
        assert_eq!(caught_up, 1001);
        // Over any stretch without pauses the count is exact.
        let sent: usize = (1..=1000).map(|step| pacer.take(after + step * 700, 64)).sum();
        assert_eq!(sent, 700);
        assert_eq!(Pacer::new(0, 0).take(0, 64), 64);
    }
}
