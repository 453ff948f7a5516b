//! CLOCK_MONOTONIC in nanoseconds: the one clock the kernel's program (`bpf_ktime_get_ns`), the sender and the
//! receiver share on a machine, whatever their network namespaces.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started, suspended time not counted.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
