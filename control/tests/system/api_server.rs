//! The kit's Kubernetes API server behaves as a real one towards the real client.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::kit::kube_api::KubeApi;

/// Longest wait for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

fn pod(name: &str, node: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": labels },
        "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "x" }] },
        "status": { "phase": "Running" },
    })
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it should have happened by now")
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> S::Item {
    soon(stream.next()).await.expect("the stream goes on")
}

/// Code and reason of the refusal.
fn refusal<T>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        Err(other) => panic!("not a refusal by the server: {other}"),
        Ok(_) => panic!("the server should have refused"),
    }
}

#[tokio::test]
async fn lists_come_in_pages_and_a_forgotten_page_is_gone() {
    let server = KubeApi::start().await;
    for index in 0..7 {
        server.apply(pod(&format!("p{index}"), "n1", json!({})));
    }
    let pods: Api<Pod> = Api::all(server.client());
    let first = pods.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!(first.items.len(), 3);
    assert_eq!(first.metadata.remaining_item_count, Some(4));
    // A later page is of the same moment as the first.
    server.apply(pod("p9", "n1", json!({})));
    let token = first.metadata.continue_.clone().unwrap();
    let second = pods.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    let token = second.metadata.continue_.clone().unwrap();
    let third = pods.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
    let names: Vec<_> =
        [first.items, second.items, third.items].concat().iter().map(|p| p.name_any()).collect();
    assert_eq!(names, ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]);
    assert_eq!(third.metadata.continue_, None);

    let first = pods.list(&ListParams::default().limit(3)).await.unwrap();
    server.compact();
    let token = first.metadata.continue_.unwrap();
    let gone = pods.list(&ListParams::default().limit(3).continue_token(&token)).await;
    assert_eq!(refusal(gone), (410, "Expired".to_owned()));
}

#[tokio::test]
async fn selectors_choose_and_watches_see_objects_come_into_and_leave_the_selection() {
    let server = KubeApi::start().await;
    server.apply(pod("a", "n1", json!({ "app": "web" })));
    server.apply(pod("b", "n2", json!({ "app": "web" })));
    server.apply(pod("c", "n1", json!({ "app": "db" })));
    let pods: Api<Pod> = Api::all(server.client());
    let selected = ListParams::default().fields("spec.nodeName=n1").labels("app in (web)");
    let list = pods.list(&selected).await.unwrap();
    assert_eq!(list.items.iter().map(|p| p.name_any()).collect::<Vec<_>>(), ["a"]);
    let unknown = pods.list(&ListParams::default().fields("spec.hostname=x")).await;
    assert_eq!(refusal(unknown), (400, "BadRequest".to_owned()));

    let version = list.metadata.resource_version.unwrap();
    let params = WatchParams::default().fields("spec.nodeName=n1").labels("app in (web)");
    let stream = pods.watch(&params, &version).await.unwrap();
    pin_mut!(stream);
    server.patch("pods", "default", "c", &json!({ "metadata": { "labels": { "app": "web" } } }));
    server.patch("pods", "default", "b", &json!({ "metadata": { "labels": { "x": "y" } } }));
    server.patch("pods", "default", "c", &json!({ "metadata": { "labels": { "x": "y" } } }));
    server.patch("pods", "default", "a", &json!({ "metadata": { "labels": { "app": "db" } } }));
    server.delete("pods", "default", "c");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match next(&mut stream).await.unwrap() {
            WatchEvent::Added(pod) => seen.push(("added", pod.name_any())),
            WatchEvent::Modified(pod) => seen.push(("modified", pod.name_any())),
            WatchEvent::Deleted(pod) => seen.push(("deleted", pod.name_any())),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(error) => panic!("{error:?}"),
        }
    }
    let expected = [("added", "c"), ("modified", "c"), ("deleted", "a"), ("deleted", "c")];
    assert_eq!(seen, expected.map(|(kind, name)| (kind, name.to_owned())));
}

