//! What a probe speaks: an IP protocol as EC2 names it, or one of the VPC's own services.

use std::fmt;
use std::str::FromStr;

use espalier_api::QueryProtocol;
use espalier_api::explain::number_or_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Protocol of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeProtocol {
    /// TCP connect and echo.
    Tcp,
    /// UDP request and response.
    Udp,
    /// ICMP message; an echo request is answered.
    Icmp,
    /// ICMPv6 message; an echo request is answered.
    Icmpv6,
    /// A packet of another IP protocol, one way.
    Number(u8),
    /// A question to the VPC's resolver.
    Dns,
    /// A request to the instance metadata service.
    Http,
}

impl ProbeProtocol {
    /// What the switch sees of it.
    pub fn on_the_wire(self) -> QueryProtocol {
        QueryProtocol(match self {
            Self::Tcp | Self::Http => 6,
            Self::Udp | Self::Dns => 17,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
            Self::Number(number) => number,
        })
    }
}

impl FromStr for ProbeProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dns" => return Ok(Self::Dns),
            "http" => return Ok(Self::Http),
            _ => {}
        }
        let QueryProtocol(number) = text.parse().map_err(|_| {
            format!("protocol {text:?} is unknown: expected tcp, udp, icmp, icmpv6, dns, http or a number 0 to 255")
        })?;
        Ok(match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 => Self::Icmp,
            58 => Self::Icmpv6,
            number => Self::Number(number),
        })
    }
}

impl fmt::Display for ProbeProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns => f.pad("dns"),
            Self::Http => f.pad("http"),
            other => other.on_the_wire().fmt(f),
        }
    }
}

impl Serialize for ProbeProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProbeProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)?.parse().map_err(de::Error::custom)
    }
}
