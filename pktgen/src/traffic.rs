//! What is sent: flows, their mix of protocols, families and VLANs, and the sizes, as a list of templates.
//!
//! Made once before a run. Promises the same list for the same description and seed, flows that differ in their
//! 5-tuple or VLAN, and shares that are exact over one pass through the list.

mod addresses;
mod sizes;

pub use addresses::{Addresses, Ports};
pub use sizes::Sizes;

use espalier_xsk::LiveTemplate;

use crate::frame::{FrameError, Headers, Protocol};
use crate::stamp::MAX_FLOWS;

/// Entries of a list with several sizes, at least: enough that every size comes with every kind of flow.
const MIXED_ENTRIES: usize = 1200;

/// A description of traffic.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Tags, given to the flows in turn; none for untagged frames.
    pub vlans: Vec<u16>,
    /// Source addresses.
    pub sources: Vec<Addresses>,
    /// Destination addresses.
    pub destinations: Vec<Addresses>,
    /// Source ports; identifiers of echo requests.
    pub source_ports: Ports,
    /// Destination ports.
    pub destination_ports: Ports,
    /// Protocols by weight.
    pub protocols: Vec<(Protocol, u32)>,
    /// TCP segments are SYNs instead of ACKs.
    pub tcp_syn: bool,
    /// Percent of the flows that are IPv6, where both families have addresses.
    pub v6_percent: u32,
    /// Frame sizes.
    pub sizes: Sizes,
    /// Number of flows.
    pub flows: u32,
    /// Where everything random begins.
    pub seed: u64,
}

/// The templates, sent in turn, over and over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The list.
    pub templates: Vec<LiveTemplate>,
    /// Flows in it.
    pub flows: u32,
}

