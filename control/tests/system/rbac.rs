//! The calls that the agent makes to Kubernetes are exactly those that `deploy/rbac.yaml` grants.

use std::collections::BTreeSet;
use std::time::Duration;

use espalier_control::cluster::ClusterSource as _;
use espalier_control::kube::{KubeSource, PodEvent, PodEvents};
use serde_json::{Value, json};

use crate::kit::kube_api::KubeApi;

const PATIENCE: Duration = Duration::from_secs(30);

/// The rules of the ClusterRole.
fn granted() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let role = documents.into_iter().find(|document| document["kind"] == "ClusterRole").unwrap();
    role["rules"].as_array().unwrap().clone()
}

fn strings<'a>(rule: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    rule[field].as_array().unwrap().iter().map(|value| value.as_str().unwrap())
}

#[tokio::test]
async fn the_agent_is_granted_what_it_asks_for_and_no_more() {
    let server = KubeApi::start().await;
    let rules = granted();
    server.set(|knobs| knobs.rules = Some(rules.clone()));
    server.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "default", "name": "a" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.1.10" }] },
    }));
    let source = KubeSource::new(server.client(), "n1", server.url());
    let mut cluster = Box::new(source).start();
    let synced = cluster.wait_for(|cluster| cluster.synced.len() == 6);
    let synced = tokio::time::timeout(PATIENCE, synced).await.expect("everything is read").unwrap();
    assert_eq!(synced.problems, []);
    let pod = synced.pods.values().next().unwrap().clone();
    drop(synced);

    let mut events = PodEvents::start(server.client(), "n1".to_owned());
    let event =
        |note: &str| PodEvent { reason: "SecurityGroupsEnforced", warning: false, note: note.to_owned() };
    for note in ["one", "two", "one"] {
        events.tell(&pod, event(note));
    }
    let wanted: BTreeSet<_> = rules
        .iter()
        .flat_map(|rule| {
            let (mut groups, verbs) = (strings(rule, "apiGroups"), strings(rule, "verbs"));
            let group = groups.next().unwrap();
            verbs.flat_map(move |verb| {
                strings(rule, "resources")
                    .map(move |name| (verb.to_owned(), group.to_owned(), name.to_owned()))
            })
        })
        .collect();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let made: BTreeSet<_> =
            server.calls().into_iter().map(|(v, g, r)| (v.to_owned(), g.to_owned(), r)).collect();
        if made == wanted {
            break;
        }
        assert!(made.is_subset(&wanted), "not granted: {:?}", made.difference(&wanted));
        assert!(
            tokio::time::Instant::now() < deadline,
            "granted for nothing: {:?}",
            wanted.difference(&made)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
