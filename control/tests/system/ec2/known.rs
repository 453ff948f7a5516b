//! What the source knows is what EC2 has: groups, rules with their ids, members, prefix lists, names, and their changes.

use std::collections::BTreeSet;

use espalier_api::agent::ProblemReason;
use espalier_control::facts::{GroupSelector, Wanted};

use super::world::{
    BRISK, World, from_cidr, from_group, from_list, groups, interfaces, members, problems, rules,
};

#[tokio::test]
async fn a_pod_s_interface_leads_to_everything_its_policy_needs() {
    let world = World::new().await;
    let (web, db) = (world.group("web").await, world.group("db").await);
    let list = world.list("offices", &["192.0.2.0/24", "198.51.100.0/24"]).await;
    world.allow(&web, from_cidr(443, "100.68.0.18/18")).await;
    world.allow(&web, from_group(5432, &db)).await;
    world.allow(&web, from_list(22, &list)).await;
    let pod = world.interface("10.0.1.10", &[&web]).await;
    world.interface("10.0.1.20", &[&db]).await;
    world.interface("10.0.1.21", &[&db, &web]).await;

    let mut wanted = interfaces([&pod]);
    wanted.instance_type = Some("m5.large".to_owned());
    let mut source = world.start(BRISK, wanted);
    let facts = source.settled().await;
    let interface = &facts.interfaces[&pod];
    assert_eq!(interface.groups, std::slice::from_ref(&web));
    assert_eq!(interface.addresses, ["10.0.1.10".parse().unwrap()]);
    assert_eq!(interface.subnets, ["10.0.1.0/24".parse().unwrap()]);
    assert_eq!(
        (interface.subnet_id.as_ref(), interface.vpc_id.as_ref()),
        (Some(&world.subnet), Some(&world.vpc))
    );
    assert_eq!(facts.vpc_id.as_ref(), Some(&world.vpc));
    assert_eq!(facts.vpc_cidrs, ["10.0.0.0/16".parse().unwrap()]);
    assert_eq!(
        facts.groups.keys().collect::<Vec<_>>(),
        [&web],
        "a group that is only referred to gives its members"
    );
    let expected = [
        "ingress tcp/22 ".to_owned() + list.as_str(),
        "ingress tcp/443 100.68.0.0/18".to_owned(),
        "ingress tcp/5432 ".to_owned() + db.as_str(),
    ];
    assert_eq!(rules(&facts, &web).unwrap(), expected);
    assert_eq!(facts.members.len(), 1);
    assert_eq!(members(&facts, &db).unwrap(), ["10.0.1.20/32", "10.0.1.21/32"]);
    let entries: Vec<_> =
        facts.prefix_lists[&list].entries.iter().map(|entry| entry.net().to_string()).collect();
    assert_eq!(entries, ["192.0.2.0/24", "198.51.100.0/24"]);
    assert_eq!(facts.prefix_lists[&list].name.as_deref(), Some("offices"));
    assert!(facts.as_of.is_some() && facts.learnt.is_some());

    let filter = aws_sdk_ec2::types::Filter::builder().name("group-id").values(web.as_str()).build();
    let described = world.ec2.describe_security_group_rules().filters(filter).send().await.unwrap();
    let theirs: BTreeSet<_> = described
        .security_group_rules()
        .iter()
        .map(|rule| rule.security_group_rule_id().unwrap().to_owned())
        .collect();
    let ours = facts.groups[&web].rules.iter().map(|rule| rule.id.as_ref().unwrap().to_string());
    assert_eq!(ours.collect::<BTreeSet<_>>(), theirs);
}

#[tokio::test]
async fn every_change_is_seen_at_a_later_poll() {
    let world = World::new().await;
    let (web, db, list) = world.referring().await;
    let member = world.interface("10.0.1.20", &[&web]).await;
    let mut source = world.start(BRISK, groups([&web]));
    let facts = source.settled().await;
    assert_eq!(members(&facts, &db).unwrap(), [""; 0], "nobody has it, which is not the same as not known");
    let before = facts.learnt;

    world.move_interface(&member, &[&db]).await;
    let facts =
        source.until("a member", |facts| members(facts, &db).is_some_and(|m| m == ["10.0.1.20/32"])).await;
    assert!(facts.learnt > before);

    world.allow(&web, from_cidr(443, "0.0.0.0/0")).await;
    let new = |facts: &espalier_control::facts::Facts| {
        let group = &facts.groups[&web];
        group.rules.len() == 3 && group.rules.iter().all(|rule| rule.id.is_some())
    };
    source.until("a rule with its id", new).await;
    world.revoke(&web, from_group(5432, &db)).await;
    let facts = source.until("a rule less", |facts| facts.groups[&web].rules.len() == 2).await;
    assert!(!facts.members.contains_key(&db), "nothing refers to it");

    let add = aws_sdk_ec2::types::AddPrefixListEntry::builder().cidr("203.0.113.0/24").build();
    let modify = world.ec2.modify_managed_prefix_list().prefix_list_id(list.as_str()).current_version(1);
    modify.add_entries(add).send().await.unwrap();
    let facts = source.until("an entry", |facts| facts.prefix_lists[&list].entries.len() == 2).await;
    assert_eq!(facts.prefix_lists[&list].version, Some(2));
}