#[tokio::test]
async fn writes_conflict_merge_and_keep_the_status_apart() {
    let server = KubeApi::start().await;
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let made: Pod = serde_json::from_value(pod("a", "n1", json!({ "app": "web" }))).unwrap();
    let made = pods.create(&PostParams::default(), &made).await.unwrap();
    assert_eq!(refusal(pods.create(&PostParams::default(), &made).await), (409, "AlreadyExists".to_owned()));

    let relabel = |label: Option<&str>| Patch::Merge(json!({ "metadata": { "labels": { "app": label } } }));
    let patched = pods.patch("a", &PatchParams::default(), &relabel(Some("db"))).await.unwrap();
    assert_eq!(patched.labels()["app"], "db");
    assert_eq!(refusal(pods.replace("a", &PostParams::default(), &made).await), (409, "Conflict".to_owned()));
    let same = pods.patch("a", &PatchParams::default(), &relabel(Some("db"))).await.unwrap();
    assert_eq!(same.resource_version(), patched.resource_version(), "nothing changed: no new version");
    let bare = pods.patch("a", &PatchParams::default(), &relabel(None)).await.unwrap();
    assert!(bare.labels().is_empty());

    let failed =
        Patch::Merge(json!({ "status": { "phase": "Failed" }, "metadata": { "labels": { "x": "y" } } }));
    let phase = |pod: &Pod| pod.status.clone().unwrap().phase.unwrap();
    let patched = pods.patch("a", &PatchParams::default(), &failed).await.unwrap();
    assert_eq!((phase(&patched).as_str(), patched.labels().len()), ("Running", 1));
    let patched = pods.patch_status("a", &PatchParams::default(), &failed).await.unwrap();
    assert_eq!(phase(&patched), "Failed");
    assert_eq!(refusal(pods.get("b").await), (404, "NotFound".to_owned()));
    let elsewhere: Api<ConfigMap> = Api::namespaced(server.client(), "nowhere");
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some("m".into()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    };
    assert_eq!(refusal(elsewhere.create(&PostParams::default(), &map).await), (404, "NotFound".to_owned()));
}

