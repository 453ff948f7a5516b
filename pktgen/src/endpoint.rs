//! Where frames leave or arrive: an interface, in this network namespace or another (`[NETNS:]INTERFACE`).
//! Entered by the thread that will own the sockets there.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use espalier_xsk::InterfaceRef;
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};

use crate::error::PktgenError;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// An interface by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name of `ip netns`, or the path of a namespace's file; this namespace without.
    pub namespace: Option<String>,
    /// The interface.
    pub interface: String,
}

impl Endpoint {
    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<(), PktgenError> {
        let Some(name) = &self.namespace else { return Ok(()) };
        let path = if name.contains('/') { PathBuf::from(name) } else { Path::new(NAMES).join(name) };
        let enter = || {
            let file = File::open(&path)?;
            Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
        };
        enter().map_err(|source| PktgenError::Namespace { path: path.clone(), source })
    }

    /// The interface, looked up in the calling thread's namespace.
    pub fn look_up(&self) -> Result<InterfaceRef, PktgenError> {
        Ok(espalier_xsk::interface(&self.interface)?)
    }
}

/// Keeps the calling thread on one core.
pub fn pin(core: Option<usize>) -> Result<(), PktgenError> {
    let Some(core) = core else { return Ok(()) };
    let mut set = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        return Err(PktgenError::Core { core, source });
    }
    set.set(core);
    sched_setaffinity(None, &set).map_err(|errno| PktgenError::Core { core, source: errno.into() })
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Interface names hold no colon (linux net/core/dev.c, dev_valid_name).
        let (namespace, interface) = match text.rsplit_once(':') {
            Some((namespace, interface)) => (Some(namespace.to_owned()), interface),
            None => (None, text),
        };
        if interface.is_empty() || namespace.as_ref().is_some_and(String::is_empty) {
            return Err(format!(
                "{text:?} is no interface: use eth0, or blue:eth0 for eth0 in namespace blue"
            ));
        }
        Ok(Self { namespace, interface: interface.to_owned() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}:{}", self.interface),
            None => f.write_str(&self.interface),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_with_and_without_a_namespace() {
        for (text, namespace, interface) in [
            ("eth0", None, "eth0"),
            ("blue:eth0", Some("blue"), "eth0"),
            ("/proc/1/ns/net:lo", Some("/proc/1/ns/net"), "lo"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.namespace.as_deref(), namespace);
            assert_eq!((endpoint.interface.as_str(), endpoint.to_string()), (interface, text.to_owned()));
        }
        for wrong in ["", ":eth0", "blue:"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let endpoint: Endpoint = "pktgen-no-such-namespace:eth0".parse().unwrap();
        let error = endpoint.enter().unwrap_err().to_string();
        assert!(error.contains("/run/netns/pktgen-no-such-namespace"), "{error}");
        assert!(pin(None).is_ok());
        assert!(matches!(pin(Some(1 << 20)), Err(PktgenError::Core { .. })));
    }
}
