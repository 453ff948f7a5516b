//! Properties of the desired state, and each kind of bad input by itself.

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::*;
use crate::cluster::{AUDIT_ANNOTATION, Labels, ObjectName, Policy};
use crate::facts::InterfaceFacts;
use espalier_api::{Generation, SecurityGroup};
use std::sync::Arc;

const NAMESPACES: [&str; 2] = ["x", "y"];
const APPS: [&str; 3] = ["web", "db", "none"];

/// A cluster's pieces, to be heard of in any order.
#[derive(Debug, Clone)]
enum Piece {
    Pod(Box<PodFacts>),
    Policy(Box<Policy>),
    ServiceAccount(ObjectName, Labels),
}

fn labels(app: &str) -> Labels {
    Labels::from([("app".to_owned(), app.to_owned())])
}

fn group(number: usize) -> GroupId {
    format!("sg-{number}").parse().unwrap()
}

/// Pods collide on VLANs and addresses now and then.
fn pod() -> impl Strategy<Value = PodFacts> {
    let branch = prop_oneof![4 => (1u16..12, 1u8..12).prop_map(Some), 1 => Just(None)];
    let place = (0..2usize, 0..5usize, 0..3usize, 0..2usize);
    (place, branch, 0i64..4, any::<bool>(), any::<bool>()).prop_map(
        |((namespace, name, app, account), branch, created, terminating, finished)| PodFacts {
            name: format!("{}/p{name}", NAMESPACES[namespace]).parse().unwrap(),
            uid: format!("u-{namespace}-{name}"),
            created,
            labels: labels(APPS[app]),
            service_account: format!("account{account}"),
            class: PodClass::Linux,
            terminating,
            finished: finished && terminating,
            addresses: Vec::new(),
            branch: branch.map(|(vlan, host)| {
                let text = format!(
                    r#"[{{"eniId":"eni-{vlan}","ifAddress":"06:00:00:00:00:{vlan:02x}","privateIp":"10.0.1.{}","vlanId":{vlan},
                    "subnetCidr":"10.0.1.0/24"}}]"#,
                    host + 10
                );
                Branch::parse(&text)
            }),
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let groups = subsequence((0..6usize).collect::<Vec<_>>(), 1..4);
    (0..2usize, 0..4usize, 0..4usize, any::<bool>(), groups).prop_map(|(namespace, name, app, by_account, groups)| {
        let selector = match APPS.get(app) {
            Some(app) => serde_json::json!({"matchLabels": {"app": app}}),
            None => serde_json::json!({}),
        };
        let mut spec = serde_json::json!({"securityGroups": {
            // Groups 0 to 2 are of one namespace, 3 to 5 of the other.
            "groupIds": groups.iter().map(|number| format!("sg-{}", number % 3 + namespace * 3)).collect::<Vec<_>>()}});
        spec["podSelector"] = selector;
        if by_account {
            spec["serviceAccountSelector"] = serde_json::json!({"matchLabels": {"app": "web"}});
        }
        let object = serde_json::json!({
            "metadata": {"namespace": NAMESPACES[namespace], "name": format!("policy{name}")}, "spec": spec});
        Policy::new(&serde_json::from_value(object).unwrap())
    })
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let pods = prop::collection::vec(pod().prop_map(|pod| Piece::Pod(Box::new(pod))), 0..8);
    let policies = prop::collection::vec(policy().prop_map(|policy| Piece::Policy(Box::new(policy))), 0..6);
    (pods, policies, 0..3usize).prop_map(|(pods, policies, app)| {
        let accounts = (0..2).flat_map(|account| {
            NAMESPACES.map(|namespace| {
                let name = ObjectName { namespace: namespace.into(), name: format!("account{account}") };
                Piece::ServiceAccount(name, labels(APPS[(app + account) % 3]))
            })
        });
        let mut pieces: Vec<Piece> = accounts.chain(pods).chain(policies).collect();
        // Of two of one name the first counts, in whatever order they are heard of.
        let mut seen = BTreeSet::new();
        pieces.retain(|piece| seen.insert(name(piece)));
        pieces
    })
}

