//! The shipped scenarios against the real switch: every probe as expected, every packet accounted for, nothing left.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/with_switch.rs"]
mod with_switch;

use espalier_lab::topology::PodWiring;
use espalier_lab::{Options, Report, Scenario};
use with_switch::{settled, up, up_with};

#[track_caller]
fn assert_as_expected(report: &Report) {
    assert!(report.is_success(), "\n{}", report.table(false));
    assert_eq!(report.passed, report.probes.len());
}

fn run(tag: &str, scenario: &str) {
    let lab = up(tag, scenario, None, &[]);
    settled(&lab);
    assert_as_expected(&lab.run_probes().unwrap());
    let status = settled(&lab);
    assert!(status.counters.dropped.contains_key("denied-egress"), "{:?}", status.counters);
    lab.remove().unwrap();
}

#[test]
fn rds() {
    run("a", "rds");
}

#[test]
fn stars() {
    run("b", "stars");
}

#[test]
fn rules_tour() {
    run("c", "rules-tour");
}

#[test]
fn dual_stack() {
    run("d", "dual-stack");
}

/// A file as a user writes it: the node itself as an end, ICMP errors, a chosen VLAN, pods wired as the CNI does it.
const OWN: &str = "
name: own
vpc: {cidrs: [172.31.0.0/16]}
subnets:
  - {name: nodes, cidrs: [172.31.0.0/20]}
  - {name: pods, cidrs: [172.31.16.0/20]}
node: {subnet: nodes, addresses: [172.31.0.10]}
hosts:
  # In the pods' own subnet: reached through the gateway like everything else.
  - {name: neighbour, subnet: pods, addresses: [172.31.16.200], mtu: 1400}
pods:
  - {name: kube-system/agent, subnet: pods, addresses: [172.31.16.10], securityGroups: [sg-agent], vlan: 4094, names: [agent.example]}
securityGroups:
  - groupId: sg-agent
    rules:
      - {SecurityGroupRuleId: sgr-kubelet, IpProtocol: tcp, FromPort: 10250, ToPort: 10250, CidrIpv4: 172.31.0.10/32}
      - {SecurityGroupRuleId: sgr-too-big, IpProtocol: icmp, FromPort: 3, ToPort: 4, CidrIpv4: 172.31.16.0/20}
      - {SecurityGroupRuleId: sgr-api, IsEgress: true, IpProtocol: tcp, FromPort: 6443, ToPort: 6443, CidrIpv4: 172.31.0.0/20}
probes:
  - {from: node, to: agent, protocol: tcp, port: 10250, name: agent.example, expect: allow, rule: sgr-kubelet}
  - {from: node, to: agent, protocol: tcp, port: 10251, expect: deny}
  - {from: neighbour, to: agent, protocol: tcp, port: 10250, expect: deny}
  - {from: agent, to: node, protocol: tcp, port: 6443, expect: allow, rule: sgr-api}
  - {from: agent, to: node, protocol: tcp, port: 6444, expect: deny}
  - {from: agent, to: neighbour, protocol: tcp, port: 6443, expect: deny}
  - {from: neighbour, to: agent, protocol: icmp, type: 3, code: 4, expect: allow, rule: sgr-too-big}
  - {from: neighbour, to: agent, protocol: icmp, type: 3, code: 3, expect: deny}
  - {from: agent, to: imds, protocol: http, expect: allow}
";

#[test]
fn a_users_own_scenario_runs_with_pods_wired_as_the_cni_does() {
    let wiring = PodWiring { static_neighbours: true };
    let lab = up_with("i", Scenario::parse(OWN).unwrap(), Options { wiring, ..Options::default() });
    let neighbours = lab.namespace("agent").unwrap().ip_show("neigh show").unwrap();
    assert!(neighbours.contains("169.254.1.1") && neighbours.contains("PERMANENT"), "{neighbours}");
    assert_as_expected(&lab.run_probes().unwrap());
    settled(&lab);
    lab.remove().unwrap();
}
