//! Time in the flow table: milliseconds for callers, 64 ms ticks in entries.
//!
//! A tick fits 32 bits for 8.7 years. A timeout of n seconds never cuts a flow early and at most two ticks late.

/// Milliseconds of a coarse monotonic clock, counted from any fixed moment (boot, say); the same for every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(pub u64);

const SHIFT: u32 = 6;

impl Now {
    /// The tick this moment falls in.
    #[inline]
    pub(super) fn tick(self) -> u32 {
        (self.0 >> SHIFT) as u32
    }
}

/// `ticks` in milliseconds.
pub(super) fn to_ms(ticks: u32) -> u64 {
    u64::from(ticks) << SHIFT
}

/// `ms` in whole ticks; at most half the range, beyond which nothing is older.
pub(super) fn from_ms(ms: u64) -> u32 {
    (ms >> SHIFT).min(u64::from(u32::MAX / 2)) as u32
}

/// `seconds` in ticks, rounded up.
pub(super) fn ticks(seconds: u32) -> u32 {
    ((u64::from(seconds) * 1000).div_ceil(1 << SHIFT)) as u32
}

/// Ticks from `then` to `now`; 0 if `then` is later (another worker's clock read may be a little older).
#[inline]
pub(super) fn elapsed(now: u32, then: u32) -> u32 {
    let ticks = now.wrapping_sub(then);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_given_back_to_the_tick() {
        assert_eq!(Now(1000).tick(), 15);
        assert_eq!((to_ms(15), from_ms(960), from_ms(1000)), (960, 15, 15));
        assert_eq!(from_ms(u64::MAX), u32::MAX / 2);
        assert_eq!(ticks(30), 469);
        assert_eq!((elapsed(5, 3), elapsed(3, 5), elapsed(1, u32::MAX)), (2, 0, 2));
    }
}
