//! A probe with its ends looked up in the scenario: what goes over the wire, and what has to be seen of it.

use std::net::IpAddr;

use espalier_api::{Family, InputError};
use ipnet::IpNet;

use super::icmp::Message;
use super::sight::Kind;
use crate::scenario::{Endpoint, Probe, ProbeProtocol, Scenario};

/// Ports of the VPC's services.
const DNS_PORT: u16 = 53;
const HTTP_PORT: u16 = 80;

/// A probe that can be tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned<'a> {
    pub(super) probe: &'a Probe,
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) from_address: IpAddr,
    pub(super) to_address: IpAddr,
}

impl<'a> Planned<'a> {
    /// Looks up both ends of the scenario's probes.
    pub(super) fn all(scenario: &'a Scenario) -> Result<Vec<Self>, InputError> {
        let plan = |(index, probe): (usize, &'a Probe)| {
            let at = |field: &str, message| InputError::new(format!("probes[{index}].{field}"), message);
            let from = scenario.endpoint(&probe.from).map_err(|message| at("from", message))?;
            let to = scenario.endpoint(&probe.to).map_err(|message| at("to", message))?;
            let (from_address, to_address) = scenario
                .probe_addresses(probe, from, to)
                .ok_or_else(|| at("family", "the two ends have no address of one family".into()))?;
            Ok(Self { probe, from, to, from_address, to_address })
        };
        scenario.probes.iter().enumerate().map(plan).collect()
    }

    /// The packets that must, or must not, be seen at the destination.
    pub(super) fn kind(&self) -> Kind {
        let detail = match self.probe.protocol {
            ProbeProtocol::Icmp | ProbeProtocol::Icmpv6 => {
                let (icmp_type, code) = self.icmp();
                Kind::icmp_detail(icmp_type, code)
            }
            _ => self.port().unwrap_or_default(),
        };
        let protocol = self.probe.protocol.on_the_wire().0;
        Kind { protocol, from: self.from_address, to: self.to_address, detail }
    }

    /// Destination port, given or the service's own.
    pub(super) fn port(&self) -> Option<u16> {
        match self.probe.protocol {
            ProbeProtocol::Dns => Some(DNS_PORT),
            ProbeProtocol::Http => Some(HTTP_PORT),
            _ => self.probe.port,
        }
    }

    /// ICMP type and code; an echo request unless given.
    pub(super) fn icmp(&self) -> (u8, u8) {
        let echo = if self.to_address.is_ipv4() { 8 } else { 128 };
        (self.probe.icmp_type.unwrap_or(echo), self.probe.icmp_code.unwrap_or(0))
    }

    /// Whether ICMP is spoken.
    pub(super) fn is_icmp(&self) -> bool {
        matches!(self.probe.protocol, ProbeProtocol::Icmp | ProbeProtocol::Icmpv6)
    }

    /// Whether no answer is due.
    pub(super) fn is_one_way(&self) -> bool {
        let (icmp_type, code) = self.icmp();
        match self.probe.protocol {
            ProbeProtocol::Icmp | ProbeProtocol::Icmpv6 => {
                !Message::wants_answer(self.to_address.is_ipv4(), icmp_type, code)
            }
            ProbeProtocol::Number(_) => true,
            _ => false,
        }
    }

    /// What the table shows after protocol and port.
    pub(super) fn detail(&self) -> String {
        let (icmp_type, code) = self.icmp();
        let icmp = if self.is_icmp() { format!(" {icmp_type}/{code}") } else { String::new() };
        let family = if self.to_address.is_ipv6() && !self.is_icmp() { " over IPv6" } else { "" };
        let name = self.probe.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{icmp}{family}{name}")
    }
}

/// Family of an address.
pub(super) fn family(address: &IpAddr) -> Family {
    Family::of(&IpNet::from(*address))
}