#[tokio::test]
async fn groups_go_by_name_and_tag_within_the_vpc() {
    let (world, other) = (World::new().await, World::new().await);
    let (web, api) = (world.group("web").await, world.group("api").await);
    other.group("web").await;
    for group in [&web, &api] {
        world.tag(group.as_str(), "team", "payments").await;
    }
    let selectors = ["name=web", "tag:team=payments", "tag:team=nobody", "name=w*"];
    let selectors = selectors.map(|text| text.parse::<GroupSelector>().unwrap());
    let named_groups = selectors.iter().cloned().collect();
    let mut source =
        world.start(BRISK, Wanted { named_groups, vpc_id: Some(world.vpc.clone()), ..Wanted::default() });
    let facts = source.settled().await;
    let both: BTreeSet<_> = [&web, &api].into();
    assert_eq!(facts.resolved[&selectors[0]], std::slice::from_ref(&web));
    assert_eq!(facts.resolved[&selectors[1]].iter().collect::<BTreeSet<_>>(), both);
    assert!(facts.resolved[&selectors[2]].is_empty() && facts.resolved[&selectors[3]].is_empty());
    assert_eq!(facts.groups.keys().collect::<BTreeSet<_>>(), both);

    world.tag(api.as_str(), "team", "search").await;
    source.until("a group less", |facts| facts.groups.len() == 1).await;

    source.want(|wanted| wanted.vpc_id = None);
    let facts = source.until("a problem", |facts| !facts.problems.is_empty()).await;
    assert_eq!(problems(&facts), [(ProblemReason::GroupUnresolved, "vpc")]);
}

#[tokio::test]
async fn what_moto_does_not_tell_is_understood_too() {
    let world = World::new().await;
    let (web, peer) = (world.group("web").await, world.group("peer").await);
    world.allow(&web, from_group(5432, &peer)).await;
    world.interface("10.0.1.20", &[&peer]).await;
    let pod = world.interface("10.0.1.10", &[&web]).await;
    let id = format!("<networkInterfaceId>{pod}</networkInterfaceId>");
    world.proxy.rewrite(
        &id,
        format!(
            "{id}<connectionTrackingConfiguration><tcpEstablishedTimeout>350</tcpEstablishedTimeout>\
             <udpStreamTimeout>120</udpStreamTimeout></connectionTrackingConfiguration>\
             <ipv6AddressesSet><item><ipv6Address>2001:db8::a</ipv6Address></item></ipv6AddressesSet>\
             <ipv4PrefixSet><item><ipv4Prefix>10.0.1.64/28</ipv4Prefix></item></ipv4PrefixSet>"
        ),
    );
    let mut source = world.start(BRISK, interfaces([&pod]));
    let facts = source.settled().await;
    let interface = &facts.interfaces[&pod];
    let addresses: Vec<_> = interface.addresses.iter().map(|address| address.net().to_string()).collect();
    assert_eq!(addresses, ["10.0.1.10/32", "2001:db8::a/128", "10.0.1.64/28"]);
    let tracking = interface.connection_tracking;
    assert_eq!((tracking.tcp_established_timeout, tracking.udp_stream_timeout), (Some(350), Some(120)));
    assert_eq!(members(&facts, &peer).unwrap(), ["10.0.1.20/32"]);

    let owned = "<userId>123456789012</userId>";
    let stale = format!("{owned}<peeringStatus>deleted</peeringStatus>");
    world.proxy.rewrite(owned, &stale);
    let facts = source.until("a stale reference", |facts| facts.members.is_empty()).await;
    assert_eq!(rules(&facts, &web).unwrap().len(), 1, "still listed");
    world.proxy.rewrite(stale, "<userId>999</userId>");
    let facts = source.until("a foreign account", |facts| !facts.problems.is_empty()).await;
    assert_eq!(problems(&facts), [(ProblemReason::GroupUnknown, peer.as_str())]);
}
