//! Where a pod's traffic enters the node: the host end of its veth by the AWS CNI's name rule, or its namespace.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use espalier_api::PodName;
use sha1::{Digest, Sha1};

use super::Namespaces;

/// How pods' ports are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodPorts {
    /// Prefix (`vlan` in strict mode, `eni` in standard mode) and 11 hex digits of SHA-1 of `namespace.name`.
    Named(String),
    /// The namespace that has the pod's address.
    Walked(Arc<Namespaces>),
}

impl PodPorts {
    /// `veth` or `netns` of a pod.
    pub(super) fn find(
        &self,
        pod: &PodName,
        addresses: &[IpAddr],
    ) -> Result<(Option<String>, Option<PathBuf>), String> {
        match self {
            Self::Named(prefix) => Ok((Some(host_veth(prefix, pod)), None)),
            Self::Walked(namespaces) => {
                let netns = addresses.iter().find_map(|address| namespaces.get(address));
                let netns = netns.ok_or_else(|| {
                    let shown = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    format!("no network namespace of this node has {shown} yet")
                })?;
                Ok((None, Some(netns.clone())))
            }
        }
    }
}

/// Name of the host end (amazon-vpc-cni-k8s `pkg/networkutils/names.go`).
pub(super) fn host_veth(prefix: &str, pod: &PodName) -> String {
    let digest = Sha1::digest(format!("{}.{}", pod.namespace(), pod.name()));
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", &hex[..11])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_cnis() {
        // `printf default.web-0 | sha1sum`
        let pod = "default/web-0".parse().unwrap();
        assert_eq!(host_veth("eni", &pod), "eni0d7763386da");
        assert_eq!(host_veth("vlan", &pod).len(), 15);
    }
}