fn name(piece: &Piece) -> String {
    match piece {
        Piece::Pod(pod) => format!("pod {}", pod.name),
        Piece::Policy(policy) => format!("policy {}", policy.name),
        Piece::ServiceAccount(name, _) => format!("account {name}"),
    }
}

fn cluster() -> Cluster {
    Cluster {
        synced: BTreeSet::from(["pods", "securitygrouppolicies", "serviceaccounts", "namespaces"]),
        ..Cluster::default()
    }
}

fn hear(cluster: &mut Cluster, piece: &Piece) {
    match piece.clone() {
        Piece::Pod(pod) => drop(cluster.pods.insert(pod.name.clone(), Arc::new(*pod))),
        Piece::Policy(policy) => drop(cluster.policies.insert(policy.name.clone(), Arc::new(*policy))),
        Piece::ServiceAccount(name, labels) => drop(cluster.service_accounts.insert(name, Arc::new(labels))),
    }
}

/// Facts in which every interface exists, and every group but those in `absent`.
fn facts(absent: &[usize]) -> Facts {
    let mut facts =
        Facts { complete: true, vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()], ..Facts::default() };
    for number in 0..6 {
        let group_id = group(number);
        if absent.contains(&number) {
            facts.absent_groups.insert(group_id);
            continue;
        }
        let rules = serde_json::json!([{"SecurityGroupRuleId": format!("sgr-{number}"), "IpProtocol": "tcp", "FromPort": 1,
            "ToPort": 1, "ReferencedGroupInfo": {"GroupId": "sg-9"}}]);
        let rules = serde_json::from_value(rules).unwrap();
        let known = SecurityGroup {
            group_id: group_id.clone(),
            group_name: None,
            description: None,
            vpc_id: None,
            audit: false,
            rules,
        };
        facts.groups.insert(group_id, Arc::new(known));
    }
    facts.members.insert("sg-9".parse().unwrap(), Arc::new(vec!["10.0.9.1".parse().unwrap()]));
    for vlan in 1..12 {
        let interface = InterfaceFacts {
            vpc_id: None,
            subnet_id: None,
            subnets: Vec::new(),
            mac: None,
            groups: vec![group(vlan % 6)],
            addresses: Vec::new(),
            connection_tracking: ConnectionTracking::default(),
        };
        facts.interfaces.insert(format!("eni-{vlan}").parse().unwrap(), Arc::new(interface));
    }
    facts
}

fn rules(group_source: GroupSource) -> Rules {
    Rules {
        group_source,
        unprotected: Unprotected::Kernel,
        vpc_id: None,
        vpc_cidrs: Vec::new(),
        trunk_eni: None,
    }
}

fn run(source: GroupSource, cluster: &Cluster, facts: &Facts, previous: Option<&Draft>) -> Desired {
    let places = Places { trunk: Ok("trunk0".into()), ports: PodPorts::Named("vlan".into()) };
    desired(&Inputs { rules: &rules(source), cluster, facts, places: &places, previous })
}

fn source() -> impl Strategy<Value = GroupSource> {
    prop_oneof![Just(GroupSource::Eni), Just(GroupSource::Policy)]
}

