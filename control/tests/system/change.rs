//! What one changed member costs the agent on a large node: 250 pods, 1,000 groups, 60,000 rules, 100,000 members.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use espalier_api::{Generation, GroupId, SecurityGroup};
use espalier_control::cluster::{Branch, Cluster, PodClass, PodFacts};
use espalier_control::desired::{
    Draft, GroupSource, Inputs, Places, PodPorts, Rules, Unprotected, desired, wanted,
};
use espalier_control::facts::{Facts, InterfaceFacts};
use espalier_control::push::Encoder;
use serde_json::json;

const PODS: usize = 250;
const GROUPS_PER_POD: usize = 4;
const RULES: usize = 60;
const MEMBERS: usize = 100;

/// Generous: the machine may be busy with other tests. docs/PERFORMANCE.md has the figure of a quiet one.
const MOST: Duration = Duration::from_millis(250);

fn group(number: usize) -> GroupId {
    format!("sg-{number:017x}").parse().unwrap()
}

fn cluster() -> Cluster {
    let pods = (0..PODS).map(|index| {
        let branch = json!([{"eniId": format!("eni-{index}"), "ifAddress": format!("06:00:00:00:00:{index:02x}"),
            "privateIp": format!("10.0.1.{index}"), "vlanId": index + 1, "subnetCidr": "10.0.0.0/16"}]);
        let pod = PodFacts {
            name: format!("t/p{index}").parse().unwrap(),
            uid: format!("u{index}"),
            created: 0,
            labels: Default::default(),
            service_account: "default".into(),
            class: PodClass::Linux,
            terminating: false,
            finished: false,
            addresses: Vec::new(),
            branch: Some(Branch::parse(&branch.to_string())),
        };
        (pod.name.clone(), Arc::new(pod))
    });
    Cluster { pods: pods.collect(), synced: BTreeSet::from(["pods"]), ..Cluster::default() }
}

fn facts() -> Facts {
    let mut facts = Facts { complete: true, ..Facts::default() };
    for number in 0..PODS * GROUPS_PER_POD {
        let rules: Vec<_> = (0..RULES)
            .map(|rule| {
                json!({"SecurityGroupRuleId": format!("sgr-{number:08x}{rule:04x}"), "IpProtocol": "tcp", "FromPort": rule,
                    "ToPort": rule, "ReferencedGroupInfo": {"GroupId": group((number * 7 + rule) % 1000).as_str()}})
            })
            .collect();
        let known = SecurityGroup {
            group_id: group(number),
            group_name: None,
            description: None,
            vpc_id: None,
            audit: false,
            rules: serde_json::from_value(rules.into()).unwrap(),
        };
        facts.groups.insert(group(number), Arc::new(known));
        let members = (0..MEMBERS).map(|member| format!("10.{}.{}.{member}", number / 256, number % 256));
        facts
            .members
            .insert(group(number), Arc::new(members.map(|address| address.parse().unwrap()).collect()));
    }
    for index in 0..PODS {
        let groups = (0..GROUPS_PER_POD).map(|nth| group(index * GROUPS_PER_POD + nth)).collect();
        let interface = InterfaceFacts {
            vpc_id: None,
            subnet_id: None,
            subnets: Vec::new(),
            mac: None,
            groups,
            addresses: Vec::new(),
            connection_tracking: Default::default(),
        };
        facts.interfaces.insert(format!("eni-{index}").parse().unwrap(), Arc::new(interface));
    }
    facts
}

#[test]
fn a_changed_member_costs_little() {
    let rules = Rules {
        group_source: GroupSource::Eni,
        unprotected: Unprotected::Kernel,
        vpc_id: None,
        vpc_cidrs: Vec::new(),
        trunk_eni: None,
    };
    let places = Places { trunk: Ok("trunk0".into()), ports: PodPorts::Named("vlan".into()) };
    let (cluster, mut facts, mut encoder) = (cluster(), facts(), Encoder::default());
    let mut last: Option<Draft> = None;
    let mut times = Vec::new();
    for round in 0..50u8 {
        let members = Arc::make_mut(facts.members.get_mut(&group(500)).unwrap());
        members[0] = format!("10.99.0.{round}").parse().unwrap();
        let start = Instant::now();
        let previous = last.as_ref();
        black_box(wanted(&rules, &cluster, previous));
        let inputs = Inputs { rules: &rules, cluster: &cluster, facts: &facts, places: &places, previous };
        let draft = desired(&inputs).draft.unwrap();
        assert!(last.as_ref() != Some(&draft));
        let parts = encoder.encode(&draft, Generation(round.into())).unwrap();
        times.push(start.elapsed());
        assert_eq!((draft.pods.len(), draft.groups.len(), draft.members.len()), (250, 1000, 1000));
        black_box(parts);
        last = Some(draft);
    }
    let first = times.remove(0);
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("first snapshot {first:?}, a changed member {median:?} (worst {worst:?})");
    assert!(median < MOST, "{median:?}");
}
