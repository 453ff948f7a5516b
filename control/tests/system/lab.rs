//! End to end: changes in EC2 and Kubernetes change which connections pods can make.

use std::time::Instant;

use espalier_api::GroupId;
use espalier_api::agent::{AgentPodState, AgentStatus, ProblemReason};
use serde_json::{Value, json};

use crate::site::{PORTS, Site, everything, get, tcp_from};

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
    let note = format!("The switch of this node enforces {}", groups.client);
    let told = |event: &Value| {
        event["regarding"]["name"] == "a" && event["note"] == note && event["type"] == "Normal"
    };
    assert!(events.iter().any(|event| told(event)), "{note:?} is not among {events:#?}");
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
async fn without_aws_credentials_the_agent_says_so_and_what_is_enforced_stays() {
    let mut site = Site::new(&["--group-source", "eni"]).await;
    let groups = groups(&site).await;
    site.pod(0, json!({}), &[&groups.client]).await;
    site.pod(1, json!({}), &[&groups.server]).await;
    // From the start: no pod is enforced, and the agent is not ready.
    let unknown = |status: &AgentStatus| {
        status.problems.iter().any(|problem| problem.reason == ProblemReason::CredentialsInvalid)
    };
    site.credentials = false;
    site.start_agent();
    let first = site.until("the missing credentials", unknown);
    assert!(!first.ready && first.pods.iter().all(|pod| pod.state == AgentPodState::Held), "{first:#?}");
    assert!(!get(&site.agent_socket(), "/readyz").unwrap().is_empty(), "it says why not");
    let (_, said) = site.espalier(&["status"]);
    assert!(said.contains("no valid AWS credentials"), "{said}");
    assert_eq!(site.lab.control().pods().unwrap(), []);

    site.kill_agent();
    site.credentials = true;
    site.start_agent();
    let second = site.until("recovery", |status| status.ready && status.problems.is_empty());
    site.until_connects("t/a", B, PORTS[0], true);

    // Later: what is enforced stays, and its pods say what they wait for.
    site.kill_agent();
    site.credentials = false;
    site.start_agent();
    let third = site.until("their loss", |status| status.pid != second.pid && unknown(status));
    assert!(!third.ready && third.pods.iter().all(|pod| pod.state == AgentPodState::Held), "{third:#?}");
    assert_eq!(site.lab.control().status().unwrap().generation, second.enforced);
    site.until_connects("t/a", B, PORTS[0], true);
    site.until_connects("t/a", B, PORTS[1], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_commands_join_what_switch_and_agent_know() {
    let mut site = Site::new(&["--group-source", "policy"]).await;
    let groups = groups(&site).await;
    let (code, said) = site.espalier(&["status"]);
    assert_eq!(code, Some(0), "a switch without an agent has a status: {said}");
    site.policy("web", "a", &[groups.client.as_str(), "sg-0123456789abcdef0"]);
    site.policy("db", "b", &[groups.server.as_str()]);
    let eni = site.pod(0, json!({"app": "a"}), &[&groups.client]).await;
    site.pod(1, json!({"app": "b"}), &[&groups.server]).await;
    site.start_agent();
    site.until("the unknown group", |status| {
        status.enforced.is_some()
            && status.problems.iter().any(|problem| problem.subject == "sg-0123456789abcdef0")
    });

    let (code, status) = site.espalier(&["status"]);
    assert_eq!(code, Some(0), "{status}");
    for words in ["n1", "kubernetes", "ec2", "sg-0123456789abcdef0"] {
        assert!(status.to_lowercase().contains(words), "{words}: {status}");
    }
    let (_, status) = site.espalier(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert!(status.to_string().contains("sg-0123456789abcdef0"), "{status:#}");

    let (code, pods) = site.espalier(&["pods"]);
    assert_eq!(code, Some(0), "{pods}");
    assert!(pods.contains("t/a") && pods.contains("t/b") && pods.contains("in part"), "{pods}");
    let (_, pod) = site.espalier(&["pods", "t/a"]);
    for words in [&eni, "t/web", groups.client.as_str(), "in part", "sg-0123456789abcdef0"] {
        assert!(pod.contains(words), "{words}: {pod}");
    }
    let (_, pods) = site.espalier(&["pods", "--json"]);
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(pods.as_array().map(Vec::len), Some(2), "{pods:#}");
    assert_eq!(pods[1]["agent"]["policies"], json!(["t/db"]), "{pods:#}");

    let (code, group) = site.espalier(&["groups", groups.server.as_str()]);
    assert_eq!(code, Some(0), "{group}");
    for words in ["server", "t/b", &PORTS[0].to_string(), groups.client.as_str()] {
        assert!(group.contains(words), "{words}: {group}");
    }
    let (code, said) = site.espalier(&["pods", "t/none"]);
    assert_eq!(code, Some(2), "{said}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cloud_files_do_and_a_pod_without_its_groups_is_denied_where_set() {
    let mut site = Site::new(&["--group-source", "policy"]).await;
    let (objects, facts) = (site.subfolder("objects"), site.subfolder("facts"));
    let snapshot = site.lab.scenario().snapshot().unwrap();
    let pod = |index: usize, app: &str| {
        let pod = &snapshot.pods[index];
        let branch = json!([{"eniId": pod.eni_id, "ifAddress": pod.mac, "privateIp": pod.addresses[0], "vlanId": pod.vlan,
            "subnetCidr": "10.0.1.0/24"}]);
        let branch =
            if app.is_empty() { json!({}) } else { json!({"vpc.amazonaws.com/pod-eni": branch.to_string()}) };
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "t", "name": pod.name.name(), "uid": format!("u{index}{app}"), "annotations": branch,
                "labels": {"app": if app.is_empty() { "server" } else { app }}},
            "spec": {"containers": []}, "status": {"podIP": pod.addresses[0]}})
    };
    let policy = |name: &str, groups: &str, audit: bool| {
        let annotations = json!({"espalier.dev/groups": groups, "espalier.dev/audit": audit.to_string()});
        json!({"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy",
            "metadata": {"namespace": "t", "name": name, "annotations": annotations},
            "spec": {"podSelector": {"matchLabels": {"app": name}}}})
        .to_string()
    };
    let rules = |port: u16| {
        json!({"SecurityGroups": [
            {"GroupId": "sg-c", "GroupName": "client",
                "IpPermissionsEgress": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]},
            {"GroupId": "sg-s", "GroupName": "server", "Tags": [{"Key": "tier", "Value": "server"}],
                "IpPermissions": [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port,
                    "UserIdGroupPairs": [{"GroupId": "sg-c"}]}]}]})
        .to_string()
    };
    std::fs::write(facts.join("vpc.json"), r#"{"Vpcs": [{"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16"}]}"#)
        .unwrap();
    std::fs::write(facts.join("groups.json"), rules(PORTS[0])).unwrap();
    std::fs::write(objects.join("a.json"), pod(0, "client").to_string()).unwrap();
    std::fs::write(objects.join("b.json"), pod(1, "server").to_string()).unwrap();
    std::fs::write(objects.join("c.json"), policy("client", "name=client", false)).unwrap();
    std::fs::write(objects.join("s.json"), policy("server", "tag:tier=server", false)).unwrap();
    site.flag("--kubernetes", &objects);
    site.flag("--ec2", &facts);
    site.start_agent();
    site.ready();
    site.until_connects("t/a", B, PORTS[0], true);
    std::fs::write(facts.join("groups.json"), rules(PORTS[1])).unwrap();
    site.until_connects("t/a", B, PORTS[1], true);
    site.until_connects("t/a", B, PORTS[0], false);

    // In audit mode what is denied passes, and the switch says for how long that is so.
    let audits = |site: &Site| {
        let problems = site.lab.control().status().unwrap().problems;
        problems.iter().any(|problem| problem.starts_with("pod t/b is in audit mode"))
    };
    std::fs::write(objects.join("s.json"), policy("server", "tag:tier=server", true)).unwrap();
    site.until_connects("t/a", B, PORTS[0], true);
    assert!(audits(&site));
    std::fs::write(objects.join("s.json"), policy("server", "tag:tier=server", false)).unwrap();
    site.until_connects("t/a", B, PORTS[0], false);
    assert!(!audits(&site));

    // A file that is cut short is named, and what it said before stays.
    std::fs::write(facts.join("groups.json"), &rules(PORTS[0])[..40]).unwrap();
    let status = site.until("the bad file", |status| {
        status.problems.iter().any(|problem| problem.reason == ProblemReason::FileInvalid)
    });
    assert!(status.problems.iter().any(|problem| problem.subject.ends_with("groups.json")), "{status:#?}");
    site.until_connects("t/a", B, PORTS[1], true);
    std::fs::write(facts.join("groups.json"), rules(PORTS[1])).unwrap();

    // The server comes back without a branch: first the kernel carries it, then its namespace denies it.
    std::fs::write(objects.join("b.json"), pod(1, "").to_string()).unwrap();
    site.until("the report", |status| status.pods.iter().any(|pod| pod.state == AgentPodState::Kernel));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "t", "annotations": {"espalier.dev/unprotected-pods": "deny"}}});
    std::fs::write(objects.join("n.json"), namespace.to_string()).unwrap();
    site.until("the denial", |status| {
        status.ready && status.pods.iter().any(|pod| pod.state == AgentPodState::Denied)
    });
    let pods = site.lab.control().pods().unwrap();
    let denied = pods.iter().find(|pod| pod.name.name() == "b").unwrap();
    assert_eq!(denied.security_groups[0].as_str(), "sg-denied");
    site.until_connects("t/b", "10.0.2.20", 80, false);
    let dropped = || {
        let pods = site.lab.control().pods().unwrap();
        let pod = pods.into_iter().find(|pod| pod.name.name() == "b").unwrap();
        pod.counters.egress_dropped.values().sum::<u64>()
    };
    let before = dropped();
    let counted = crate::site::wait_for(|| {
        let _refused = site.connects("t/b", "10.0.2.20", 80);
        dropped() > before
    });
    assert!(counted, "what a denied pod sends is dropped by the switch, and counted");
}
