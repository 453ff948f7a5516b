//! End to end: changes in EC2 and Kubernetes change which connections pods can make.

use std::time::Instant;

use espalier_api::GroupId;
use serde_json::json;

use crate::site::{PORTS, Site, everything, tcp_from};

const B: &str = "10.0.1.11";
const FAR: &str = "far";

/// Groups of the lab's pods: `a` may send everywhere, `b` lets `a` in on the first port.
struct Groups {
    client: GroupId,
    server: GroupId,
    closed: GroupId,
}

async fn groups(site: &Site) -> Groups {
    let groups = Groups {
        client: site.world.group("client").await,
        server: site.world.group("server").await,
        closed: site.world.group("closed").await,
    };
    let open = site.world.ec2.authorize_security_group_egress().group_id(groups.client.as_str());
    open.ip_permissions(everything()).send().await.unwrap();
    site.world.allow(&groups.server, tcp_from(&groups.client, PORTS[0])).await;
    groups
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_labels_rules_and_members_reach_running_pods() {
    let mut site = Site::new(&["--group-source", "policy"]).await;
    let groups = groups(&site).await;
    site.policy("a", "a", &[groups.client.as_str()]);
    site.policy("b", "b", &[groups.server.as_str()]);
    site.policy("c", "closed", &[groups.closed.as_str()]);
    site.pod(0, json!({"app": "a"}), &[&groups.client]).await;
    site.pod(1, json!({"app": "b"}), &[&groups.server]).await;
    site.start_agent();
    let status = site.ready();
    assert_eq!(status.pods.len(), 2, "{status:#?}");
    site.until_connects("t/a", B, PORTS[0], true);
    site.until_connects("t/a", B, PORTS[1], false);

    // A rule in EC2.
    site.world.revoke(&groups.server, tcp_from(&groups.client, PORTS[0])).await;
    site.world.allow(&groups.server, tcp_from(&groups.client, PORTS[1])).await;
    let opened = site.until_connects("t/a", B, PORTS[1], true);
    site.until_connects("t/a", B, PORTS[0], false);

    // A label.
    let start = Instant::now();
    site.kube.patch("pods", "t", "b", &json!({"metadata": {"labels": {"app": "closed"}}}));
    site.until_connects("t/a", B, PORTS[1], false);
    let closed = start.elapsed();
    site.kube.patch("pods", "t", "b", &json!({"metadata": {"labels": {"app": "b"}}}));
    let relabelled = site.until_connects("t/a", B, PORTS[1], true);

    // A policy.
    site.policy("b", "b", &[groups.closed.as_str()]);
    site.until_connects("t/a", B, PORTS[1], false);
    site.policy("b", "b", &[groups.closed.as_str(), groups.server.as_str()]);
    let edited = site.until_connects("t/a", B, PORTS[1], true);

    // A member elsewhere in the VPC.
    let subnet =
        site.world.ec2.create_subnet().vpc_id(&site.world.vpc).cidr_block("10.0.2.0/24").send().await;
    let subnet = subnet.unwrap().subnet.unwrap().subnet_id.unwrap();
    let far = site.world.ec2.create_network_interface().subnet_id(subnet).private_ip_address("10.0.2.20");
    let far = far.groups(groups.closed.as_str()).send().await.unwrap().network_interface.unwrap();
    let far = far.network_interface_id.unwrap().parse().unwrap();
    site.until_connects(FAR, B, PORTS[1], false);
    site.world.move_interface(&far, &[&groups.client]).await;
    let joined = site.until_connects(FAR, B, PORTS[1], true);
    site.world.move_interface(&far, &[&groups.closed]).await;
    site.until_connects(FAR, B, PORTS[1], false);

    let status = site.ready();
    let latency = status.latency.unwrap();
    println!(
        "rule {opened:?} (poll 0.5 s), label away {closed:?}, label back {relabelled:?}, policy {edited:?}, \
         member {joined:?}; change to enforced p50 {:.1} ms, p99 {:.1} ms of {}",
        latency.p50_ms, latency.p99_ms, latency.count
    );
    let events = site.kube.objects("events");
    let enforced = events.iter().filter(|event| event["reason"] == "SecurityGroupsEnforced").count();
    assert!(enforced >= 2, "{events:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_agent_or_the_switch_restarts() {
    let mut site = Site::new(&["--group-source", "eni"]).await;
    let groups = groups(&site).await;
    site.pod(0, json!({}), &[&groups.client]).await;
    let server = site.pod(1, json!({}), &[&groups.server]).await.parse().unwrap();
    site.start_agent();
    let first = site.ready();
    site.until_connects("t/a", B, PORTS[0], true);

    // The agent: nothing changed, so nothing is sent, and the number stays.
    site.kill_agent();
    site.until_connects("t/a", B, PORTS[0], true);
    site.start_agent();
    let second = site.until("the same state", |status| status.ready && status.pid != first.pid);
    assert_eq!(second.enforced, first.enforced);

    // EC2 away while the agent starts: the last known good stays.
    site.kill_agent();
    site.world.proxy.stop().await;
    site.start_agent();
    site.until("EC2's absence", |status| {
        status.pid != second.pid
            && status.problems.iter().any(|problem| problem.reason.label() == "ec2-unavailable")
    });
    site.until_connects("t/a", B, PORTS[0], true);
    assert_eq!(site.lab.control().status().unwrap().generation, first.enforced);
    site.world.proxy.resume().await;
    let third = site.ready();

    // The switch: it is fed again.
    let process = site.lab.switch_process().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    site.lab.start_switch(&crate::site::switch().to_owned(), &[], "info").unwrap();
    site.until("the switch fed again", |status| status.ready && status.enforced >= third.enforced);
    site.until_connects("t/a", B, PORTS[0], true);

    // A change of the branch's own groups in EC2.
    site.world.move_interface(&server, &[&groups.closed]).await;
    site.until_connects("t/a", B, PORTS[0], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_and_an_operator_are_told_who_feeds_the_switch() {
    let mut site = Site::new(&["--group-source", "eni"]).await;
    let groups = groups(&site).await;
    site.pod(0, json!({}), &[&groups.client]).await;
    site.start_agent();
    site.ready();
    let snapshot = site.lab.scenario().snapshot().unwrap();
    let refused = site.lab.control().apply(&snapshot).unwrap_err().to_string();
    assert!(refused.contains("agent n1 feeds this switch"), "{refused}");
    assert_eq!(site.lab.control().status().unwrap().agent.unwrap().name, "n1");

    let second = site.second_agent();
    let log = second.until_says("agent n1 has fed this switch");
    assert!(log.contains("switch-taken"), "{log}");
    site.kill_agent();
    second.until_says("the switch's lease is held");
}
