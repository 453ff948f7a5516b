//! An EC2 API with a Region full of groups, which moto would take minutes to fill: fixed answers, real pages.
//!
//! Every pod has five groups; every group has sixty rules, a third of which refer to other groups; members are spread
//! evenly. Answers are made of pieces rendered once, so that a measurement is of the agent and not of this server.

use std::sync::Arc;

use hyper::StatusCode;

use super::server::{Server, answer};

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) pods: usize,
    pub(crate) groups: usize,
    pub(crate) rules_per_group: usize,
    /// Interfaces elsewhere, and the addresses each has.
    pub(crate) interfaces: usize,
    pub(crate) addresses: usize,
}

impl Size {
    /// 250 pods, 1,000 groups, 60,000 rules, 100,000 members.
    pub(crate) const LARGE: Self =
        Self { pods: 250, groups: 1000, rules_per_group: 60, interfaces: 12_500, addresses: 8 };
}

/// The server; it ends when dropped.
pub(crate) struct BigEc2 {
    server: Server,
}

struct Pieces {
    size: Size,
    groups: Vec<String>,
    rules: Vec<Vec<String>>,
    pods: Vec<String>,
    /// Interfaces by the group they have.
    members: Vec<Vec<String>>,
}

/// Groups of a pod.
const GROUPS_OF_A_POD: usize = 5;

pub(crate) fn group(index: usize) -> String {
    format!("sg-{index:017x}")
}

pub(crate) fn pod_interface(index: usize) -> String {
    format!("eni-{index:017x}")
}

impl BigEc2 {
    pub(crate) async fn start(size: Size) -> Self {
        let pieces = Arc::new(Pieces::new(size));
        let server = Server::start(move |request| {
            let pieces = Arc::clone(&pieces);
            async move {
                use http_body_util::BodyExt as _;
                let form = request.into_body().collect().await.expect("a whole request").to_bytes();
                let body = pieces.answer(&String::from_utf8_lossy(&form));
                answer(StatusCode::OK, "text/xml", body)
            }
        })
        .await;
        Self { server }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }
}

impl Pieces {
    fn new(size: Size) -> Self {
        let target = |g: usize, r: usize| match r % 3 {
            0 => (true, group((g * 7 + r * 13 + 1) % size.groups)),
            _ => (false, format!("10.{}.{}.{}/32", g % 200, r, g / 200)),
        };
        let port = |r: usize| 1000 + r;
        let groups = (0..size.groups).map(|g| {
            let permissions: String = (0..size.rules_per_group).map(|r| permission(port(r), &target(g, r))).collect();
            format!(
                "<item><ownerId>1</ownerId><groupId>{}</groupId><groupName>g{g}</groupName><groupDescription>x\
                 </groupDescription><vpcId>vpc-1</vpcId><ipPermissions>{permissions}</ipPermissions>\
                 <ipPermissionsEgress/></item>",
                group(g)
            )
        });
        let rules = (0..size.groups).map(|g| {
            (0..size.rules_per_group).map(|r| rule(g, r, port(r), &target(g, r))).collect::<Vec<_>>()
        });
        let pods = (0..size.pods).map(|pod| {
            let groups: Vec<_> =
                (0..GROUPS_OF_A_POD).map(|index| (pod * GROUPS_OF_A_POD + index) % size.groups).collect();
            let address = format!("172.16.{}.{}", pod / 200, 10 + pod % 200);
            interface(&pod_interface(pod), &[address], &groups)
        });
        let mut members = vec![Vec::new(); size.groups];
        for index in 0..size.interfaces {
            let addresses: Vec<_> = (0..size.addresses)
                .map(|a| index * size.addresses + a)
                .map(|n| format!("100.{}.{}.{}", 64 + n / 65_536, n / 256 % 256, n % 256))
                .collect();
            let of = index % size.groups;
            members[of].push(interface(&format!("eni-f{index:016x}"), &addresses, &[of]));
        }
        Self { size, groups: groups.collect(), rules: rules.collect(), pods: pods.collect(), members }
    }

