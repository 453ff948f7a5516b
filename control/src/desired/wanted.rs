//! What the sources are to find out: what this node's pods need, and the groups a change of labels could give them.
//!
//! All policies of the namespaces that have a branch here are looked up, not only those that select a pod now: so a
//! label or policy change is enforced without a word from EC2.

use std::collections::BTreeSet;

use super::unprotected::DENIED_GROUP;
use super::{Draft, Rules, candidates};
use crate::cluster::Cluster;
use crate::facts::Wanted;

pub(super) fn wanted(rules: &Rules, cluster: &Cluster, previous: Option<&Draft>) -> Wanted {
    let mut wanted = Wanted {
        follow_interfaces: true,
        vpc_id: rules.vpc_id.clone(),
        instance_type: cluster.node.instance_type.clone(),
        ..Wanted::default()
    };
    wanted.interfaces.extend(rules.trunk_eni.clone());
    let mut namespaces = BTreeSet::new();
    for pod in candidates(cluster) {
        if let Some(Ok(branch)) = &pod.branch {
            wanted.interfaces.insert(branch.eni_id.clone());
            namespaces.insert(pod.name.namespace());
        }
    }
    if rules.group_source == super::GroupSource::Policy {
        let near =
            cluster.policies.values().filter(|policy| namespaces.contains(policy.name.namespace.as_str()));
        for policy in near.filter(|policy| policy.valid) {
            wanted.groups.extend(policy.groups.iter().cloned());
            wanted.named_groups.extend(policy.named_groups.iter().cloned());
        }
    }
    // A pod that keeps its last entry keeps its groups' rules up to date with it.
    let kept = previous.into_iter().flat_map(|previous| previous.pods.values());
    for pod in kept.filter(|pod| cluster.pods.contains_key(&pod.name)) {
        let real = pod.security_groups.iter().filter(|group| group.as_str() != DENIED_GROUP);
        wanted.groups.extend(real.cloned());
    }
    wanted
}
