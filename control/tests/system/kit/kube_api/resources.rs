//! The kinds the test API server knows, and the discovery documents that list them.
//!
//! Adding a kind is a line in [`RESOURCES`]; everything else (paths, lists, watches, discovery) follows from it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A kind of object, as discovery describes it.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    /// Has a `status` subresource: then the object itself cannot change its status, and the other way round.
    pub(crate) status: bool,
    /// Fields a field selector may name, beside `metadata.name` and `metadata.namespace`.
    pub(crate) field_labels: &'static [&'static str],
}

const fn core(plural: &'static str, kind: &'static str, namespaced: bool, status: bool) -> Resource {
    Resource { group: "", version: "v1", plural, kind, namespaced, status, field_labels: &[] }
}

/// Everything served.
pub(crate) static RESOURCES: [Resource; 9] = [
    Resource {
        field_labels: &["spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"],
        ..core("pods", "Pod", true, true)
    },
    core("serviceaccounts", "ServiceAccount", true, false),
    Resource { field_labels: &["status.phase"], ..core("namespaces", "Namespace", false, true) },
    Resource { field_labels: &["spec.unschedulable"], ..core("nodes", "Node", false, true) },
    core("configmaps", "ConfigMap", true, false),
    Resource {
        field_labels: &["involvedObject.kind", "involvedObject.name", "involvedObject.uid", "reason", "type"],
        ..core("events", "Event", true, false)
    },
    Resource {
        group: "events.k8s.io",
        field_labels: &["regarding.kind", "regarding.name", "regarding.uid", "reason", "type"],
        ..core("events", "Event", true, false)
    },
    Resource {
        group: "vpcresources.k8s.aws",
        version: "v1beta1",
        ..core("securitygrouppolicies", "SecurityGroupPolicy", true, false)
    },
    Resource {
        group: "vpcresources.k8s.aws",
        version: "v1alpha1",
        ..core("cninodes", "CNINode", false, false)
    },
];

impl Resource {
    /// The `apiVersion` of its objects.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, or `cninodes.vpcresources.k8s.aws`, as Kubernetes writes it in messages.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The resource of an object by its `apiVersion` and `kind`.
    pub(crate) fn of(object: &Value) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| object["apiVersion"] == r.api_version() && object["kind"] == r.kind)
    }

    /// The resource under a path.
    pub(crate) fn at(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
    }

    fn described(&self) -> Vec<Value> {
        let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
        let mut described = vec![json!({
            "name": self.plural, "singularName": self.kind.to_lowercase(), "namespaced": self.namespaced,
            "kind": self.kind, "verbs": verbs,
        })];
        if self.status {
            described.push(json!({
                "name": format!("{}/status", self.plural), "singularName": "", "namespaced": self.namespaced,
                "kind": self.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        described
    }
}

/// The document under a discovery path (`/version`, `/api`, `/apis/GROUP/VERSION` …), without the kinds in `hidden`.
pub(crate) fn discovery(path: &[&str], hidden: &BTreeSet<String>) -> Option<Value> {
    let served = || RESOURCES.iter().filter(|r| !hidden.contains(r.plural));
    match path {
        ["version"] => Some(json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2025-04-23T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/amd64",
        })),
        ["api"] => {
            Some(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
        }
        ["api", "v1"] => Some(list_of(served().filter(|r| r.group.is_empty()), "v1")),
        ["apis"] => {
            let names: BTreeSet<_> = served().map(|r| r.group).filter(|group| !group.is_empty()).collect();
            let groups: Vec<_> = names.into_iter().map(|name| group(name, served())).collect();
            Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["apis", name] => served().any(|r| r.group == *name).then(|| group(name, served())),
        ["apis", name, version] => {
            let kinds: Vec<_> = served().filter(|r| r.group == *name && r.version == *version).collect();
            (!kinds.is_empty()).then(|| list_of(kinds.into_iter(), &format!("{name}/{version}")))
        }
        _ => None,
    }
}

fn list_of<'a>(kinds: impl Iterator<Item = &'a Resource>, version: &str) -> Value {
    let resources: Vec<_> = kinds.flat_map(Resource::described).collect();
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources })
}

fn group<'a>(name: &str, kinds: impl Iterator<Item = &'a Resource>) -> Value {
    let versions: BTreeSet<_> = kinds.filter(|r| r.group == name).map(|r| r.version).collect();
    let version = |v: &str| json!({ "groupVersion": format!("{name}/{v}"), "version": v });
    // A beta comes before an alpha; no group here has a stable version beside either.
    let versions: Vec<_> = versions.into_iter().rev().map(version).collect();
    json!({ "kind": "APIGroup", "apiVersion": "v1", "name": name, "preferredVersion": versions[0], "versions": versions })
}
