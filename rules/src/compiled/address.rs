//! IPv4 and IPv6 addresses as integers, so that hash and trie are written once for both families.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;

/// `u32` (IPv4) or `u128` (IPv6), most significant bit first on the wire.
pub(crate) trait Address: Copy + Ord + Eq + Hash + Default + Debug + Send + Sync + 'static {
    /// Bits of an address.
    const BITS: u8;

    /// The address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// The top 16 bits.
    fn top16(self) -> u32;

    /// Octet `at`, counted from the left.
    fn octet(self, at: u8) -> u8;

    /// The `count` octets (at most 8) from octet `at`, as a number.
    fn octets(self, at: u8, count: u8) -> u64;

    /// The address with all bits behind the first `len` cleared.
    fn truncated(self, len: u8) -> Self;

    /// The address with all bits behind the first `len` set.
    fn extended(self, len: u8) -> Self;

    /// A well-mixed 64-bit hash.
    fn hash64(self) -> u64;
}

/// Folds a 128-bit product: every input bit reaches every output bit.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Odd constants with evenly spread bits (fractional digits of π).
const MIX_A: u64 = 0x243f_6a88_85a3_08d3;
const MIX_B: u64 = 0x1319_8a2e_0370_7345;

impl Address for u32 {
    const BITS: u8 = 32;

    #[inline]
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn top16(self) -> u32 {
        self >> 16
    }

    #[inline]
    fn octet(self, at: u8) -> u8 {
        (self >> (24 - 8 * u32::from(at))) as u8
    }

    #[inline]
    fn octets(self, at: u8, count: u8) -> u64 {
        u64::from(self << (8 * u32::from(at))) >> (32 - 8 * u32::from(count))
    }

    fn truncated(self, len: u8) -> Self {
        self & !mask32(len)
    }

    fn extended(self, len: u8) -> Self {
        self | mask32(len)
    }

    #[inline]
    fn hash64(self) -> u64 {
        fold(u64::from(self) ^ MIX_A, MIX_B)
    }
}

impl Address for u128 {
    const BITS: u8 = 128;

    #[inline]
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address.into()),
            IpAddr::V4(_) => None,
        }
    }

    #[inline]
    fn top16(self) -> u32 {
        (self >> 112) as u32
    }

    #[inline]
    fn octet(self, at: u8) -> u8 {
        (self >> (120 - 8 * u32::from(at))) as u8
    }

    #[inline]
    fn octets(self, at: u8, count: u8) -> u64 {
        ((self << (8 * u32::from(at))) >> (128 - 8 * u32::from(count))) as u64
    }

    fn truncated(self, len: u8) -> Self {
        self & !mask128(len)
    }

    fn extended(self, len: u8) -> Self {
        self | mask128(len)
    }

    #[inline]
    fn hash64(self) -> u64 {
        fold(fold(self as u64 ^ MIX_A, MIX_B) ^ (self >> 64) as u64, MIX_B)
    }
}

/// The host bits of a prefix of this length.
fn mask32(len: u8) -> u32 {
    u32::MAX.checked_shr(len.into()).unwrap_or(0)
}

fn mask128(len: u8) -> u128 {
    u128::MAX.checked_shr(len.into()).unwrap_or(0)
}

/// A prefix of either family as integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    V4(u32, u8),
    V6(u128, u8),
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self::V4(net.network().into(), net.prefix_len()),
            IpNet::V6(net) => Self::V6(net.network().into(), net.prefix_len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_address() {
        let v4 = 0x0a01_0203_u32;
        assert_eq!((v4.top16(), v4.octet(0), v4.octet(3), v4.octets(1, 2)), (0x0a01, 0x0a, 3, 0x0102));
        assert_eq!((v4.truncated(24), v4.extended(24)), (0x0a01_0200, 0x0a01_02ff));
        assert_eq!((v4.truncated(0), v4.extended(32)), (0, v4));
        let v6 = 0x2001_0db8_0102_0304_0506_0708_090a_0b0c_u128;
        assert_eq!((v6.top16(), v6.octet(15), v6.octets(2, 8)), (0x2001, 0x0c, 0x0db8_0102_0304_0506));
        assert_eq!(v6.truncated(16), 0x2001_u128 << 112);
        assert_eq!((v6.truncated(0), v6.extended(0)), (0, u128::MAX));
    }
}
