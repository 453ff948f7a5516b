//! What each fault does: the last known good stays, the problem is named, and it goes when the fault goes.

use std::time::Duration;

use espalier_api::agent::ProblemReason;
use espalier_control::facts::Facts;

use super::world::{
    BRISK, Source, World, from_cidr, from_group, groups, interfaces, members, problems, rules,
};
use crate::kit::fault_proxy::Fault;

/// For as long as the test wants it.
const LASTING: usize = usize::MAX;

/// A group with one of everything, known to a source.
async fn known() -> (World, Source, [espalier_api::GroupId; 2]) {
    let world = World::new().await;
    let (web, db) = (world.group("web").await, world.group("db").await);
    world.allow(&web, from_group(5432, &db)).await;
    world.interface("10.0.1.20", &[&db]).await;
    let pod = world.interface("10.0.1.10", &[&web]).await;
    let mut source = world.start(BRISK, interfaces([&pod]));
    source.settled().await;
    (world, source, [web, db])
}

fn is_whole(facts: &Facts, [web, db]: &[espalier_api::GroupId; 2]) -> bool {
    rules(facts, web).is_some_and(|rules| rules.len() == 1)
        && members(facts, db).is_some_and(|members| members == ["10.0.1.20/32"])
        && facts.interfaces.len() == 1
}

#[tokio::test]
async fn whatever_fails_the_last_known_good_stays_and_the_problem_has_a_name() {
    let faults = [
        (Fault::Refused(503, "RequestLimitExceeded"), ProblemReason::Ec2Throttled),
        (Fault::Refused(500, "InternalError"), ProblemReason::Ec2Unavailable),
        (Fault::Refused(503, "Unavailable"), ProblemReason::Ec2Unavailable),
        (Fault::Refused(400, "InvalidParameterValue"), ProblemReason::Ec2Unavailable),
        (Fault::Refused(403, "UnauthorizedOperation"), ProblemReason::Ec2AccessDenied),
        (Fault::Refused(400, "RequestExpired"), ProblemReason::CredentialsInvalid),
        (Fault::Refused(400, "ExpiredToken"), ProblemReason::CredentialsInvalid),
        (Fault::Refused(401, "AuthFailure"), ProblemReason::CredentialsInvalid),
        (Fault::Dated(400, "RequestExpired", 1200), ProblemReason::ClockSkew),
        (Fault::Dated(403, "SignatureDoesNotMatch", -1200), ProblemReason::ClockSkew),
        (Fault::Garbage, ProblemReason::Ec2Malformed),
    ];
    let (world, mut source, ids) = known().await;
    for (fault, reason) in faults {
        let before = source.next().await.as_of;
        world.proxy.fault("*", fault.clone(), LASTING);
        let has = |facts: &Facts| facts.problems.iter().any(|problem| problem.reason == reason);
        let facts = source.until(&format!("{reason:?} for {fault:?}"), has).await;
        assert!(facts.problems.iter().all(|problem| problem.reason == reason), "{:#?}", facts.problems);
        assert!(is_whole(&facts, &ids), "{fault:?}: {facts:#?}");
        assert!(facts.as_of >= before && facts.as_of.is_some());
        let age = facts.as_of;
        let facts = source.next().await;
        assert!(facts.as_of == age || facts.as_of.is_some() && is_whole(&facts, &ids), "its age grows");
        world.proxy.heal();
        source.settled().await;
    }
}

#[tokio::test]
async fn cut_late_and_missing_answers_are_tried_again_and_then_named() {
    let (world, mut source, ids) = known().await;
    world.proxy.fault("DescribeSecurityGroups", Fault::Cut, 2);
    for _ in 0..4 {
        let facts = source.next().await;
        assert_eq!(problems(&facts), [], "the third try of a request succeeds");
    }
    world.proxy.fault("DescribeSecurityGroups", Fault::Cut, LASTING);
    let facts = source.until("a problem", |facts| !facts.problems.is_empty()).await;
    assert_eq!(facts.problems[0].subject, "ec2:DescribeSecurityGroups");
    assert!(is_whole(&facts, &ids));
    world.proxy.heal();
    source.settled().await;

    world.proxy.fault("DescribeNetworkInterfaces", Fault::Slow(Duration::from_secs(60)), LASTING);
    let late = (ProblemReason::Ec2Unavailable, "ec2:DescribeNetworkInterfaces");
    let facts = source.until("a time-out", |facts| problems(facts) == [late]).await;
    assert!(is_whole(&facts, &ids));
    world.proxy.heal();
    source.settled().await;

    world.proxy.stop().await;
    let gone = |facts: &Facts| facts.problems.iter().any(|p| p.reason == ProblemReason::Ec2Unavailable);
    let facts = source.until("no connection", gone).await;
    assert!(is_whole(&facts, &ids));
    world.proxy.resume().await;
    source.settled().await;
}

