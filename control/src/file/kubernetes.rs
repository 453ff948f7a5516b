//! Kubernetes objects from YAML and JSON files, several in a file or a List, as `kubectl get -o yaml` prints them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::reduce::{self, object_name};
use crate::cluster::{Cluster, Labels, NodeFacts, ObjectName, PodFacts, Policy, SecurityGroupPolicy};

/// An object of a kind the agent knows.
pub(super) enum Object {
    Pod { pod: PodFacts, node: Option<String> },
    Policy(Policy),
    ServiceAccount(ObjectName, Labels),
    Namespace(String, Labels),
    Node(String, NodeFacts),
    CniNode(String, bool),
}

/// The objects of a file; those of other kinds are passed over.
pub(super) fn objects(_path: &Path, bytes: &[u8]) -> Result<Vec<Object>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
    // A label may be `y` or `on`, as kubectl writes it.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| format!("not valid YAML: {error}"))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        read(document, &mut objects)?;
    }
    Ok(objects)
}

fn read(document: Value, objects: &mut Vec<Object>) -> Result<(), String> {
    let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() {
        return Err("an object without a kind: expected Kubernetes objects".to_owned());
    }
    match (group.as_str(), kind.as_str()) {
        (_, "List") => {
            let Value::Array(items) = document["items"].clone() else { return Ok(()) };
            return items.into_iter().try_for_each(|item| read(item, objects));
        }
        ("v1", "Pod") => {
            let pod: Pod = typed(document)?;
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let reduced = reduce::pod(&pod).ok_or("a Pod without namespace or name")?;
            objects.push(Object::Pod { pod: reduced, node });
        }
        ("v1", "ServiceAccount") => {
            let account: ServiceAccount = typed(document)?;
            let labels = reduce::service_account(&account);
            objects.push(Object::ServiceAccount(object_name(&account.metadata), labels));
        }
        ("v1", "Namespace") => {
            let namespace: Namespace = typed(document)?;
            let annotations = reduce::namespace(&namespace);
            objects.push(Object::Namespace(namespace.metadata.name.unwrap_or_default(), annotations));
        }
        ("v1", "Node") => {
            let node: Node = typed(document)?;
            let mut facts = NodeFacts::default();
            reduce::node(&node, &mut facts);
            objects.push(Object::Node(node.metadata.name.unwrap_or_default(), facts));
        }
        ("vpcresources.k8s.aws/v1beta1", "SecurityGroupPolicy") => {
            let policy: SecurityGroupPolicy = typed(document)?;
            objects.push(Object::Policy(Policy::new(&policy)));
        }
        ("vpcresources.k8s.aws/v1alpha1", "CNINode") => {
            let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            objects.push(Object::CniNode(name, reduce::asks_for_branches(&document)));
        }
        _ => {}
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(document: Value) -> Result<T, String> {
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    serde_path_to_error::deserialize(document).map_err(|error| format!("{kind} {name}: {error}"))
}

/// The cluster the files describe, seen from `node`.
pub(super) fn cluster(files: BTreeMap<PathBuf, Arc<Vec<Object>>>, node: &str) -> Cluster {
    let mut cluster = Cluster {
        synced: BTreeSet::from(["pods", "securitygrouppolicies", "serviceaccounts", "namespaces"]),
        ..Cluster::default()
    };
    for object in files.values().flat_map(|file| file.iter()) {
        match object {
            Object::Pod { pod, node: place } if place.as_deref().is_none_or(|place| place == node) => {
                cluster.pods.insert(pod.name.clone(), Arc::new(pod.clone()));
            }
            Object::Pod { .. } => {}
            Object::Policy(policy) => {
                cluster.policies.insert(policy.name.clone(), Arc::new(policy.clone()));
            }
            Object::ServiceAccount(name, labels) => {
                cluster.service_accounts.insert(name.clone(), Arc::new(labels.clone()));
            }
            Object::Namespace(name, annotations) => {
                cluster.namespaces.insert(name.clone(), Arc::new(annotations.clone()));
            }
            Object::Node(name, facts) if name == node => {
                let asks_for_branches = cluster.node.asks_for_branches;
                cluster.node = NodeFacts { asks_for_branches, ..facts.clone() };
            }
            Object::CniNode(name, asks) if name == node => cluster.node.asks_for_branches = Some(*asks),
            Object::Node(..) | Object::CniNode(..) => {}
        }
    }
    // In files a pod's `default` service account is seldom written down; its labels are none.
    for pod in cluster.pods.values() {
        let namespace = pod.name.namespace().to_owned();
        let account = ObjectName { namespace, name: pod.service_account.clone() };
        if account.name == "default" {
            cluster.service_accounts.entry(account).or_default();
        }
    }
    cluster
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_several_documents_are_read_and_other_kinds_passed_over() {
        let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {namespace: a, name: x}, spec: {nodeName: n1, containers: []}}
- {apiVersion: v1, kind: Pod, metadata: {namespace: a, name: y}, spec: {nodeName: n2, containers: []}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
---
apiVersion: vpcresources.k8s.aws/v1beta1
kind: SecurityGroupPolicy
metadata: {namespace: a, name: p}
spec: {podSelector: {}, securityGroups: {groupIds: [sg-1]}}
";
        let objects = objects(Path::new("x.yaml"), text.as_bytes()).unwrap();
        let cluster = cluster(BTreeMap::from([("x.yaml".into(), Arc::new(objects))]), "n1");
        assert_eq!(cluster.pods.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["a/x"]);
        assert_eq!(cluster.policies.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bad = "{apiVersion: v1, kind: Pod, metadata: {namespace: a, name: x, labels: [1]}}";
        let error = objects(Path::new("x"), bad.as_bytes()).err().unwrap();
        assert!(error.contains("Pod x: metadata"), "{error}");
        assert!(objects(Path::new("x"), b"{a: b}").err().unwrap().contains("without a kind"));
    }
}
