//! Who a probe speaks of: pods, hosts, the node and the VPC's own services, found by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use espalier_api::Family;
use ipnet::IpNet;

use super::Scenario;

/// One end of a probe; an index into the scenario's pods or hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `scenario.pods[i]`.
    Pod(usize),
    /// `scenario.hosts[i]`.
    Host(usize),
    /// The node's own untagged address on the trunk.
    Node,
    /// The Amazon-provided resolver.
    Resolver,
    /// The instance metadata service.
    Imds,
}

impl Scenario {
    /// Finds an endpoint: `namespace/name` or a unique bare name of a pod, a host's name, `node`, `resolver`, `imds`.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint, String> {
        match name {
            "node" => return Ok(Endpoint::Node),
            "resolver" => return Ok(Endpoint::Resolver),
            "imds" => return Ok(Endpoint::Imds),
            _ => {}
        }
        if let Some(index) = self.hosts.iter().position(|host| host.name == name) {
            return Ok(Endpoint::Host(index));
        }
        if let Some(index) = self.pods.iter().position(|pod| pod.name.as_str() == name) {
            return Ok(Endpoint::Pod(index));
        }
        let mut bare = self.pods.iter().enumerate().filter(|(_, pod)| pod.name.name() == name);
        match (bare.next(), bare.next()) {
            (Some((index, _)), None) => Ok(Endpoint::Pod(index)),
            (Some((_, first)), Some((_, second))) => {
                Err(format!("{name:?} may be {} or {}: write the namespace too", first.name, second.name))
            }
            (None, _) => {
                Err(format!("{name:?} is unknown: expected one of {}", self.endpoint_names().join(", ")))
            }
        }
    }

    /// What the endpoint is called in reports.
    pub fn endpoint_name(&self, endpoint: Endpoint) -> String {
        match endpoint {
            Endpoint::Pod(index) => self.pods[index].name.to_string(),
            Endpoint::Host(index) => self.hosts[index].name.clone(),
            Endpoint::Node => "node".into(),
            Endpoint::Resolver => "resolver".into(),
            Endpoint::Imds => "imds".into(),
        }
    }

    /// The addresses of the endpoint.
    pub fn addresses(&self, endpoint: Endpoint) -> Vec<IpAddr> {
        match endpoint {
            Endpoint::Pod(index) => self.pods[index].addresses.clone(),
            Endpoint::Host(index) => self.hosts[index].addresses.clone(),
            Endpoint::Node => self.node.addresses.clone(),
            Endpoint::Resolver => {
                let v4 = self.resolver_v4().map(IpAddr::V4);
                v4.into_iter().chain([service_v6(0x253)]).collect()
            }
            Endpoint::Imds => vec![IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), service_v6(0x254)],
        }
    }

    /// Its first address of a family.
    pub fn address(&self, endpoint: Endpoint, family: Family) -> Option<IpAddr> {
        self.addresses(endpoint).into_iter().find(|address| Family::of(&IpNet::from(*address)) == family)
    }

    /// The base of the first IPv4 block of the VPC plus two (VPC user guide, "Amazon DNS server").
    pub fn resolver_v4(&self) -> Option<Ipv4Addr> {
        self.vpc.cidrs.iter().find_map(|cidr| match cidr {
            IpNet::V4(net) => Some(Ipv4Addr::from(u32::from(net.network()).wrapping_add(2))),
            IpNet::V6(_) => None,
        })
    }

    /// The names of pods and hosts, `node` and `vpc`: where commands can run.
    pub(crate) fn places(&self) -> Vec<String> {
        let pods = self.pods.iter().map(|pod| pod.name.to_string());
        let hosts = self.hosts.iter().map(|host| host.name.clone());
        pods.chain(hosts).chain(["node", "vpc"].map(String::from)).collect()
    }

    fn endpoint_names(&self) -> Vec<String> {
        let pods = self.pods.iter().map(|pod| pod.name.to_string());
        let hosts = self.hosts.iter().map(|host| host.name.clone());
        pods.chain(hosts).chain(["node", "resolver", "imds"].map(String::from)).collect()
    }
}

/// `fd00:ec2::<last>`: the VPC's services over IPv6.
fn service_v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last))
}
