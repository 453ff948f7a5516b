//! What is found on the node itself: the trunk's network interface, and the pods' network namespaces.
//!
//! Read from sysfs and, where asked, by looking into each namespace of a folder; polled by the agent, since neither
//! needs a privilege to be read and changes are rare.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use espalier_api::Mac;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::config::{Ports, Trunk};
use crate::desired::{Namespaces, Places, PodPorts};
use crate::facts::Facts;

mod netns;

/// A pod's namespace has its addresses a moment after it is made.
const AGAIN: Duration = Duration::from_secs(1);

/// Where the kernel lists the network interfaces.
const INTERFACES: &str = "/sys/class/net";

/// Looks around.
pub struct Lookout {
    trunk: Trunk,
    ports: Ports,
    namespaces: BTreeMap<PathBuf, Seen>,
}

/// A namespace that was looked into.
struct Seen {
    inode: u64,
    addresses: Vec<IpAddr>,
}

impl Lookout {
    /// Looks for the trunk and the ports as set.
    pub fn new(trunk: Trunk, ports: Ports) -> Self {
        Self { trunk, ports, namespaces: BTreeMap::new() }
    }

    /// Looks. Blocking, for milliseconds.
    pub fn look(&mut self, facts: &Facts) -> Places {
        Places { trunk: self.trunk(facts), ports: self.pod_ports() }
    }

    fn trunk(&self, facts: &Facts) -> Result<String, String> {
        match &self.trunk {
            Trunk::Interface(name) => Ok(name.clone()),
            Trunk::Mac(mac) => interface_with(*mac, Path::new(INTERFACES)),
            Trunk::Eni(eni) => {
                let mac = facts.interfaces.get(eni).and_then(|interface| interface.mac);
                let mac = mac.ok_or_else(|| format!("the MAC address of {eni} is not known from EC2"))?;
                interface_with(mac, Path::new(INTERFACES)).map_err(|error| format!("{eni}: {error}"))
            }
        }
    }

    fn pod_ports(&mut self) -> PodPorts {
        match &self.ports {
            Ports::Prefix(prefix) => PodPorts::Named(prefix.clone()),
            Ports::Netns(folder) => {
                self.walk(&folder.clone());
                let mut namespaces = Namespaces::new();
                for (path, seen) in &self.namespaces {
                    namespaces.extend(seen.addresses.iter().map(|address| (*address, path.clone())));
                }
                PodPorts::Walked(Arc::new(namespaces))
            }
        }
    }

    /// Looks into the namespaces that are new, have changed, or had no address yet.
    fn walk(&mut self, folder: &Path) {
        let listed: BTreeMap<PathBuf, u64> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).ok()?);
                Some((path, inode))
            })
            .collect();
        self.namespaces
            .retain(|path, seen| listed.get(path) == Some(&seen.inode) && !seen.addresses.is_empty());
        for (path, inode) in listed {
            if self.namespaces.contains_key(&path) {
                continue;
            }
            match netns::addresses(&path) {
                Ok(addresses) => {
                    self.namespaces.insert(path, Seen { inode, addresses });
                }
                Err(error) => tracing::debug!(netns = %path.display(), error, "cannot be looked into"),
            }
        }
    }
}

/// Looks whenever something changed, and now and then; says what is new.
pub fn follow(
    mut lookout: Lookout,
    mut facts: watch::Receiver<Arc<Facts>>,
    mut cluster: watch::Receiver<Arc<Cluster>>,
) -> watch::Receiver<Arc<Places>> {
    let places = Arc::new(lookout.look(&facts.borrow_and_update()));
    let (sender, receiver) = watch::channel(places);
    tokio::spawn(async move {
        let mut again = tokio::time::interval(AGAIN);
        loop {
            let open = tokio::select! {
                changed = facts.changed() => changed.is_ok(),
                changed = cluster.changed() => changed.is_ok(),
                _ = again.tick() => true,
                () = sender.closed() => false,
            };
            if !open {
                return;
            }
            cluster.mark_unchanged();
            let known = Arc::clone(&facts.borrow_and_update());
            let looked = tokio::task::spawn_blocking(move || {
                let places = lookout.look(&known);
                (lookout, places)
            });
            let Ok((back, places)) = looked.await else { return };
            lookout = back;
            sender.send_if_modified(|last| {
                let changed = **last != places;
                if changed {
                    *last = Arc::new(places);
                }
                changed
            });
        }
    });
    receiver
}

/// The interface with a MAC address: the hardware's own where several have it, as VLAN devices have their parent's.
fn interface_with(mac: Mac, folder: &Path) -> Result<String, String> {
    let mut found: Vec<(bool, String)> = std::fs::read_dir(folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let address = std::fs::read_to_string(entry.path().join("address")).ok()?;
            let same = address.trim().parse::<Mac>().ok()? == mac;
            same.then(|| {
                (!entry.path().join("device").exists(), entry.file_name().to_string_lossy().into_owned())
            })
        })
        .collect();
    found.sort();
    let first = found.into_iter().next();
    first
        .map(|(_, name)| name)
        .ok_or_else(|| format!("no network interface of this node has MAC address {mac}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_lab::netns::{NetNs, unique_name};

    #[test]
    fn the_hardware_is_preferred_among_interfaces_with_one_mac() {
        let folder = tempfile::tempdir().unwrap();
        for (name, address, device) in [
            ("eth1", "06:00:00:00:00:01", true),
            ("aaa.1", "06:00:00:00:00:01", false),
            ("lo", "00:00:00:00:00:00", false),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(if device { path.join("device") } else { path.clone() }).unwrap();
            std::fs::write(path.join("address"), format!("{address}\n")).unwrap();
        }
        let mac = "06:00:00:00:00:01".parse().unwrap();
        assert_eq!(interface_with(mac, folder.path()).unwrap(), "eth1");
        let other = "06:00:00:00:00:02".parse().unwrap();
        assert!(interface_with(other, folder.path()).unwrap_err().contains("06:00:00:00:00:02"));
    }

    #[test]
    fn pods_are_found_by_the_addresses_in_their_namespaces() {
        let folder = tempfile::tempdir().unwrap();
        let mut lookout =
            Lookout::new(Trunk::Interface("trunk0".to_owned()), Ports::Netns(folder.path().to_path_buf()));
        let mut seen = || match lookout.pod_ports() {
            PodPorts::Walked(namespaces) => (*namespaces).clone(),
            PodPorts::Named(prefix) => panic!("named by {prefix}"),
        };
        assert_eq!(seen(), Namespaces::new());

        let netns = NetNs::create(unique_name("walk")).unwrap();
        let path = folder.path().join("pod");
        std::os::unix::fs::symlink(netns.path(), &path).unwrap();
        assert_eq!(seen(), Namespaces::new(), "no address yet");
        netns.ip("addr add 10.9.8.7/32 dev lo\naddr add 2001:db8::7/128 dev lo\nlink set lo up").unwrap();
        let expected: Namespaces =
            ["10.9.8.7", "2001:db8::7"].map(|address| (address.parse().unwrap(), path.clone())).into();
        assert_eq!(seen(), expected, "only addresses that are valid beyond the host");

        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen(), Namespaces::new());
    }
}
