//! How often EC2 is asked, and for what: exact numbers of calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use espalier_control::ec2::{Action, Polling};

use super::world::{
    BRISK, ONCE, World, from_cidr, from_group, from_list, groups, interfaces, members, rules,
};

fn counts(calls: &[(&str, usize)]) -> BTreeMap<String, usize> {
    calls.iter().map(|(action, count)| ((*action).to_owned(), *count)).collect()
}

#[tokio::test]
async fn the_first_poll_asks_for_each_kind_once_and_a_new_wish_only_for_what_is_new() {
    let world = World::new().await;
    let (web, db, _) = world.referring().await;
    let new = world.group("new").await;
    world.allow(&new, from_group(5432, &db)).await;
    let pod = world.interface("10.0.1.10", &[&web]).await;
    let second = world.interface("10.0.1.11", &[&web]).await;
    let mut wanted = interfaces([&pod]);
    wanted.instance_type = Some("m5.large".to_owned());
    let mut source = world.start(ONCE, wanted);
    let facts = source.settled().await;
    assert_eq!(
        world.proxy.take_calls(),
        counts(&[
            // The pod's interface, then the members of the group that is referred to.
            ("DescribeNetworkInterfaces", 2),
            ("DescribeSecurityGroups", 1),
            ("DescribeSecurityGroupRules", 1),
            ("DescribeManagedPrefixLists", 1),
            ("GetManagedPrefixListEntries", 1),
            ("DescribeSubnets", 1),
            ("DescribeVpcs", 1),
            ("DescribeInstanceTypes", 1),
        ])
    );
    assert_eq!(facts.requests.unwrap().total, 9);
    assert_eq!(facts.requests.unwrap().last_minute, 9);

    source.want(|wanted| wanted.interfaces.insert(second.clone()));
    source.until("the second pod", |facts| facts.interfaces.contains_key(&second)).await;
    assert_eq!(world.proxy.take_calls(), counts(&[("DescribeNetworkInterfaces", 1)]));
    source.want(|wanted| wanted.groups.insert(new.clone()));
    source.until("the new group", |facts| rules(facts, &new).is_some()).await;
    assert_eq!(
        world.proxy.take_calls(),
        counts(&[("DescribeSecurityGroups", 1), ("DescribeSecurityGroupRules", 1)]),
        "its reference is known already"
    );
    source.want(|wanted| wanted.interfaces.remove(&second));
    source.until("one pod less", |facts| !facts.interfaces.contains_key(&second)).await;
    assert_eq!(world.proxy.take_calls(), counts(&[]));
}

#[tokio::test]
async fn while_nothing_changes_only_what_has_no_version_is_read() {
    let world = World::new().await;
    let (web, _, _) = world.referring().await;
    let pod = world.interface("10.0.1.10", &[&web]).await;
    let mut source = world.start(BRISK, interfaces([&pod]));
    source.settled().await;
    world.proxy.take_calls();
    let mut before = source.next().await;
    for _ in 0..4 {
        let facts = source.next().await;
        assert!(facts.as_of > before.as_of, "each poll confirms everything");
        assert_eq!(facts.learnt, before.learnt);
        before = facts;
    }
    let calls: BTreeSet<_> = world.proxy.take_calls().into_keys().collect();
    let expected = ["DescribeNetworkInterfaces", "DescribeSecurityGroups", "DescribeManagedPrefixLists"];
    assert_eq!(calls, expected.map(str::to_owned).into());
}

#[tokio::test]
async fn answers_of_many_pages_are_read_to_their_end() {
    let world = World::new().await;
    let db = world.group("db").await;
    let mut all = Vec::new();
    for index in 0..5 {
        let group = world.group(&format!("web{index}")).await;
        world.allow(&group, from_group(5432, &db)).await;
        world.allow(&group, from_cidr(443, "0.0.0.0/0")).await;
        all.push(group);
    }
    let cidrs: Vec<_> = (0..5).map(|index| format!("192.0.2.{index}/32")).collect();
    let list = world.list("offices", &cidrs.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.allow(&all[0], from_list(22, &list)).await;
    for index in 0..7 {
        world.interface(&format!("10.0.1.{}", 20 + index), &[&db]).await;
    }
    world.proxy.page_size(2);
    let mut source = world.start(ONCE, groups(&all));
    let facts = source.settled().await;
    assert_eq!(facts.groups.len(), 5);
    assert!(facts.groups.values().flat_map(|group| &group.rules).all(|rule| rule.id.is_some()));
    assert_eq!(members(&facts, &db).unwrap().len(), 7);
    assert_eq!(facts.prefix_lists[&list].entries.len(), 5);
    assert_eq!(
        world.proxy.take_calls(),
        counts(&[
            ("DescribeNetworkInterfaces", 4),
            ("DescribeSecurityGroups", 3),
            ("DescribeSecurityGroupRules", 6),
            ("DescribeManagedPrefixLists", 1),
            ("GetManagedPrefixListEntries", 3),
        ])
    );
    assert_eq!(world.proxy.unpaged(), 0, "every call asks for pages");
}

#[tokio::test]
async fn the_budget_is_kept_even_when_more_is_wanted() {
    let world = World::new().await;
    let mut all = Vec::new();
    for index in 0..6 {
        all.push(world.group(&format!("web{index}")).await);
    }
    world.proxy.page_size(1);
    let budget = Polling { budget: 4, ..BRISK };
    let source = world.start(budget, groups(&all));
    let mut made = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while made < 4 {
        assert!(tokio::time::Instant::now() < deadline, "{made} requests were made");
        tokio::time::sleep(Duration::from_millis(20)).await;
        made += world.proxy.take_calls().values().sum::<usize>();
    }
    // Two more would be due at once; none may come before the minute is over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.proxy.take_calls(), counts(&[]));
    drop(source);
}

#[tokio::test]
async fn the_calls_made_are_those_that_the_iam_policy_grants() {
    let world = World::new().await;
    let (web, _, _) = world.referring().await;
    let pod = world.interface("10.0.1.10", &[&web]).await;
    let mut wanted = interfaces([&pod]);
    wanted.instance_type = Some("m5.large".to_owned());
    wanted.named_groups.insert("name=db".parse().unwrap());
    let mut source = world.start(ONCE, wanted);
    source.settled().await;
    let made: BTreeSet<_> =
        world.proxy.take_calls().into_keys().map(|action| format!("ec2:{action}")).collect();

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/iam-policy.json");
    let policy: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    assert!(statements.iter().all(|statement| statement["Effect"] == "Allow"));
    let granted = statements.iter().flat_map(|statement| statement["Action"].as_array().unwrap());
    let granted: BTreeSet<_> = granted.map(|action| action.as_str().unwrap().to_owned()).collect();
    assert_eq!(made, granted);
    assert_eq!(Action::ALL.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), granted);
}
