//! Ranges of addresses and ports as the command line has them: one, a prefix, or first-last.
//! Used by the plan, which numbers what is in them.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Consecutive addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    first: IpAddr,
    count: u64,
}

/// Ranges of ports, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Addresses {
    fn nth(&self, n: u64) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::from((u32::from(first).wrapping_add(n as u32)).to_be_bytes()),
            IpAddr::V6(first) => IpAddr::from((u128::from(first).wrapping_add(u128::from(n))).to_be_bytes()),
        }
    }

    /// From the first to the last, both included.
    fn between(first: IpAddr, last: IpAddr) -> Option<Self> {
        let count = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                u64::from(u32::from(last).checked_sub(u32::from(first))?) + 1
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let more = u128::from(last).checked_sub(u128::from(first))?;
                u64::try_from(more).unwrap_or(u64::MAX).saturating_add(1)
            }
            _ => return None,
        };
        Some(Self { first, count })
    }
}

/// Addresses of one family.
pub(super) fn total(ranges: &[Addresses], v6: bool) -> u64 {
    ranges
        .iter()
        .filter(|range| range.first.is_ipv6() == v6)
        .fold(0, |sum, range| sum.saturating_add(range.count))
}

/// The n-th address of one family, below [`total`].
pub(super) fn nth(ranges: &[Addresses], v6: bool, mut n: u64) -> IpAddr {
    for range in ranges.iter().filter(|range| range.first.is_ipv6() == v6) {
        if n < range.count {
            return range.nth(n);
        }
        n -= range.count;
    }
    unreachable!("the caller numbers addresses below the total")
}

impl Ports {
    /// Number of ports.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    pub(super) fn nth(&self, mut n: u64) -> u16 {
        for (first, last) in &self.0 {
            let count = u64::from(last - first) + 1;
            if n < count {
                return first + n as u16;
            }
            n -= count;
        }
        unreachable!("the caller numbers ports below their count")
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usage = || {
            format!(
                "{text:?} is no address: use 10.0.0.1, 10.0.0.0/24, 10.0.0.1-10.0.0.9, or the same with IPv6"
            )
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { first: address, count: 1 });
        }
        let (first, last) = if let Ok(net) = text.parse::<IpNet>() {
            // A prefix stands for its hosts: without network and broadcast address where it has them.
            match net {
                IpNet::V4(v4) if v4.prefix_len() < 31 => {
                    let edge = |address, by: i64| (i64::from(u32::from(address)) + by) as u32;
                    (
                        IpAddr::from(edge(v4.network(), 1).to_be_bytes()),
                        IpAddr::from(edge(v4.broadcast(), -1).to_be_bytes()),
                    )
                }
                net => (net.network(), net.broadcast()),
            }
        } else {
            let (first, last) = text.split_once('-').ok_or_else(usage)?;
            (first.trim().parse().map_err(|_| usage())?, last.trim().parse().map_err(|_| usage())?)
        };
        Self::between(first, last).ok_or_else(|| {
            format!("{text:?}: the last address must be of the same family and not before the first")
        })
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usage = || format!("{text:?} are no ports: use 53, 1024-65535 or 80,443");
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u16 = first.trim().parse().map_err(|_| usage())?;
            let last: u16 = last.trim().parse().map_err(|_| usage())?;
            if first <= last { Ok((first, last)) } else { Err(usage()) }
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, v6: bool) -> Vec<String> {
        let ranges = [text.parse::<Addresses>().unwrap()];
        (0..total(&ranges, v6)).map(|n| nth(&ranges, v6, n).to_string()).collect()
    }

    #[test]
    fn addresses_come_alone_in_prefixes_and_in_ranges() {
        assert_eq!(all("10.0.0.7", false), ["10.0.0.7"]);
        assert_eq!(all("10.0.0.0/30", false), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(all("10.0.0.254-10.0.1.1", false), ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"]);
        assert_eq!(all("fd00::/127", true), ["fd00::", "fd00::1"]);
        assert_eq!(total(&["fd00::/8".parse().unwrap()], true), u64::MAX);
        assert_eq!(total(&["fd00::1".parse().unwrap()], false), 0);
        for wrong in ["", "10.0.0", "10.0.0.2-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.0/33"] {
            assert!(wrong.parse::<Addresses>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_come_alone_and_in_ranges() {
        let ports: Ports = "80, 1000-1002".parse().unwrap();
        let all: Vec<u16> = (0..ports.count()).map(|n| ports.nth(n)).collect();
        assert_eq!(all, [80, 1000, 1001, 1002]);
        assert_eq!("0-65535".parse::<Ports>().unwrap().count(), 65536);
        for wrong in ["", "x", "5-4", "70000", "1-"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
    }
}
