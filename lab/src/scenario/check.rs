//! What makes a scenario wrong beyond its shape: unknown names, addresses outside their subnet, probes that cannot be.
//!
//! The first offence is reported with the path of its field.

use std::collections::HashMap;
use std::net::IpAddr;

use espalier_api::{Family, InputError};
use ipnet::IpNet;

use super::{Endpoint, Probe, ProbeProtocol, Scenario, Subnet};

/// Smallest MTU that carries IPv6 (RFC 8200), largest of a VPC.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=9001;

pub(super) fn scenario(scenario: &Scenario) -> Result<(), InputError> {
    if scenario.resolver_v4().is_none() {
        return Err(InputError::new("vpc.cidrs", "no IPv4 block: a VPC has at least one"));
    }
    mtu("mtu", scenario.mtu)?;
    for (index, subnet) in scenario.subnets.iter().enumerate() {
        check_subnet(scenario, index, subnet)?;
    }
    let mut owners = HashMap::new();
    let mut place = |path: String, owner: String, subnet: &str, addresses: &[IpAddr]| {
        attachment(scenario, &mut owners, &path, owner, subnet, addresses)
    };
    place("node".into(), "the node".into(), &scenario.node.subnet, &scenario.node.addresses)?;
    for (index, host) in scenario.hosts.iter().enumerate() {
        let path = format!("hosts[{index}]");
        plain_name(&format!("{path}.name"), &host.name)?;
        mtu(&format!("{path}.mtu"), host.mtu)?;
        if scenario.hosts[..index].iter().any(|other| other.name == host.name) {
            return Err(InputError::new(format!("{path}.name"), format!("{:?} is used already", host.name)));
        }
        place(path, format!("host {}", host.name), &host.subnet, &host.addresses)?;
    }
    for (index, pod) in scenario.pods.iter().enumerate() {
        place(format!("pods[{index}]"), format!("pod {}", pod.name), &pod.subnet, &pod.addresses)?;
    }
    scenario.snapshot()?;
    for (index, probe) in scenario.probes.iter().enumerate() {
        check_probe(scenario, &format!("probes[{index}]"), probe)?;
    }
    Ok(())
}

fn check_subnet(scenario: &Scenario, index: usize, subnet: &Subnet) -> Result<(), InputError> {
    if scenario.subnets[..index].iter().any(|other| other.name == subnet.name) {
        return Err(InputError::new(
            format!("subnets[{index}].name"),
            format!("{:?} is used already", subnet.name),
        ));
    }
    for family in [Family::V4, Family::V6] {
        if subnet.cidrs.iter().filter(|cidr| Family::of(cidr) == family).count() > 1 {
            return Err(InputError::new(
                format!("subnets[{index}].cidrs"),
                format!("two {family} prefixes: a subnet has one"),
            ));
        }
    }
    match subnet.cidrs.iter().position(|cidr| matches!(cidr, IpNet::V4(net) if net.prefix_len() > 28)) {
        Some(nth) => Err(InputError::new(
            format!("subnets[{index}].cidrs[{nth}]"),
            format!("{} is smaller than EC2 allows: at most /28", subnet.cidrs[nth]),
        )),
        None => Ok(()),
    }
}

fn attachment(
    scenario: &Scenario,
    owners: &mut HashMap<IpAddr, String>,
    path: &str,
    owner: String,
    subnet_name: &str,
    addresses: &[IpAddr],
) -> Result<(), InputError> {
    let subnet = scenario.subnet(subnet_name).ok_or_else(|| {
        let names: Vec<_> = scenario.subnets.iter().map(|subnet| subnet.name.as_str()).collect();
        InputError::new(
            format!("{path}.subnet"),
            format!("{subnet_name:?} is not in subnets: expected one of {}", names.join(", ")),
        )
    })?;
    if addresses.is_empty() {
        return Err(InputError::new(format!("{path}.addresses"), "empty: give at least one address"));
    }
    for (nth, address) in addresses.iter().enumerate() {
        let refuse = |message| Err(InputError::new(format!("{path}.addresses[{nth}]"), message));
        let Some(cidr) = subnet.cidrs.iter().find(|cidr| cidr.contains(address)) else {
            return refuse(format!("{address} is not in subnet {subnet_name:?}"));
        };
        if reserved(cidr, *address) {
            return refuse(format!(
                "{address} is reserved in {cidr}: EC2 keeps the first four addresses and the last"
            ));
        }
        if let Some(other) = owners.insert(*address, owner.clone()) {
            return refuse(format!("{address} belongs to {other} already"));
        }
    }
    Ok(())
}

