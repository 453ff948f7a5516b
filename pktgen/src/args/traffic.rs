//! The options that describe traffic, and how they become a [`Traffic`].

use std::fmt;
use std::str::FromStr;

use clap::Args;

use crate::error::PktgenError;
use crate::frame::Protocol;
use crate::traffic::{Addresses, Ports, Sizes, Traffic};

/// What to send.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficArgs {
    /// Source addresses: ADDRESS, PREFIX or FIRST-LAST, IPv4 and IPv6
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', required_unless_present = "pcap")]
    pub src: Vec<Addresses>,
    /// Destination addresses
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', required_unless_present = "pcap")]
    pub dst: Vec<Addresses>,
    /// Source ports (for ICMP: identifiers of the echo requests)
    #[arg(long, value_name = "PORTS", default_value = "1024-65535")]
    pub sport: Ports,
    /// Destination ports
    #[arg(long, value_name = "PORTS", default_value = "9")]
    pub dport: Ports,
    /// Source MAC address; the interface's own unless given
    #[arg(long, value_name = "MAC")]
    pub src_mac: Option<Mac>,
    /// Destination MAC address; that of the receiving interface unless given
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<Mac>,
    /// 802.1Q tags, given to the flows in turn (turns the tx-vlan offload of a sending veth off)
    #[arg(long, value_name = "VLANS", value_parser = vlans, default_value = "", hide_default_value = true)]
    pub vlan: Vlans,
    /// Protocols by weight: udp, tcp, icmp, or a mix such as udp:7,tcp:2,icmp:1
    #[arg(long, value_name = "MIX", value_parser = protocols, default_value = "udp")]
    pub protocol: Protocols,
    /// TCP segments are SYNs (new connections) instead of ACKs
    #[arg(long)]
    pub tcp_syn: bool,
    /// Percent of the flows that are IPv6, where --src and --dst have both families
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub ipv6: u32,
    /// Frame size from the Ethernet header on, tag included, FCS not: BYTES, imix, or SIZE:WEIGHT,…
    #[arg(long, default_value = "64")]
    pub size: Sizes,
    /// Number of flows: different addresses or ports
    #[arg(long, default_value_t = 1)]
    pub flows: u32,
    /// Where the random order of mixes and ports begins
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// VLAN ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlans(Vec<u16>);

/// Protocols by weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocols(Vec<(Protocol, u32)>);

impl TrafficArgs {
    /// The traffic, given the MAC addresses of the two ends as far as they are known.
    pub fn traffic(&self, own: [u8; 6], peer: Option<[u8; 6]>) -> Result<Traffic, PktgenError> {
        let destination_mac = self.dst_mac.map(|mac| mac.0).or(peer).ok_or_else(|| {
            PktgenError::Usage(
                "--dst-mac is missing: give the MAC address of the next hop, or --receive an interface there"
                    .to_owned(),
            )
        })?;
        Ok(Traffic {
            source_mac: self.src_mac.map_or(own, |mac| mac.0),
            destination_mac,
            vlans: self.vlan.0.clone(),
            sources: self.src.clone(),
            destinations: self.dst.clone(),
            source_ports: self.sport.clone(),
            destination_ports: self.dport.clone(),
            protocols: self.protocol.0.clone(),
            tcp_syn: self.tcp_syn,
            v6_percent: self.ipv6,
            sizes: self.size.clone(),
            flows: self.flows,
            seed: self.seed,
        })
    }

    /// Whether frames carry tags.
    #[must_use]
    pub fn tagged(&self) -> bool {
        !self.vlan.0.is_empty()
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usage = || format!("{text:?} is no MAC address: use 02:00:00:00:00:01");
        let parts: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
            .collect::<Option<_>>()
            .ok_or_else(usage)?;
        parts.try_into().map(Self).map_err(|_| usage())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn vlans(text: &str) -> Result<Vlans, String> {
    if text.is_empty() {
        return Ok(Vlans(Vec::new()));
    }
    let mut ids = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let id = |text: &str| text.trim().parse::<u16>().ok().filter(|id| (1..=4094).contains(id));
        match (id(first), id(last)) {
            (Some(first), Some(last)) if first <= last => ids.extend(first..=last),
            _ => return Err(format!("{text:?} are no VLANs: use 101, 101-110 or 101,205 from 1 to 4094")),
        }
    }
    Ok(Vlans(ids))
}

fn protocols(text: &str) -> Result<Protocols, String> {
    let part = |part: &str| {
        let (name, weight) = part.split_once(':').unwrap_or((part, "1"));
        let weight =
            weight.trim().parse().map_err(|_| format!("{weight:?} is no weight: use udp:7,tcp:2"))?;
        Ok((name.trim().parse::<Protocol>()?, weight))
    };
    text.split(',').map(part).collect::<Result<_, String>>().map(Protocols)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_vlans_and_mixes_are_read() {
        let mac: Mac = "02:00:00:00:ab:01".parse().unwrap();
        assert_eq!((mac.0, mac.to_string().as_str()), ([2, 0, 0, 0, 0xab, 1], "02:00:00:00:ab:01"));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:001", "02-00-00-00-00-01"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        assert_eq!(vlans("7,100-102"), Ok(Vlans(vec![7, 100, 101, 102])));
        assert_eq!(vlans(""), Ok(Vlans(Vec::new())));
        for wrong in ["0", "4095", "9-8", "x"] {
            assert!(vlans(wrong).is_err(), "{wrong}");
        }
        let mix = Protocols(vec![(Protocol::Udp, 7), (Protocol::Icmp, 1)]);
        assert_eq!(protocols("udp:7,icmp"), Ok(mix));
        assert!(protocols("sctp").is_err() && protocols("udp:x").is_err());
    }
}
