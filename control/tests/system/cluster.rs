//! What the agent learns from the API server, and what it makes of an API server that is not well.

use std::sync::Arc;
use std::time::Duration;

use espalier_api::agent::ProblemReason;
use espalier_control::cluster::{Cluster, ClusterSource as _};
use espalier_control::kube::KubeSource;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::kit::kube_api::KubeApi;

/// The longest wait; a watch that was refused is tried again within 30 s.
const PATIENCE: Duration = Duration::from_secs(180);

fn start(kube: &KubeApi) -> watch::Receiver<Arc<Cluster>> {
    Box::new(KubeSource::new(kube.client(), "n1", kube.url())).start()
}

async fn until(
    cluster: &mut watch::Receiver<Arc<Cluster>>,
    what: &str,
    right: impl Fn(&Cluster) -> bool,
) -> Arc<Cluster> {
    let waited = tokio::time::timeout(PATIENCE, cluster.wait_for(|cluster| right(cluster))).await;
    let found = waited.ok().map(|cluster| Arc::clone(&cluster.unwrap()));
    found.unwrap_or_else(|| panic!("{what} did not come to pass: {:#?}", cluster.borrow()))
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "t", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

fn policy(name: &str) -> Value {
    json!({"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy",
        "metadata": {"namespace": "t", "name": name},
        "spec": {"podSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}})
}

fn pods(cluster: &Cluster) -> Vec<&str> {
    cluster.pods.keys().map(|name| name.name()).collect()
}

#[tokio::test]
async fn pods_of_this_node_and_what_their_groups_depend_on_are_followed() {
    let kube = KubeApi::start().await;
    kube.apply(pod("a", "n1"));
    kube.apply(pod("elsewhere", "n2"));
    kube.apply(policy("p"));
    kube.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1",
        "labels": {"node.kubernetes.io/instance-type": "m5.large"}}, "spec": {"providerID": "aws:///a/i-01"}}));
    kube.apply(
        json!({"apiVersion": "vpcresources.k8s.aws/v1alpha1", "kind": "CNINode", "metadata": {"name": "n1"},
        "spec": {"features": [{"name": "SecurityGroupsForPods"}]}}),
    );
    let mut cluster = start(&kube);
    let seen = until(&mut cluster, "everything", |cluster| {
        cluster.synced.len() == 6 && cluster.node.asks_for_branches == Some(true)
    })
    .await;
    assert_eq!(pods(&seen), ["a"]);
    assert_eq!(seen.node.instance_type.as_deref(), Some("m5.large"));
    assert_eq!((seen.policies.len(), seen.problems.len(), seen.stale_since), (1, 0, None));
    assert!(seen.service_accounts.keys().any(|name| name.to_string() == "t/default"));

    kube.patch("pods", "t", "a", &json!({"metadata": {"labels": {"app": "b"}}}));
    until(&mut cluster, "the label", |cluster| cluster.pods.values().any(|pod| pod.labels["app"] == "b"))
        .await;
    kube.delete("pods", "t", "a");
    until(&mut cluster, "the end of the pod", |cluster| cluster.pods.is_empty()).await;
}

#[tokio::test]
async fn what_was_missed_is_listed_anew_after_410_and_cuts_lose_nothing() {
    let kube = KubeApi::start().await;
    kube.apply(pod("a", "n1"));
    kube.set(|knobs| knobs.events_per_watch = Some(1));
    let mut cluster = start(&kube);
    until(&mut cluster, "the pod", |cluster| pods(cluster) == ["a"]).await;
    for round in 0..5 {
        kube.cut_watches();
        kube.apply(pod(&format!("b{round}"), "n1"));
        kube.cut_watches();
    }
    until(&mut cluster, "pods through cuts", |cluster| cluster.pods.len() == 6).await;
    kube.stop().await;
    kube.delete("pods", "t", "a");
    kube.apply(pod("late", "n1"));
    kube.compact();
    kube.resume().await;
    let seen = until(&mut cluster, "the new list", |cluster| pods(cluster).contains(&"late")).await;
    assert!(!pods(&seen).contains(&"a"), "{seen:#?}");
    until(&mut cluster, "recovery", |cluster| cluster.problems.is_empty() && cluster.stale_since.is_none())
        .await;
}

