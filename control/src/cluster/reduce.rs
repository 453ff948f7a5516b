//! From Kubernetes objects to what the agent keeps of them.
//!
//! Used by both cluster sources. The custom resource is typed as the published CRD
//! (`vpcresources.k8s.aws_securitygrouppolicies.yaml`): every field of its spec is optional.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::{Branch, Cluster, Labels, NodeFacts, ObjectName, POD_ENI_ANNOTATION, PodClass, PodFacts};

/// Spec of a SecurityGroupPolicy, as AWS publishes it.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "vpcresources.k8s.aws",
    version = "v1beta1",
    kind = "SecurityGroupPolicy",
    plural = "securitygrouppolicies",
    singular = "securitygrouppolicy",
    shortname = "sgp",
    namespaced,
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupPolicySpec {
    /// Selects by the pod's labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Selects by the labels of the pod's service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<LabelSelector>,
    /// The groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<SecurityGroups>,
}

/// Groups of a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroups {
    /// `sg-…` each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_ids: Option<Vec<String>>,
}

/// Name of a namespaced object.
pub(crate) fn object_name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// A pod, unless its name is none that Kubernetes allows.
pub(crate) fn pod(pod: &Pod) -> Option<PodFacts> {
    let metadata = &pod.metadata;
    let name = object_name(metadata).to_string().parse().ok()?;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let listed = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| &ip.ip);
    let mut addresses: Vec<_> = listed.filter_map(|ip| ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.and_then(|status| status.pod_ip.as_ref()?.parse::<std::net::IpAddr>().ok()));
    }
    let phase = status.and_then(|status| status.phase.as_deref());
    let account = spec.and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
    let annotation = metadata.annotations.as_ref().and_then(|all| all.get(POD_ENI_ANNOTATION));
    Some(PodFacts {
        name,
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        labels: metadata.labels.clone().unwrap_or_default(),
        service_account: account.unwrap_or_else(|| "default".to_owned()),
        class: class(pod),
        terminating: metadata.deletion_timestamp.is_some(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        addresses,
        branch: annotation.map(|text| Branch::parse(text)),
    })
}

/// In the order of the webhook that asks for branches.
fn class(pod: &Pod) -> PodClass {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return PodClass::HostNetwork;
    }
    if pod.metadata.labels.iter().flatten().any(|(key, _)| key == "eks.amazonaws.com/fargate-profile") {
        return PodClass::Fargate;
    }
    let node_selector = spec.and_then(|spec| spec.node_selector.as_ref());
    let windows = ["kubernetes.io/os", "beta.kubernetes.io/os"]
        .into_iter()
        .any(|key| node_selector.and_then(|all| all.get(key)).is_some_and(|os| os == "windows"));
    if windows { PodClass::Windows } else { PodClass::Linux }
}

/// The part of a service account that policies look at.
pub(crate) fn service_account(account: &ServiceAccount) -> Labels {
    account.metadata.labels.clone().unwrap_or_default()
}

/// The part of a namespace that the agent looks at: its annotations of this project.
pub(crate) fn namespace(namespace: &Namespace) -> Labels {
    let own = |key: &str| key.starts_with("espalier.dev/");
    let annotations = namespace.metadata.annotations.iter().flatten();
    annotations.filter(|(key, _)| own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Takes over what a Node says.
pub(crate) fn node(node: &Node, facts: &mut NodeFacts) {
    let labels = node.metadata.labels.as_ref();
    facts.instance_type = labels.and_then(|all| all.get("node.kubernetes.io/instance-type")).cloned();
    let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
    let last = provider.and_then(|id| id.rsplit('/').next());
    facts.instance_id = last.filter(|id| id.starts_with("i-")).map(str::to_owned);
}

/// Whether a CNINode's `spec.features` asks for branches.
pub(crate) fn asks_for_branches(cni_node: &serde_json::Value) -> bool {
    let features = cni_node.pointer("/spec/features").and_then(serde_json::Value::as_array);
    features.into_iter().flatten().any(|feature| feature["name"] == "SecurityGroupsForPods")
}

/// How many objects of each kind are known.
pub(crate) fn counts(cluster: &Cluster) -> BTreeMap<String, u64> {
    [
        ("pods", cluster.pods.len()),
        ("securitygrouppolicies", cluster.policies.len()),
        ("serviceaccounts", cluster.service_accounts.len()),
        ("namespaces", cluster.namespaces.len()),
    ]
    .into_iter()
    .map(|(kind, count)| (kind.to_owned(), count as u64))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource;

    #[test]
    fn the_custom_resource_is_the_published_one() {
        assert_eq!(SecurityGroupPolicy::group(&()), "vpcresources.k8s.aws");
        assert_eq!(SecurityGroupPolicy::version(&()), "v1beta1");
        assert_eq!(SecurityGroupPolicy::plural(&()), "securitygrouppolicies");
    }

    #[test]
    fn pods_are_classed_as_the_webhook_does() {
        let classed = |json| pod(&serde_json::from_value(json).unwrap()).unwrap().class;
        let meta = serde_json::json!({"namespace": "a", "name": "b"});
        assert_eq!(classed(serde_json::json!({"metadata": meta})), PodClass::Linux);
        let host = serde_json::json!({"metadata": meta, "spec": {"hostNetwork": true, "containers": []}});
        assert_eq!(classed(host), PodClass::HostNetwork);
        let windows = serde_json::json!({"metadata": meta, "spec": {"containers": [],
            "nodeSelector": {"kubernetes.io/os": "windows"}}});
        assert_eq!(classed(windows), PodClass::Windows);
    }

    #[test]
    fn the_node_tells_its_type_and_instance() {
        let mut facts = NodeFacts::default();
        let json = serde_json::json!({"metadata": {"name": "n", "labels": {"node.kubernetes.io/instance-type": "m5.large"}},
            "spec": {"providerID": "aws:///eu-west-1a/i-0123"}});
        node(&serde_json::from_value(json).unwrap(), &mut facts);
        assert_eq!(facts.instance_type.as_deref(), Some("m5.large"));
        assert_eq!(facts.instance_id.as_deref(), Some("i-0123"));
        assert!(asks_for_branches(
            &serde_json::json!({"spec": {"features": [{"name": "SecurityGroupsForPods"}]}})
        ));
    }
}