    fn answer(&self, form: &str) -> String {
        let field = |name: &str| {
            let mut fields = form.split('&').filter_map(|field| field.split_once('='));
            fields.find(|field| field.0 == name).map_or("", |field| field.1)
        };
        let values: Vec<&str> = form
            .split('&')
            .filter_map(|field| field.split_once('='))
            .filter(|(name, _)| name.starts_with("Filter.1.Value."))
            .map(|field| field.1)
            .collect();
        let indices = |prefix: &str| {
            let number = |value: &&str| usize::from_str_radix(value.strip_prefix(prefix)?, 16).ok();
            values.iter().filter_map(number).collect::<Vec<_>>()
        };
        let groups = || indices("sg-").into_iter().filter(|index| *index < self.size.groups);
        let (element, items): (_, Vec<&String>) = match (field("Action"), field("Filter.1.Name")) {
            ("DescribeSecurityGroups", _) => {
                ("securityGroupInfo", groups().map(|g| &self.groups[g]).collect())
            }
            ("DescribeSecurityGroupRules", _) => {
                ("securityGroupRuleSet", groups().flat_map(|g| &self.rules[g]).collect())
            }
            ("DescribeNetworkInterfaces", "group-id") => {
                ("networkInterfaceSet", groups().flat_map(|g| &self.members[g]).collect())
            }
            ("DescribeNetworkInterfaces", _) => {
                let pods = indices("eni-").into_iter().filter(|index| *index < self.size.pods);
                ("networkInterfaceSet", pods.map(|pod| &self.pods[pod]).collect())
            }
            _ => ("nothing", Vec::new()),
        };
        let start: usize = field("NextToken").parse().unwrap_or(0);
        let end = items.len().min(start + field("MaxResults").parse().unwrap_or(1000));
        let token = if end < items.len() { format!("<nextToken>{end}</nextToken>") } else { String::new() };
        let shown: String = items[start..end].iter().map(|item| item.as_str()).collect();
        let action = field("Action");
        format!(
            "<{action}Response><requestId>1</requestId><{element}>{shown}</{element}>{token}</{action}Response>"
        )
    }
}

fn permission(port: usize, (is_group, target): &(bool, String)) -> String {
    let source = if *is_group {
        format!("<groups><item><userId>1</userId><groupId>{target}</groupId></item></groups><ipRanges/>")
    } else {
        format!("<groups/><ipRanges><item><cidrIp>{target}</cidrIp></item></ipRanges>")
    };
    format!(
        "<item><ipProtocol>tcp</ipProtocol><fromPort>{port}</fromPort><toPort>{port}</toPort>{source}<ipv6Ranges/>\
         <prefixListIds/></item>"
    )
}

fn rule(g: usize, r: usize, port: usize, (is_group, target): &(bool, String)) -> String {
    let source = if *is_group {
        format!("<referencedGroupInfo><groupId>{target}</groupId></referencedGroupInfo>")
    } else {
        format!("<cidrIpv4>{target}</cidrIpv4>")
    };
    format!(
        "<item><securityGroupRuleId>sgr-{:017x}</securityGroupRuleId><groupId>{}</groupId><isEgress>false</isEgress>\
         <ipProtocol>tcp</ipProtocol><fromPort>{port}</fromPort><toPort>{port}</toPort>{source}</item>",
        g * 1000 + r,
        group(g)
    )
}

fn interface(id: &str, addresses: &[String], groups: &[usize]) -> String {
    let groups: String =
        groups.iter().map(|g| format!("<item><groupId>{}</groupId></item>", group(*g))).collect();
    let set: String = addresses
        .iter()
        .map(|address| format!("<item><privateIpAddress>{address}</privateIpAddress></item>"))
        .collect();
    format!(
        "<item><networkInterfaceId>{id}</networkInterfaceId><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>\
         <macAddress>06:00:00:00:00:01</macAddress><privateIpAddress>{}</privateIpAddress>\
         <groupSet>{groups}</groupSet><privateIpAddressesSet>{set}</privateIpAddressesSet></item>",
        addresses[0]
    )
}