/// The first four addresses and the last one of a subnet (VPC user guide, "Subnet CIDR blocks").
fn reserved(cidr: &IpNet, address: IpAddr) -> bool {
    match (cidr, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => {
            u32::from(address) - u32::from(net.network()) < 4 || address == net.broadcast()
        }
        (IpNet::V6(net), IpAddr::V6(address)) => u128::from(address) - u128::from(net.network()) < 4,
        _ => false,
    }
}

fn check_probe(scenario: &Scenario, path: &str, probe: &Probe) -> Result<(), InputError> {
    let at = |field: &str, message: String| InputError::new(format!("{path}.{field}"), message);
    let from = scenario.endpoint(&probe.from).map_err(|message| at("from", message))?;
    let to = scenario.endpoint(&probe.to).map_err(|message| at("to", message))?;
    if matches!(from, Endpoint::Resolver | Endpoint::Imds) {
        return Err(at("from", format!("{} only answers: name a pod, a host or node", probe.from)));
    }
    if !matches!(from, Endpoint::Pod(_)) && !matches!(to, Endpoint::Pod(_)) {
        return Err(at(
            "to",
            format!("{} is no pod, and neither is {}: no security group decides", probe.to, probe.from),
        ));
    }
    if from == to {
        return Err(at("to", "the same as from: such packets never leave the pod".into()));
    }
    ports(path, probe)?;
    if let Some(wanted) = service(probe.protocol).filter(|wanted| *wanted != to) {
        return Err(at("to", format!("{} probes go to {}", probe.protocol, scenario.endpoint_name(wanted))));
    }
    if service(probe.protocol).is_none() && matches!(to, Endpoint::Resolver | Endpoint::Imds) {
        return Err(at("protocol", format!("{} answers dns or http only", probe.to)));
    }
    if probe.protocol == ProbeProtocol::Dns && probe.name.is_none() {
        return Err(at("name", "missing: a dns probe needs the name to ask for".into()));
    }
    if let Some(name) = probe.name.as_ref().filter(|name| !scenario.services().names.contains_key(*name)) {
        return Err(at("name", format!("{name:?} is no name of a pod or host: list it under its names")));
    }
    if scenario.probe_addresses(probe, from, to).is_none() {
        return Err(at("family", format!("{} and {} have no address of one family", probe.from, probe.to)));
    }
    Ok(())
}

fn ports(path: &str, probe: &Probe) -> Result<(), InputError> {
    let at = |field: &str, message: &str| Err(InputError::new(format!("{path}.{field}"), message));
    let has_port = matches!(probe.protocol, ProbeProtocol::Tcp | ProbeProtocol::Udp);
    let icmp = matches!(probe.protocol, ProbeProtocol::Icmp | ProbeProtocol::Icmpv6);
    match probe.port {
        None if has_port => return at("port", "missing: tcp and udp probes need the destination port"),
        Some(0) => return at("port", "0 is not a port a server listens on: expected 1 to 65535"),
        Some(_) if !has_port => return at("port", "only tcp and udp probes have a port"),
        _ => {}
    }
    if !icmp && (probe.icmp_type.is_some() || probe.icmp_code.is_some()) {
        return at("type", "only icmp and icmpv6 probes have a type and a code");
    }
    Ok(())
}

fn service(protocol: ProbeProtocol) -> Option<Endpoint> {
    match protocol {
        ProbeProtocol::Dns => Some(Endpoint::Resolver),
        ProbeProtocol::Http => Some(Endpoint::Imds),
        _ => None,
    }
}

