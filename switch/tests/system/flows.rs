//! Flows with the real kernel: connections that close, end and open in every way, errors about them, fragments,
//! restarts under traffic, and a flood beside them.
//!
//! The rules here are for the VPC's prefixes and not for every address: EC2 tracks such flows.

use espalier_api::flows::{Flow, FlowCount, FlowPage, FlowState};
use espalier_api::{Direction, RuleId};
use espalier_lab::Scenario;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::request::send;
use crate::site::{FAR, OPEN, POD_A, POD_B, Site};

mod errors;
mod expiry;
mod extensions;
mod filter;
mod flood;
mod fragments;
mod log;
mod restart;
mod shadow;
mod tcp;

/// The IPv6 addresses in [`OPEN`].
const POD_A6: &str = "2001:db8:1:1::10";
const POD_B6: &str = "2001:db8:1:1::11";
const FAR6: &str = "2001:db8:1:2::20";

/// Who speaks to whom: out of the node, into it, and inside it, in both families.
pub(crate) const WAYS: [(&str, &str, &str); 6] = [
    ("t/a", "far", FAR),
    ("far", "t/a", POD_A),
    ("t/a", "t/b", POD_B),
    ("t/a", "far", FAR6),
    ("far", "t/a", POD_A6),
    ("t/a", "t/b", POD_B6),
];

/// A socket's address as text.
pub(crate) fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The places of [`OPEN`] under these rules, each with the prefixes of the VPC added.
fn scenario(rules: &[&str]) -> Scenario {
    let mut text = OPEN.split_once("      - {SecurityGroupRuleId").unwrap().0.to_owned();
    for (index, rule) in rules.iter().enumerate() {
        for (family, cidr) in [("CidrIpv4: 10.0.0.0/8", 4), ("CidrIpv6: '2001:db8:1::/56'", 6)] {
            text += &format!("      - {{SecurityGroupRuleId: sgr-{index}-{cidr}, {rule}, {family}}}\n");
        }
    }
    Scenario::parse(&text).unwrap()
}

/// Everything inside the VPC, both ways.
const OUT: &str = "IsEgress: true, IpProtocol: '-1'";
const IN: &str = "IpProtocol: '-1'";

fn ask<T: DeserializeOwned>(site: &Site, call: &str, body: &Value) -> T {
    let body = serde_json::to_vec(body).unwrap();
    let head = format!("POST /v1/flows{call} HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n", body.len());
    let reply = send(site.control().socket(), &head, &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_value(reply.body).unwrap()
}

/// How many flows fit the filter.
pub(crate) fn count(site: &Site, filter: &Value) -> FlowCount {
    ask(site, "/count", filter)
}

/// The flows that fit the filter.
fn list(site: &Site, filter: &Value) -> Vec<Flow> {
    let mut flows = Vec::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let page: FlowPage = ask(site, "", &json!({"filter": filter, "cursor": at}));
        flows.extend(page.flows);
        cursor = page.next;
    }
    flows
}

/// Pod, direction of the first packet and state of each flow with this port.
fn seen(site: &Site, port: u16) -> Vec<(String, Direction, FlowState)> {
    let flows = list(site, &json!({"port": port})).into_iter();
    let mut seen: Vec<_> = flows.map(|flow| (flow.pod.to_string(), flow.direction, flow.state)).collect();
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    seen
}

/// Whether there are flows with this port, all in this state.
fn all_in(site: &Site, port: u16, state: FlowState) -> bool {
    let seen = seen(site, port);
    !seen.is_empty() && seen.iter().all(|flow| flow.2 == state)
}

/// Bytes that tell their place, and one datagram from another.
pub(crate) fn marked(length: usize, mark: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(mark * 97) >> 7) as u8).collect()
}

/// What the switch that runs now has logged.
fn log_of(site: &Site) -> String {
    std::fs::read_to_string(site.control().socket().with_file_name("switch.log")).unwrap_or_default()
}

/// Takes the rule out of the snapshot.
fn without(snapshot: &mut espalier_api::Snapshot, id: &str) {
    let id: RuleId = id.parse().unwrap();
    let rules = &mut snapshot.security_groups[0].rules;
    let before = rules.len();
    rules.retain(|rule| rule.id.as_ref() != Some(&id));
    assert_eq!(rules.len(), before - 1);
}