proptest! {
    #[test]
    fn the_order_of_events_does_not_matter(
        pieces in pieces(),
        order in prop::collection::vec(any::<Index>(), 24),
        absent in subsequence((0..6usize).collect::<Vec<_>>(), 0..3),
        source in source(),
    ) {
        let facts = facts(&absent);
        let mut all = cluster();
        pieces.iter().for_each(|piece| hear(&mut all, piece));
        let at_once = run(source, &all, &facts, None);

        let mut waiting = pieces;
        let mut heard = cluster();
        let mut last: Option<Draft> = None;
        for index in order.iter().cycle() {
            if waiting.is_empty() {
                break;
            }
            let piece = waiting.swap_remove(index.index(waiting.len()));
            hear(&mut heard, &piece);
            last = run(source, &heard, &facts, last.as_ref()).draft;
        }
        prop_assert_eq!(run(source, &heard, &facts, last.as_ref()), at_once);
    }

    #[test]
    fn a_draft_is_a_valid_snapshot_and_no_pod_gets_groups_of_another_namespace(
        pieces in pieces(),
        absent in subsequence((0..6usize).collect::<Vec<_>>(), 0..4),
    ) {
        let mut cluster = cluster();
        pieces.iter().for_each(|piece| hear(&mut cluster, piece));
        let desired = run(GroupSource::Policy, &cluster, &facts(&absent), None);
        let draft = desired.draft.unwrap();
        let snapshot = draft.to_snapshot(Generation(1)).unwrap();
        prop_assert!(snapshot.validate().is_ok(), "{:?}", snapshot.validate());
        for pod in draft.pods.values() {
            let account = ObjectName {
                namespace: pod.name.namespace().to_owned(),
                name: cluster.pods[&pod.name].service_account.clone(),
            };
            let account = cluster.service_accounts.get(&account).map(AsRef::as_ref);
            let own = cluster.policies.values().filter(|policy| {
                policy.name.namespace == pod.name.namespace()
                    && policy.selects(&cluster.pods[&pod.name].labels, account) == Some(true)
            });
            let given: BTreeSet<&GroupId> = own.flat_map(|policy| &policy.groups).collect();
            let has: BTreeSet<&GroupId> = pod.security_groups.iter().collect();
            if given.is_empty() {
                prop_assert_eq!(has.len(), 1, "the branch's own");
            } else {
                prop_assert_eq!(has, given, "exactly the union");
            }
        }
        for group in &absent {
            let group = self::group(*group);
            if let Some(entry) = draft.groups.get(&group) {
                prop_assert!(entry.rules.is_empty());
                let named = desired.problems.iter().any(|problem| {
                    problem.reason == ProblemReason::GroupUnknown && problem.subject == group.as_str()
                });
                prop_assert!(named);
            }
        }
        for (id, known) in &draft.groups {
            prop_assert!(absent.iter().any(|number| group(*number) == *id) || !known.rules.is_empty());
        }
    }
}

/// One pod, `x/p`, with this annotation.
fn with(annotation: &str) -> Cluster {
    let mut cluster = cluster();
    let pod = PodFacts {
        name: "x/p".parse().unwrap(),
        uid: "u".into(),
        created: 0,
        labels: labels("web"),
        service_account: "default".into(),
        class: PodClass::Linux,
        terminating: false,
        finished: false,
        addresses: vec!["10.0.1.20".parse().unwrap()],
        branch: (!annotation.is_empty()).then(|| Branch::parse(annotation)),
    };
    cluster.pods.insert(pod.name.clone(), Arc::new(pod));
    cluster
}

const GOOD: &str = r#"[{"eniId":"eni-1","ifAddress":"06:00:00:00:00:01","privateIp":"10.0.1.20","vlanId":1,
    "subnetCidr":"10.0.1.0/24"}]"#;

fn add_policy(cluster: &mut Cluster, spec: serde_json::Value) {
    add_object(cluster, serde_json::json!({"metadata": {"namespace": "x", "name": "policy"}, "spec": spec}));
}

fn add_object(cluster: &mut Cluster, object: serde_json::Value) {
    let policy = Policy::new(&serde_json::from_value(object).unwrap());
    cluster.policies.insert(policy.name.clone(), Arc::new(policy));
}

fn reasons(desired: &Desired) -> Vec<ProblemReason> {
    desired.problems.iter().map(|problem| problem.reason).collect()
}

#[test]
fn a_garbled_annotation_is_named_and_what_was_enforced_stays() {
    let facts = facts(&[]);
    let before = run(GroupSource::Eni, &with(GOOD), &facts, None);
    assert_eq!(before.pods[0].state, AgentPodState::Sent);
    for bad in ["{", "[]", &GOOD.replace("\"vlanId\":1", "\"vlanId\":4095")] {
        let fresh = run(GroupSource::Eni, &with(bad), &facts, None);
        assert_eq!(reasons(&fresh), [ProblemReason::AnnotationMalformed]);
        assert!(fresh.draft.unwrap().pods.is_empty());
        let after = run(GroupSource::Eni, &with(bad), &facts, before.draft.as_ref());
        assert_eq!(after.draft, before.draft, "{bad}");
        assert!(after.pods[0].reason.as_ref().unwrap().contains("stays"), "{:?}", after.pods);
    }
}

