//! Many pods, come one by one as on a node that fills up: each gets frames to receive into, and gives them back.

use std::fmt::Write as _;

use espalier_lab::Scenario;

use crate::site::{FAR, Site, wait_for};
use crate::traffic::{answers, udp_echo};

const PODS: usize = 40;

fn scenario() -> Scenario {
    let mut pods = String::new();
    for index in 0..PODS {
        let address = format!("10.0.4.{}", index + 10);
        writeln!(
            pods,
            "  - {{name: t/p{index}, subnet: pods, addresses: [{address}], securityGroups: [sg-open]}}"
        )
        .unwrap();
    }
    let text = format!(
        "
name: many
vpc: {{cidrs: [10.0.0.0/16]}}
subnets:
  - {{name: nodes, cidrs: [10.0.0.0/24]}}
  - {{name: pods, cidrs: [10.0.4.0/24]}}
  - {{name: data, cidrs: [10.0.2.0/24]}}
node: {{subnet: nodes, addresses: [10.0.0.10]}}
hosts:
  - {{name: far, subnet: data, addresses: [{FAR}]}}
pods:
{pods}
securityGroups:
  - groupId: sg-open
    rules:
      - {{SecurityGroupRuleId: sgr-out, IsEgress: true, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}}
      - {{SecurityGroupRuleId: sgr-in, IpProtocol: '-1', CidrIpv4: 0.0.0.0/0}}
"
    );
    Scenario::parse(&text).unwrap()
}

#[test]
fn pods_that_come_one_by_one_all_work_and_leave_no_frame_behind() {
    let mut site = Site::idle(scenario(), None, &[]);
    let all = std::mem::take(&mut site.snapshot.pods);
    site.apply_snapshot();
    let empty = site.assert_balanced().frames;
    for pod in &all {
        site.change(|snapshot| snapshot.pods.push(pod.clone()));
    }
    let frames = site.assert_balanced().frames;
    assert!(frames.free >= frames.total / 8, "nothing is left to send with: {frames:?}");
    let to = format!("{FAR}:7");
    let _echo = udp_echo(site.namespace("far").unwrap(), &to);
    for pod in &all {
        let namespace = site.namespace(pod.name.as_str()).unwrap();
        assert!(answers(namespace, "0.0.0.0:0", &to, b"one of many"), "{}", pod.name);
    }
    site.change(|snapshot| snapshot.pods.clear());
    assert!(wait_for(|| site.status().frames == empty), "{empty:?} {:?}", site.status().frames);
}
