//! The objects a watch has told of, reduced, and whether a notice changed anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use espalier_api::PodName;

use super::watches::{Kind, Object};
use crate::cluster::{Labels, NodeFacts, ObjectName, PodFacts, Policy};

/// Objects by name.
#[derive(Default)]
pub(super) struct Known {
    pub(super) pods: BTreeMap<PodName, Arc<PodFacts>>,
    pub(super) policies: BTreeMap<ObjectName, Arc<Policy>>,
    pub(super) service_accounts: BTreeMap<ObjectName, Arc<Labels>>,
    pub(super) namespaces: BTreeMap<String, Arc<Labels>>,
    pub(super) node: NodeFacts,
}

impl Known {
    /// Notes an object; says whether it differs from what was known.
    pub(super) fn put(&mut self, key: &str, object: Object) -> bool {
        match object {
            Object::Pod(pod) => note(&mut self.pods, pod.name.clone(), pod),
            Object::Policy(policy) => note(&mut self.policies, policy.name.clone(), policy),
            Object::ServiceAccount(labels) => note(&mut self.service_accounts, object_name(key), labels),
            Object::Namespace(annotations) => note(&mut self.namespaces, key.to_owned(), annotations),
            Object::Node(node) => {
                let facts = NodeFacts { asks_for_branches: self.node.asks_for_branches, ..node };
                std::mem::replace(&mut self.node, facts) != self.node
            }
            Object::CniNode(asks) => self.node.asks_for_branches.replace(asks) != Some(asks),
        }
    }

    /// Forgets an object; says whether it was known.
    pub(super) fn remove(&mut self, kind: Kind, key: &str) -> bool {
        match kind {
            Kind::Pod => key.parse().is_ok_and(|name: PodName| self.pods.remove(&name).is_some()),
            Kind::Policy => self.policies.remove(&object_name(key)).is_some(),
            Kind::ServiceAccount => self.service_accounts.remove(&object_name(key)).is_some(),
            Kind::Namespace => self.namespaces.remove(key).is_some(),
            Kind::Node => false,
            Kind::CniNode => self.node.asks_for_branches.take().is_some(),
        }
    }

    /// Forgets what a complete list did not have; says whether there was any.
    pub(super) fn retain(&mut self, kind: Kind, listed: &BTreeSet<String>) -> bool {
        let keys: Vec<String> = match kind {
            Kind::Pod => self.pods.keys().map(ToString::to_string).collect(),
            Kind::Policy => self.policies.keys().map(ToString::to_string).collect(),
            Kind::ServiceAccount => self.service_accounts.keys().map(ToString::to_string).collect(),
            Kind::Namespace => self.namespaces.keys().cloned().collect(),
            Kind::Node => Vec::new(),
            Kind::CniNode if listed.is_empty() => vec![String::new()],
            Kind::CniNode => Vec::new(),
        };
        let gone = keys.iter().filter(|key| !listed.contains(*key));
        gone.filter(|key| self.remove(kind, key)).count() > 0
    }
}

fn note<K: Ord, V: PartialEq>(objects: &mut BTreeMap<K, Arc<V>>, key: K, value: V) -> bool {
    if objects.get(&key).is_some_and(|known| **known == value) {
        return false;
    }
    objects.insert(key, Arc::new(value));
    true
}

fn object_name(key: &str) -> ObjectName {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_removes_what_it_does_not_have() {
        let mut known = Known::default();
        for name in ["a/x", "a/y"] {
            assert!(known.put(name, Object::ServiceAccount(Labels::new())));
            assert!(!known.put(name, Object::ServiceAccount(Labels::new())));
        }
        assert!(known.retain(Kind::ServiceAccount, &BTreeSet::from(["a/y".to_owned()])));
        assert_eq!(known.service_accounts.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a/y"]);
        assert!(!known.retain(Kind::ServiceAccount, &BTreeSet::from(["a/y".to_owned()])));
        assert!(known.remove(Kind::ServiceAccount, "a/y"));
    }

    #[test]
    fn the_node_and_its_cninode_are_kept_apart() {
        let mut known = Known::default();
        assert!(known.put("n", Object::CniNode(true)));
        let node = NodeFacts { instance_type: Some("m5.large".into()), ..NodeFacts::default() };
        assert!(known.put("n", Object::Node(node.clone())) && !known.put("n", Object::Node(node)));
        assert_eq!(known.node.asks_for_branches, Some(true));
        assert!(known.retain(Kind::CniNode, &BTreeSet::new()));
        assert_eq!(known.node.asks_for_branches, None);
    }
}