#[test]
fn of_two_pods_with_one_branch_the_older_keeps_it() {
    let mut cluster = with(GOOD);
    let older = cluster.pods.values().next().unwrap().as_ref().clone();
    let younger = PodFacts { name: "x/a".parse().unwrap(), uid: "v".into(), created: 5, ..older };
    cluster.pods.insert(younger.name.clone(), Arc::new(younger));
    let desired = run(GroupSource::Eni, &cluster, &facts(&[]), None);
    let draft = desired.draft.as_ref().unwrap();
    assert_eq!(draft.pods.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x/p"]);
    assert_eq!(reasons(&desired), [ProblemReason::BranchConflict]);
}

#[test]
fn a_pod_waits_for_facts_and_a_running_one_keeps_what_it_has_meanwhile() {
    let mut cluster = with(GOOD);
    add_policy(
        &mut cluster,
        serde_json::json!({"podSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}),
    );
    let before = run(GroupSource::Policy, &cluster, &facts(&[]), None);
    add_policy(
        &mut cluster,
        serde_json::json!({"podSelector": {}, "securityGroups": {"groupIds": ["sg-2", "sg-77"]}}),
    );
    let fresh = run(GroupSource::Policy, &cluster, &facts(&[]), None);
    assert!(fresh.draft.is_none() && fresh.pending);
    let fresh = run(GroupSource::Policy, &cluster, &facts(&[]), Some(&Draft::default()));
    assert!(fresh.draft.unwrap().pods.is_empty());
    let during = run(GroupSource::Policy, &cluster, &facts(&[]), before.draft.as_ref());
    assert_eq!(during.draft, before.draft);
    assert_eq!(reasons(&during), [ProblemReason::Waiting]);
    // It does not exist: the other group is enforced.
    let mut known = facts(&[]);
    known.absent_groups.insert("sg-77".parse().unwrap());
    let after = run(GroupSource::Policy, &cluster, &known, before.draft.as_ref());
    let draft = after.draft.as_ref().unwrap();
    assert_eq!(after.pods[0].state, AgentPodState::Partial);
    assert!(draft.groups[&"sg-77".parse().unwrap()].rules.is_empty());
    assert!(!draft.groups[&group(2)].rules.is_empty());
}

#[test]
fn without_ec2_the_last_known_rules_serve_and_new_pods_wait() {
    let before = run(GroupSource::Eni, &with(GOOD), &facts(&[]), None);
    let mut dark = Facts::default();
    dark.failed_interfaces.insert("eni-1".parse().unwrap());
    let after = run(GroupSource::Eni, &with(GOOD), &dark, before.draft.as_ref());
    assert_eq!(after.draft.unwrap(), before.draft.unwrap());
    dark.complete = true;
    assert!(run(GroupSource::Eni, &with(GOOD), &dark, None).draft.unwrap().pods.is_empty());
}

#[test]
fn a_pod_that_should_have_groups_and_has_none_is_reported_and_denied_where_set() {
    let mut cluster = with("");
    assert!(run(GroupSource::Eni, &cluster, &facts(&[]), None).pods.is_empty());
    add_policy(
        &mut cluster,
        serde_json::json!({"podSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}),
    );
    for (setting, state) in [
        (None, AgentPodState::Kernel),
        (Some("deny"), AgentPodState::Denied),
        (Some("dny"), AgentPodState::Denied),
    ] {
        let annotations = setting.map(|setting| (UNPROTECTED_ANNOTATION.to_owned(), setting.to_owned()));
        cluster.namespaces.insert("x".into(), Arc::new(annotations.into_iter().collect()));
        let desired = run(GroupSource::Eni, &cluster, &facts(&[]), None);
        assert_eq!(desired.pods[0].state, state);
        assert!(reasons(&desired).contains(&ProblemReason::BranchMissing));
        let draft = desired.draft.unwrap();
        assert!(draft.to_snapshot(Generation(1)).unwrap().validate().is_ok());
        let denied: Vec<_> =
            draft.pods.values().map(|pod| (pod.vlan.get(), pod.security_groups[0].as_str())).collect();
        assert_eq!(denied, if state == AgentPodState::Denied { vec![(4094, "sg-denied")] } else { vec![] });
        assert!(draft.groups.values().all(|group| group.rules.is_empty()));
    }
}

#[test]
fn a_pod_is_in_audit_mode_where_all_its_policies_say_so() {
    for source in [GroupSource::Eni, GroupSource::Policy] {
        for (policies, audit) in
            [(&[][..], false), (&["true"], true), (&["true", "true"], true), (&["true", "false"], false)]
        {
            let mut cluster = with(GOOD);
            for (index, text) in policies.iter().enumerate() {
                add_object(
                    &mut cluster,
                    serde_json::json!({
                        "metadata": {"namespace": "x", "name": format!("policy{index}"),
                            "annotations": {AUDIT_ANNOTATION: text}},
                        "spec": {"podSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}}),
                );
            }
            let desired = run(source, &cluster, &facts(&[]), None);
            assert_eq!(
                desired.draft.unwrap().pods[&"x/p".parse().unwrap()].audit,
                audit,
                "{source:?} {policies:?}"
            );
            let reason = desired.pods[0].reason.as_deref().unwrap_or_default();
            assert_eq!(reason.starts_with("audit mode"), audit, "{reason}");
        }
    }
}

#[test]
fn a_service_account_that_does_not_exist_holds_the_pods_that_ask_for_it() {
    let mut cluster = with(GOOD);
    add_policy(
        &mut cluster,
        serde_json::json!({"serviceAccountSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}),
    );
    let desired = run(GroupSource::Policy, &cluster, &facts(&[]), None);
    assert!(reasons(&desired).contains(&ProblemReason::ServiceAccountMissing));
    assert!(desired.draft.unwrap().pods.is_empty());
}

#[test]
fn rules_with_an_unknown_prefix_list_allow_nothing_and_the_others_stay() {
    let mut known = facts(&[]);
    let mut group = known.groups[&group(1)].as_ref().clone();
    let rule = serde_json::json!({"IpProtocol": "-1", "PrefixListId": "pl-1"});
    group.rules.push(serde_json::from_value(rule).unwrap());
    known.groups.insert(group.group_id.clone(), Arc::new(group.clone()));
    let desired = run(GroupSource::Eni, &with(GOOD), &known, None);
    assert_eq!(reasons(&desired), [ProblemReason::PrefixListUnknown]);
    let draft = desired.draft.unwrap();
    assert_eq!(draft.groups[&group.group_id].rules, group.rules[..1]);
    assert!(draft.to_snapshot(Generation(1)).unwrap().validate().is_ok());
}

#[test]
fn nothing_is_desired_before_pods_policies_and_trunk_are_known() {
    let places = |trunk| Places { trunk, ports: PodPorts::Named("vlan".into()) };
    let none = |cluster: &Cluster, source, places: &Places| {
        let rules = rules(source);
        let inputs = Inputs { rules: &rules, cluster, facts: &facts(&[]), places, previous: None };
        desired(&inputs)
    };
    let good = places(Ok("trunk0".into()));
    assert!(none(&Cluster::default(), GroupSource::Eni, &good).draft.is_none());
    let pods_only = Cluster { synced: BTreeSet::from(["pods"]), ..Cluster::default() };
    assert!(none(&pods_only, GroupSource::Policy, &good).draft.is_none());
    assert!(none(&pods_only, GroupSource::Eni, &good).draft.is_some());
    let lost = none(&pods_only, GroupSource::Eni, &places(Err("no such interface".into())));
    assert!(lost.draft.is_none() && reasons(&lost) == [ProblemReason::TrunkMissing]);
}