#[tokio::test]
async fn each_missing_permission_is_named_and_the_rest_goes_on() {
    let world = World::new().await;
    let (web, db, _) = world.referring().await;
    let pod = world.interface("10.0.1.10", &[&web]).await;
    for action in [
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSecurityGroupRules",
        "DescribeManagedPrefixLists",
        "GetManagedPrefixListEntries",
        "DescribeSubnets",
        "DescribeVpcs",
        "DescribeInstanceTypes",
    ] {
        world.proxy.fault(action, Fault::Refused(403, "UnauthorizedOperation"), LASTING);
        let mut wanted = interfaces([&pod]);
        wanted.groups.insert(web.clone());
        wanted.vpc_id = Some(world.vpc.clone());
        wanted.instance_type = Some("m5.large".to_owned());
        let mut source = world.start(BRISK, wanted);
        let facts = source.until("a problem", |facts| facts.complete && !facts.problems.is_empty()).await;
        let name = format!("ec2:{action}");
        assert_eq!(problems(&facts), [(ProblemReason::Ec2AccessDenied, name.as_str())]);
        assert!(facts.problems[0].message.contains("IAM policy"));
        let members_known = action != "DescribeNetworkInterfaces" && action != "DescribeSecurityGroups";
        assert_eq!(facts.members.contains_key(&db), members_known, "{action}");
        assert_eq!(facts.failed_interfaces.len(), usize::from(action == "DescribeNetworkInterfaces"));
        assert_eq!(facts.failed_groups.len(), usize::from(action == "DescribeSecurityGroups"));
        assert_eq!(facts.groups.len(), usize::from(action != "DescribeSecurityGroups"), "{action}");
        assert_eq!(facts.vpc_cidrs.len(), usize::from(action != "DescribeVpcs"), "{action}");
        world.proxy.heal();
        source.settled().await;
    }
}

#[tokio::test]
async fn what_is_not_visible_yet_is_waited_for_and_what_flickers_is_kept() {
    let (world, mut source, ids) = known().await;
    let late = world.group("late").await;
    world.allow(&late, from_cidr(443, "0.0.0.0/0")).await;
    let own = format!("<groupId>{late}</groupId>");
    world.proxy.hide("DescribeSecurityGroups", &own, 2);
    source.want(|wanted| wanted.groups.insert(late.clone()));
    let facts = source.until("an unknown group", |facts| facts.absent_groups.contains(&late)).await;
    assert_eq!(problems(&facts), [(ProblemReason::GroupUnknown, late.as_str())]);
    assert!(is_whole(&facts, &ids), "the others are served");
    let facts = source.settled().await;
    assert_eq!(rules(&facts, &late).unwrap(), ["ingress tcp/443 0.0.0.0/0"]);

    world.proxy.hide("DescribeSecurityGroups", &own, 1);
    let doubted = |facts: &Facts| problems(facts) == [(ProblemReason::GroupUnknown, late.as_str())];
    let facts = source.until("a doubt", doubted).await;
    assert!(rules(&facts, &late).is_some(), "one answer without it does not take it away");
    source.settled().await;
    world.ec2.delete_security_group().group_id(late.as_str()).send().await.unwrap();
    let facts = source.until("a deleted group", |facts| facts.absent_groups.contains(&late)).await;
    assert!(rules(&facts, &late).is_none() && is_whole(&facts, &ids));
}

#[tokio::test]
async fn a_group_is_not_shown_before_what_it_refers_to() {
    let world = World::new().await;
    let (web, db, new) = (world.group("web").await, world.group("db").await, world.group("new").await);
    world.allow(&web, from_group(5432, &db)).await;
    let failure = Fault::Refused(500, "InternalError");
    world.proxy.fault("DescribeNetworkInterfaces", failure.clone(), LASTING);
    let mut source = world.start(BRISK, groups([&web]));
    let facts = source.until("a failed group", |facts| facts.failed_groups.contains(&web)).await;
    assert!(facts.groups.is_empty() && facts.members.is_empty());
    world.proxy.heal();
    source.settled().await;

    world.proxy.fault("DescribeNetworkInterfaces", failure, LASTING);
    source.until("a failure", |facts| !facts.problems.is_empty()).await;
    world.allow(&web, from_group(6432, &new)).await;
    for _ in 0..3 {
        let facts = source.next().await;
        assert_eq!(rules(&facts, &web).unwrap().len(), 1, "the last version that was whole");
        assert!(facts.members.contains_key(&db));
    }
    world.proxy.heal();
    let facts = source.settled().await;
    assert_eq!(rules(&facts, &web).unwrap().len(), 2);
}