impl Scenario {
    /// Source and destination address of a probe: of the family it names or implies, else IPv4 before IPv6.
    pub(crate) fn probe_addresses(
        &self,
        probe: &Probe,
        from: Endpoint,
        to: Endpoint,
    ) -> Option<(IpAddr, IpAddr)> {
        let families: &[Family] = match (probe.protocol, probe.family) {
            (ProbeProtocol::Icmp, None | Some(Family::V4)) | (_, Some(Family::V4)) => &[Family::V4],
            (ProbeProtocol::Icmpv6, None | Some(Family::V6)) | (_, Some(Family::V6)) => &[Family::V6],
            (_, None) => &[Family::V4, Family::V6],
        };
        families.iter().find_map(|family| Some((self.address(from, *family)?, self.address(to, *family)?)))
    }
}

fn mtu(field: &str, mtu: Option<u32>) -> Result<(), InputError> {
    match mtu.filter(|mtu| !MTU_RANGE.contains(mtu)) {
        Some(mtu) => Err(InputError::new(field, format!("{mtu} is out of range: expected 1280 to 9001"))),
        None => Ok(()),
    }
}

fn plain_name(field: &str, name: &str) -> Result<(), InputError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 || !name.chars().all(plain) {
        return Err(InputError::new(
            field,
            format!("{name:?}: expected lower-case letters, digits and -, at most 40"),
        ));
    }
    if ["node", "vpc", "resolver", "imds"].contains(&name) {
        return Err(InputError::new(field, format!("{name:?} is taken: the lab has one of its own")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
name: small
vpc: {cidrs: [10.0.0.0/16]}
subnets:
  - {name: nodes, cidrs: [10.0.0.0/24]}
  - {name: pods, cidrs: [10.0.1.0/24]}
node: {subnet: nodes, addresses: [10.0.0.10]}
hosts:
  - {name: db, subnet: nodes, addresses: [10.0.0.20]}
pods:
  - {name: a/web, subnet: pods, addresses: [10.0.1.10], securityGroups: [sg-1]}
  - {name: b/web, subnet: pods, addresses: [10.0.1.11], securityGroups: [sg-1]}
securityGroups:
  - groupId: sg-1
    rules: [{SecurityGroupRuleId: sgr-1, IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIpv4: 0.0.0.0/0}]
probes:
  - {from: a/web, to: db, protocol: tcp, port: 5432, expect: deny}
";

    #[test]
    fn refusals_name_the_field_and_the_fix() {
        Scenario::parse(SMALL).unwrap();
        for (from, to, field, wanted) in [
            ("to: db,", "to: dbx,", "probes[0].to", "expected one of a/web, b/web, db, node"),
            ("from: a/web", "from: web", "probes[0].from", "may be a/web or b/web"),
            ("port: 5432, ", "", "probes[0].port", "missing"),
            ("protocol: tcp, port: 5432", "protocol: tpc", "probes[0].protocol", "expected tcp, udp"),
            ("protocol: tcp, port: 5432", "protocol: icmpv6", "probes[0].family", "no address of one family"),
            ("protocol: tcp, port: 5432", "protocol: dns", "probes[0].to", "go to resolver"),
            ("expect: deny", "expect: maybe", "probes[0].expect", "maybe"),
            ("[10.0.1.11]", "[10.0.1.10]", "pods[1].addresses[0]", "belongs to pod a/web"),
            ("[10.0.1.11]", "[10.0.2.11]", "pods[1].addresses[0]", "not in subnet \"pods\""),
            ("[10.0.1.11]", "[10.0.1.1]", "pods[1].addresses[0]", "reserved"),
            ("subnet: pods", "subnet: pod", "pods[0].subnet", "expected one of nodes, pods"),
            ("securityGroups: [sg-1]", "securityGroups: [sg-2]", "pods[0].securityGroups[0]", "sg-2"),
            ("FromPort: 80", "FromPort: 81", "securityGroups[0].rules[0]", "reversed"),
            ("name: db", "name: node", "hosts[0].name", "taken"),
            ("name: small", "nmae: small", "nmae", "unknown field"),
            ("[10.0.0.0/16]", "['fd00::/56']", "vpc.cidrs", "no IPv4 block"),
        ] {
            assert!(SMALL.contains(from), "{from}");
            let error = Scenario::parse(&SMALL.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.message.contains(wanted), "{error}");
        }
    }
}