/// The description makes no traffic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    /// Too many flows, or none.
    #[error("{0} flows: use 1 to {MAX_FLOWS}")]
    Flows(u32),
    /// The addresses and ports make fewer flows than asked for.
    #[error(
        "the addresses and ports given make {capacity} different {protocol} flows over {family}, {wanted} are wanted: \
         widen --src, --dst, --sport or --dport"
    )]
    Capacity {
        /// The protocol.
        protocol: Protocol,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Flows there can be.
        capacity: u64,
        /// Flows wanted.
        wanted: u64,
    },
    /// No family has both sources and destinations.
    #[error("--src and --dst have no family in common: give both ends IPv4 or both IPv6 addresses")]
    Families,
    /// The protocols have no weight.
    #[error("no protocol has a weight over 0")]
    Protocols,
    /// A frame cannot be built.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Traffic {
    /// The templates.
    pub fn plan(&self) -> Result<Plan, TrafficError> {
        if !(1..=MAX_FLOWS).contains(&self.flows) {
            return Err(TrafficError::Flows(self.flows));
        }
        let mut random = fastrand::Rng::with_seed(self.seed);
        let flows = self.headers(&mut random)?;
        let passes = if self.sizes.is_one() { 1 } else { MIXED_ENTRIES.div_ceil(flows.len()) };
        let sizes = self.sizes.spread(flows.len() * passes, &mut random);
        let mut templates = Vec::with_capacity(sizes.len());
        for (entry, size) in sizes.into_iter().enumerate() {
            let flow = entry % flows.len();
            let headers = &flows[flow];
            let length = if self.sizes.may_grow() { size.max(headers.least()) } else { size };
            templates.push(headers.template(length, flow as u32)?);
        }
        Ok(Plan { templates, flows: self.flows })
    }

    /// The headers of every flow.
    fn headers(&self, random: &mut fastrand::Rng) -> Result<Vec<Headers>, TrafficError> {
        let count = self.flows as usize;
        let weights: Vec<u32> = self.protocols.iter().map(|(_, weight)| *weight).collect();
        if weights.iter().all(|weight| *weight == 0) {
            return Err(TrafficError::Protocols);
        }
        let mut protocols = apportion(&weights, count);
        random.shuffle(&mut protocols);
        let mut families = apportion(&self.family_weights()?, count);
        random.shuffle(&mut families);
        let turn = random.u64(..);
        let mut used = [[0_u64; 3]; 2];
        let mut flows = Vec::with_capacity(count);
        for (flow, (protocol, family)) in protocols.into_iter().zip(families).enumerate() {
            let protocol = self.protocols[protocol].0;
            let number = &mut used[family][protocol as usize];
            let mut headers = self.nth(family == 1, protocol, *number, turn)?;
            headers.vlan = self.vlans.get(flow % self.vlans.len().max(1)).copied();
            flows.push(headers);
            *number += 1;
        }
        Ok(flows)
    }

    fn family_weights(&self) -> Result<[u32; 2], TrafficError> {
        let has = |v6| [&self.sources, &self.destinations].iter().all(|ends| addresses::total(ends, v6) > 0);
        match (has(false), has(true)) {
            (true, true) => Ok([100 - self.v6_percent.min(100), self.v6_percent.min(100)]),
            (true, false) => Ok([1, 0]),
            (false, true) => Ok([0, 1]),
            (false, false) => Err(TrafficError::Families),
        }
    }

    /// The n-th flow of one family and protocol: destinations change first, then sources, destination ports and
    /// source ports, the last beginning at a random one.
    fn nth(&self, v6: bool, protocol: Protocol, n: u64, turn: u64) -> Result<Headers, TrafficError> {
        let (sources, destinations) =
            (addresses::total(&self.sources, v6), addresses::total(&self.destinations, v6));
        let echo = protocol == Protocol::Icmp;
        let ports = if echo { 1 } else { self.destination_ports.count() };
        let span = self.source_ports.count();
        let capacity = [destinations, sources, ports, span].into_iter().fold(1, u64::saturating_mul);
        if n >= capacity {
            let family = if v6 { "IPv6" } else { "IPv4" };
            return Err(TrafficError::Capacity { protocol, family, capacity, wanted: n + 1 });
        }
        let (destination, rest) = (n % destinations, n / destinations);
        let (source, rest) = (rest % sources, rest / sources);
        let (port, rest) = (rest % ports, rest / ports);
        Ok(Headers {
            source_mac: self.source_mac,
            destination_mac: self.destination_mac,
            vlan: None,
            source: addresses::nth(&self.sources, v6, source),
            destination: addresses::nth(&self.destinations, v6, destination),
            protocol,
            source_port: self.source_ports.nth((rest + turn % span) % span),
            destination_port: if echo { 0 } else { self.destination_ports.nth(port) },
            tcp_syn: self.tcp_syn,
        })
    }
}

impl Plan {
    /// Bytes of a frame on average over one pass.
    #[must_use]
    pub fn mean_length(&self) -> f64 {
        let total: u64 = self.templates.iter().map(|template| u64::from(template.length)).sum();
        total as f64 / self.templates.len() as f64
    }

    /// Bytes of the longest frame.
    #[must_use]
    pub fn longest(&self) -> u16 {
        self.templates.iter().map(|template| template.length).max().unwrap_or(0)
    }
}

