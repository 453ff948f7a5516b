//! An address as the packet path has it: two words and a family.
//!
//! The parser makes them, flow keys and the branches' tables hold them; everything that people read has `IpAddr`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::Family;

/// An address as two words, compared and copied without branches. An IPv4 address is the low half of the low word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ip {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Its bits; the high word first.
    pub words: [u64; 2],
}

impl From<Ipv4Addr> for Ip {
    fn from(address: Ipv4Addr) -> Self {
        Self { family: Family::V4, words: [0, address.to_bits().into()] }
    }
}

impl From<Ipv6Addr> for Ip {
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(words(address.to_bits()))
    }
}

impl From<IpAddr> for Ip {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ip> for IpAddr {
    fn from(Ip { family, words: [high, low] }: Ip) -> Self {
        match family {
            Family::V4 => Ipv4Addr::from_bits(low as u32).into(),
            Family::V6 => Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into(),
        }
    }
}

impl Ip {
    /// An IPv6 address.
    #[inline]
    pub fn v6(words: [u64; 2]) -> Self {
        Self { family: Family::V6, words }
    }

    /// Its words as an IPv6 address, an IPv4 one mapped (RFC 4291 section 2.5.5.2).
    #[inline]
    pub fn as_v6(self) -> [u64; 2] {
        match self.family {
            Family::V4 => [0, 0xffff << 32 | self.words[1]],
            Family::V6 => self.words,
        }
    }

    /// 224.0.0.0/4 and ff00::/8, and the limited broadcast address.
    #[inline]
    pub fn is_group(self) -> bool {
        let [high, low] = self.words;
        match self.family {
            Family::V4 => low >> 28 == 0xe || low == u64::from(u32::MAX),
            Family::V6 => high >> 56 == 0xff,
        }
    }

    /// The loopback addresses and the unspecified one, which no frame carries.
    #[inline]
    pub fn is_own(self) -> bool {
        let [high, low] = self.words;
        match self.family {
            Family::V4 => low >> 24 == 127 || low == 0,
            Family::V6 => high == 0 && low <= 1,
        }
    }
}

/// The two halves of an IPv6 address.
#[inline]
pub fn words(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The standard library says the same of any address.
        #[test]
        fn it_is_the_address_it_was_made_of(v6: bool, bits: u128, small: bool) {
            let bits = if small { bits % 4 } else { bits };
            let address: IpAddr = match v6 {
                true => Ipv6Addr::from_bits(bits).into(),
                false => Ipv4Addr::from_bits(bits as u32).into(),
            };
            let ip = Ip::from(address);
            prop_assert_eq!(IpAddr::from(ip), address);
            prop_assert_eq!(ip.is_group(), address.is_multicast() || address == IpAddr::from([255; 4]));
            prop_assert_eq!(ip.is_own(), address.is_loopback() || address.is_unspecified());
        }
    }

    #[test]
    fn an_ipv4_address_is_no_ipv6_address() {
        let v4 = Ip::from(Ipv4Addr::LOCALHOST);
        assert_ne!(v4, Ip::v6(v4.words));
        assert_ne!(v4, Ip::v6(v4.as_v6()));
        assert_eq!(IpAddr::from(Ip::v6(v4.as_v6())), IpAddr::from(Ipv4Addr::LOCALHOST.to_ipv6_mapped()));
    }
}