#[tokio::test]
async fn a_missing_permission_is_named_and_the_rest_goes_on() {
    let kube = KubeApi::start().await;
    kube.apply(pod("a", "n1"));
    kube.set(|knobs| knobs.forbidden = [("list".into(), "serviceaccounts".into())].into());
    let mut cluster = start(&kube);
    let seen = until(&mut cluster, "the refusal", |cluster| {
        !cluster.problems.is_empty() && cluster.synced.len() >= 5
    })
    .await;
    let problem = &seen.problems[0];
    assert_eq!(
        (problem.reason, problem.subject.as_str()),
        (ProblemReason::KubernetesForbidden, "serviceaccounts")
    );
    for words in
        ["list serviceaccounts", "apiGroups [\"\"]", "verbs [\"list\", \"watch\"]", "deploy/rbac.yaml"]
    {
        assert!(problem.message.contains(words), "{}", problem.message);
    }
    assert_eq!(pods(&seen), ["a"]);
    assert!(!seen.synced.contains("serviceaccounts") && seen.stale_since.is_some());
    kube.set(|knobs| knobs.forbidden.clear());
    until(&mut cluster, "the permission", |cluster| {
        cluster.problems.is_empty() && cluster.synced.contains("serviceaccounts")
    })
    .await;
}

/// Kubernetes replaces a service account's token in its file; the client reads it once a minute.
#[tokio::test]
async fn an_expired_token_is_named_and_its_successor_is_taken_from_the_file() {
    let kube = KubeApi::start().await;
    kube.apply(pod("a", "n1"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first").unwrap();
    kube.set(|knobs| knobs.token = Some("first".to_owned()));
    let source = KubeSource::new(kube.client_with_token(&file), "n1", kube.url());
    let mut cluster = Box::new(source).start();
    until(&mut cluster, "the pod", |cluster| pods(cluster) == ["a"] && cluster.synced.len() == 6).await;

    kube.set(|knobs| knobs.token = Some("second".to_owned()));
    kube.cut_watches();
    let refused = |cluster: &Cluster| {
        let mut all = cluster.problems.iter();
        all.any(|problem| {
            problem.reason == ProblemReason::KubernetesForbidden
                && problem.subject == "pods"
                && problem.message.contains("401")
                && problem.message.contains("token")
        })
    };
    let seen = until(&mut cluster, "the refusal", refused).await;
    assert_eq!(pods(&seen), ["a"], "the last known good stays");
    assert!(seen.stale_since.is_some());

    kube.apply(pod("late", "n1"));
    std::fs::write(&file, "second").unwrap();
    let well = |cluster: &Cluster| cluster.problems.is_empty() && cluster.stale_since.is_none();
    // A minute at most until the file is read, half a one until a watch is tried again.
    until(&mut cluster, "the new token", |cluster| well(cluster) && pods(cluster) == ["a", "late"]).await;
}

#[tokio::test]
async fn a_cluster_without_the_custom_resource_has_no_policies() {
    let kube = KubeApi::start().await;
    kube.apply(pod("a", "n1"));
    kube.set(|knobs| knobs.hidden = ["securitygrouppolicies".into()].into());
    let mut cluster = start(&kube);
    let seen =
        until(&mut cluster, "the absence", |cluster| cluster.synced.contains("securitygrouppolicies")).await;
    assert!(seen.policies.is_empty());
    let missing =
        |cluster: &Cluster| cluster.problems.iter().any(|p| p.reason == ProblemReason::KubernetesMissing);
    until(&mut cluster, "the problem", missing).await;
}