#[tokio::test]
async fn a_watcher_survives_compaction_cuts_flapping_and_absence() {
    for streaming in [false, true] {
        let server = KubeApi::start().await;
        server.set(|knobs| knobs.bookmark_every = Duration::from_millis(50));
        server.apply(pod("a", "n1", json!({})));
        let config = watcher::Config::default().fields("spec.nodeName=n1");
        let config = if streaming { config.streaming_lists() } else { config };
        let events = watcher(Api::<Pod>::all(server.client()), config);
        pin_mut!(events);
        let mut known = BTreeSet::new();
        let mut listing = BTreeSet::new();
        let mut relists = 0;
        let mut follow = async |wanted: &[&str]| {
            let wanted: BTreeSet<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
            while known != wanted {
                match next(&mut events).await {
                    Ok(Event::Init) => {
                        listing.clear();
                        relists += 1;
                    }
                    Ok(Event::InitApply(pod)) => drop(listing.insert(pod.name_any())),
                    Ok(Event::InitDone) => known = listing.clone(),
                    Ok(Event::Apply(pod)) => drop(known.insert(pod.name_any())),
                    Ok(Event::Delete(pod)) => drop(known.remove(&pod.name_any())),
                    // The watcher tries again when it is asked again.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            relists
        };
        assert_eq!(follow(&["a"]).await, 1);
        server.apply(pod("b", "n1", json!({})));
        assert_eq!(follow(&["a", "b"]).await, 1, "a watch, no new list");

        server.stop().await;
        server.apply(pod("c", "n1", json!({})));
        server.delete("pods", "default", "a");
        server.compact();
        server.resume().await;
        assert_eq!(follow(&["b", "c"]).await, 2, "its version is forgotten: it lists again");

        server.cut_watches();
        server.apply(pod("d", "n1", json!({})));
        assert_eq!(follow(&["b", "c", "d"]).await, 2, "it goes on from the last version it saw");

        server.set(|knobs| knobs.events_per_watch = Some(1));
        server.cut_watches();
        for name in ["e", "f", "g"] {
            server.apply(pod(name, "n1", json!({})));
        }
        assert_eq!(follow(&["b", "c", "d", "e", "f", "g"]).await, 2, "every event ends the watch");
    }
}

#[tokio::test]
async fn initial_events_bookmarks_and_timeouts_of_a_watch() {
    let server = KubeApi::start().await;
    server.set(|knobs| knobs.bookmark_every = Duration::from_millis(50));
    server.apply(pod("a", "n1", json!({})));
    let pods: Api<Pod> = Api::all(server.client());
    let streaming = WatchParams { send_initial_events: true, ..WatchParams::default() };
    let stream = pods.watch(&streaming, "").await.unwrap();
    pin_mut!(stream);
    assert!(matches!(next(&mut stream).await.unwrap(), WatchEvent::Added(pod) if pod.name_any() == "a"));
    for wanted in [Some("true"), None] {
        let WatchEvent::Bookmark(bookmark) = next(&mut stream).await.unwrap() else {
            panic!("a bookmark ends the initial events, and others follow");
        };
        let end = bookmark.metadata.annotations.get("k8s.io/initial-events-end").map(String::as_str);
        assert_eq!(end, wanted);
    }
    server.set(|knobs| knobs.streaming_lists = false);
    assert_eq!(refusal(pods.watch(&streaming, "").await.map(drop)), (422, "Invalid".to_owned()));

    let brief = WatchParams::default().timeout(1).disable_bookmarks();
    let stream = pods.watch(&brief, "0").await.unwrap();
    let events: Vec<_> = soon(stream.collect()).await;
    assert_eq!(events.len(), 1, "the object that is there, then the end of the time");

    server.apply(pod("b", "n1", json!({})));
    server.compact();
    let stream = pods.watch(&WatchParams::default(), "1").await.unwrap();
    pin_mut!(stream);
    let WatchEvent::Error(status) = next(&mut stream).await.unwrap() else {
        panic!("version 1 is forgotten")
    };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn refusals_are_status_objects_and_calls_are_recorded() {
    let server = KubeApi::start().await;
    let pods: Api<Pod> = Api::all(server.client());
    server.set(|knobs| knobs.forbidden.extend([("list".into(), "pods".into())]));
    let Err(kube::Error::Api(status)) = pods.list(&ListParams::default()).await else { panic!("forbidden") };
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        status.message,
        "pods is forbidden: User \"system:serviceaccount:kube-system:espalier-agent\" cannot list resource \"pods\" \
         in API group \"\" at the cluster scope"
    );
    server.set(|knobs| {
        knobs.forbidden.clear();
        knobs.rules = Some(vec![json!({ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] })]);
    });
    let nodes: Api<Node> = Api::all(server.client());
    assert_eq!(refusal(nodes.get("n1").await), (404, "NotFound".to_owned()), "granted, though there is none");
    assert_eq!(refusal(nodes.list(&ListParams::default()).await), (403, "Forbidden".to_owned()));
    server.set(|knobs| {
        knobs.rules = None;
        knobs.token = Some("another".to_owned());
    });
    assert_eq!(refusal(pods.list(&ListParams::default()).await), (401, "Unauthorized".to_owned()));
    server.set(|knobs| {
        knobs.token = None;
        knobs.broken = Some(500);
    });
    assert_eq!(refusal(pods.list(&ListParams::default()).await), (500, "InternalError".to_owned()));
    server.set(|knobs| {
        knobs.broken = None;
        knobs.hidden.insert("pods".into());
    });
    assert_eq!(refusal(pods.list(&ListParams::default()).await).0, 404);
    let calls = [("get", "", "nodes"), ("list", "", "nodes"), ("list", "", "pods")];
    assert_eq!(server.calls(), calls.map(|(verb, group, name)| (verb, group, name.to_owned())).into());
}

#[tokio::test]
async fn discovery_namespaces_metadata_and_a_kubeconfig_are_as_clients_expect() {
    let server = KubeApi::start().await;
    server.apply(pod("a", "n1", json!({})));
    let config = kube::config::Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    let groups = client.list_api_groups().await.unwrap();
    let names: Vec<_> = groups.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["events.k8s.io", "vpcresources.k8s.aws"]);
    let kinds = client.list_api_group_resources("vpcresources.k8s.aws/v1beta1").await.unwrap();
    assert_eq!(kinds.resources[0].kind, "SecurityGroupPolicy");

    let pods: Api<Pod> = Api::all(client.clone());
    let metadata = pods.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items[0].name_any(), "a");
    assert_eq!(pods.get("a").await.map_err(|_| ()), Err(()), "a pod has a namespace");
    let namespace = Api::<Namespace>::all(client.clone()).get("default").await.unwrap();
    assert_eq!(namespace.labels()["kubernetes.io/metadata.name"], "default");
    let account = Api::<ServiceAccount>::default_namespaced(client).get("default").await.unwrap();
    assert_eq!(account.name_any(), "default");
    assert_eq!(server.objects("pods").len(), 1);
}