/// Gives `count` places to the weights in proportion, as indices in order (largest remainders first).
fn apportion(weights: &[u32], count: usize) -> Vec<usize> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let share =
        |weight: u32| (u64::from(weight) * count as u64 / total, u64::from(weight) * count as u64 % total);
    let mut places: Vec<u64> = weights.iter().map(|weight| share(*weight).0).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(share(weights[*index]).1));
    let missing = count - places.iter().sum::<u64>() as usize;
    order.into_iter().take(missing).for_each(|index| places[index] += 1);
    places.into_iter().enumerate().flat_map(|(index, n)| std::iter::repeat_n(index, n as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use std::collections::HashSet;

    pub(crate) fn traffic() -> Traffic {
        Traffic {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            vlans: Vec::new(),
            sources: vec!["10.0.0.1-10.0.0.10".parse().unwrap()],
            destinations: vec!["10.1.0.1".parse().unwrap()],
            source_ports: "1024-2047".parse().unwrap(),
            destination_ports: "80,443".parse().unwrap(),
            protocols: vec![(Protocol::Udp, 1)],
            tcp_syn: false,
            v6_percent: 50,
            sizes: "60".parse().unwrap(),
            flows: 1,
            seed: 1,
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_another() {
        let mut one = traffic();
        one.flows = 500;
        one.sizes = Sizes::imix();
        assert_eq!(one.plan(), one.clone().plan());
        let other = Traffic { seed: 2, ..one.clone() };
        assert_ne!(one.plan(), other.plan());
    }

    #[test]
    fn flows_differ_and_mixes_are_exact() {
        let mut mixed = traffic();
        mixed.flows = 1000;
        mixed.vlans = vec![101, 102];
        mixed.sources.push("fd00::/120".parse().unwrap());
        mixed.destinations.push("fd01::1".parse().unwrap());
        mixed.protocols = vec![(Protocol::Udp, 7), (Protocol::Tcp, 2), (Protocol::Icmp, 1)];
        mixed.v6_percent = 30;
        mixed.sizes = "128".parse().unwrap();
        let plan = mixed.plan().unwrap();
        assert_eq!(plan.templates.len(), 1000);
        let heads: HashSet<_> = plan.templates.iter().map(|template| template.head).collect();
        assert_eq!(heads.len(), 1000);
        let layouts: Vec<_> = plan.templates.iter().map(|t| Layout::of(&t.head).unwrap()).collect();
        assert_eq!(layouts.iter().filter(|layout| layout.v6).count(), 300);
        assert_eq!(layouts.iter().filter(|layout| layout.protocol == 17).count(), 700);
        assert_eq!(layouts.iter().filter(|layout| layout.protocol == 6).count(), 200);
        assert_eq!(plan.templates.iter().filter(|template| template.head[15] == 101).count(), 500);
    }

    #[test]
    fn sizes_come_in_their_shares() {
        let mut imix = traffic();
        imix.sizes = Sizes::imix();
        let plan = imix.plan().unwrap();
        let count = |length| plan.templates.iter().filter(|template| template.length == length).count();
        assert_eq!((count(60), count(590), count(1514)), (700, 400, 100));
        assert!((plan.mean_length() - (7.0 * 60.0 + 4.0 * 590.0 + 1514.0) / 12.0).abs() < 1e-9);
        assert_eq!(plan.longest(), 1514);
        // The least size of the mix grows where the headers need more; a size asked for by number does not.
        imix.protocols = vec![(Protocol::Tcp, 1)];
        assert!(imix.plan().unwrap().templates.iter().any(|template| template.length == 72));
        imix.sizes = "60".parse().unwrap();
        assert!(matches!(imix.plan(), Err(TrafficError::Frame(FrameError::TooShort { .. }))));
    }

    #[test]
    fn too_many_flows_are_refused_with_what_is_possible() {
        let mut many = traffic();
        many.flows = 10 * 2 * 1024;
        assert_eq!(many.plan().unwrap().flows, many.flows);
        many.flows += 1;
        let error = many.plan().unwrap_err();
        assert_eq!(
            error,
            TrafficError::Capacity {
                protocol: Protocol::Udp,
                family: "IPv4",
                capacity: 20480,
                wanted: 20481
            }
        );
        many.destinations = vec!["fd00::1".parse().unwrap()];
        assert_eq!(many.plan(), Err(TrafficError::Families));
        many.flows = 0;
        assert_eq!(many.plan(), Err(TrafficError::Flows(0)));
    }

    #[test]
    fn places_are_given_in_proportion() {
        assert_eq!(apportion(&[1, 1, 1], 4), [0, 0, 1, 2]);
        assert_eq!(apportion(&[0, 5], 3), [1, 1, 1]);
        assert_eq!(apportion(&[7, 2, 1], 10), [0, 0, 0, 0, 0, 0, 0, 1, 1, 2]);
    }
}
