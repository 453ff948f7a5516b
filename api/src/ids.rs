//! Identifiers as types: EC2 ids, pod names, VLANs, MAC addresses, generations.
//!
//! Each checks itself while it is parsed (serde or `FromStr`), so a value of the type is a valid one.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An EC2 id (`sg-…`): a prefix, then lower-case letters and digits.
fn check_ec2_id(text: &str, prefix: &str, what: &str) -> Result<(), String> {
    let body = text.strip_prefix(prefix).unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if body.is_empty() || body.len() > 64 || !body.chars().all(plain) {
        return Err(format!(
            "{text:?} is not a {what} id: expected {prefix}… of lower-case letters and digits"
        ));
    }
    Ok(())
}

macro_rules! ec2_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(Box<str>);

        impl $name {
            /// The id as EC2 writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                check_ec2_id(text, $prefix, $what)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

ec2_id!(
    /// A security group, `sg-…`.
    GroupId, "sg-", "security group"
);
ec2_id!(
    /// A security group rule, `sgr-…`.
    RuleId, "sgr-", "security group rule"
);
ec2_id!(
    /// A network interface, `eni-…`.
    EniId, "eni-", "network interface"
);
ec2_id!(
    /// A managed prefix list, `pl-…`.
    PrefixListId, "pl-", "prefix list"
);

/// A pod, `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PodName(Box<str>);

impl PodName {
    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the slash.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl FromStr for PodName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let ok = |part: &str| !part.is_empty() && part.len() <= 253 && part.chars().all(plain);
        match text.split_once('/') {
            Some((namespace, name)) if ok(namespace) && ok(name) => Ok(Self(text.into())),
            _ => Err(format!("{text:?} is not a pod: expected namespace/name in Kubernetes spelling")),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for PodName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// An 802.1Q VLAN id that may carry a branch: 1–4094 (IEEE 802.1Q reserves 0 and 4095).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Vlan(u16);

impl Vlan {
    /// The VLAN, if `id` may carry a branch.
    pub fn new(id: u16) -> Option<Self> {
        (1..=4094).contains(&id).then_some(Self(id))
    }

    /// The id as it stands in the tag.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = i64::deserialize(deserializer)?;
        u16::try_from(id).ok().and_then(Self::new).ok_or_else(|| {
            de::Error::custom(format!(
                "VLAN {id} cannot carry a branch: expected 1 to 4094 (EC2 uses 1 to 120)"
            ))
        })
    }
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address, if it is a unicast one.
    pub fn new(octets: [u8; 6]) -> Option<Self> {
        (octets[0] & 1 == 0 && octets != [0; 6]).then_some(Self(octets))
    }

    /// The six octets in wire order.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The link-local address that an interface with this address forms (RFC 4291 appendix A: modified EUI-64).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl FromStr for Mac {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let octets: Option<Vec<u8>> = text
            .split(':')
            .map(|part| {
                let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
                hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
            })
            .collect();
        octets
            .and_then(|octets| <[u8; 6]>::try_from(octets).ok())
            .and_then(Self::new)
            .ok_or_else(|| format!("{text:?} is not a unicast MAC address: expected six hex pairs, 06:25:…"))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Number of a snapshot. The switch enforces the highest it has accepted and refuses to go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_follows_its_mac() {
        let mac: Mac = "06:25:0a:ff:00:01".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::425:aff:feff:1");
    }

    #[test]
    fn vlans_outside_1_to_4094_are_refused() {
        for bad in ["0", "4095", "-1", "70000"] {
            let error = serde_json::from_str::<Vlan>(bad).unwrap_err().to_string();
            assert!(error.contains("expected 1 to 4094"), "{bad}: {error}");
        }
        assert_eq!(serde_json::from_str::<Vlan>("4094").unwrap().get(), 4094);
    }

    #[test]
    fn macs_round_trip_and_multicast_is_refused() {
        let mac: Mac = "06:25:0a:FF:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "06:25:0a:ff:00:01");
        for bad in [
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "6:25:0a:ff:00:01",
            "06:25:0a:ff:00",
            "+6:25:0a:ff:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_keep_their_prefix() {
        assert!("sg-0123abc".parse::<GroupId>().is_ok());
        for bad in ["sg-", "sgr-1", "SG-1", "sg-\u{e9}", ""] {
            assert!(bad.parse::<GroupId>().is_err(), "{bad}");
        }
        assert!("default/web-0".parse::<PodName>().is_ok());
        assert!("web-0".parse::<PodName>().is_err());
    }
}
