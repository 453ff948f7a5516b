//! The steering's tables: branches, local addresses, pods and sockets, as the programs look them up.
//! The first part is the public setters, called by the switch's management thread; the second serves
//! `Steering::open` and the attachments. Promises that setting what is set and removing what is absent are no errors.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapError;

use super::object::{AddressKey, Object};
use super::pins::{LinkName, Program};
use super::{Steering, SteeringError, chain, check_vlan};

impl Steering {
    /// Whether frames with this VLAN go to the switch.
    pub fn set_branch(&mut self, vlan: u16, present: bool) -> Result<(), SteeringError> {
        check_vlan(vlan)?;
        let done = self.object.branch_vlans.set(u32::from(vlan), u32::from(present), 0);
        done.map_err(|e| map_error("branch_vlans", format!("set VLAN {vlan}"), &e))?;
        if present {
            self.branches.insert(vlan)
        } else {
            self.branches.remove(&vlan)
        };
        Ok(())
    }

    /// The VLANs whose frames go to the switch.
    pub fn branches(&self) -> &BTreeSet<u16> {
        &self.branches
    }

    /// Whether pods' frames to this address stay on the node, and therefore untagged.
    pub fn set_local_address(&mut self, address: IpAddr, present: bool) -> Result<(), SteeringError> {
        let address = address.to_canonical();
        let map = &mut self.object.local_addresses;
        let done = match present {
            true => map.insert(address_key(address), 1, 0),
            false => map.remove(&address_key(address)).or_else(absent_is_fine),
        };
        done.map_err(|e| map_error("local_addresses", format!("set {address}"), &e))?;
        if present {
            self.local_addresses.insert(address)
        } else {
            self.local_addresses.remove(&address)
        };
        Ok(())
    }

    /// The addresses of pods on this node.
    pub fn local_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.local_addresses
    }

    /// Directs the branch frames of a queue of the trunk to this AF_XDP socket, which must be bound to that queue.
    pub fn set_trunk_socket(&mut self, queue: u32, socket: impl AsFd) -> Result<(), SteeringError> {
        let done = self.object.trunk_sockets.set(queue, socket.as_fd().as_raw_fd(), 0);
        done.map_err(|e| map_error("trunk_sockets", format!("set queue {queue}"), &e))
    }

    /// Drops the branch frames of a queue of the trunk from now on.
    pub fn clear_trunk_socket(&mut self, queue: u32) -> Result<(), SteeringError> {
        let done = self.object.trunk_sockets.unset(queue).or_else(absent_is_fine);
        done.map_err(|e| map_error("trunk_sockets", format!("clear queue {queue}"), &e))
    }

    /// Directs the frames of the pod in this slot to this AF_XDP socket, which must be bound to queue 0 of its veth.
    pub fn set_pod_socket(&mut self, slot: u16, socket: impl AsFd) -> Result<(), SteeringError> {
        self.check_slot(slot)?;
        let done = self.object.pod_sockets.set(u32::from(slot), socket.as_fd().as_raw_fd(), 0);
        done.map_err(|e| map_error("pod_sockets", format!("set slot {slot}"), &e))
    }

    /// Drops the frames of the pod in this slot from now on.
    pub fn clear_pod_socket(&mut self, slot: u16) -> Result<(), SteeringError> {
        self.check_slot(slot)?;
        let done = self.object.pod_sockets.unset(u32::from(slot)).or_else(absent_is_fine);
        done.map_err(|e| map_error("pod_sockets", format!("clear slot {slot}"), &e))
    }
}

/// Makes the program's table of pods say what the pins say.
pub(super) fn sync_pods(object: &mut Object, links: &[LinkName]) -> Result<(), SteeringError> {
    let stale: Vec<u32> =
        object.pods.keys().flatten().filter(|key| !links.iter().any(|link| link.interface == *key)).collect();
    for interface in stale {
        remove_pod(object, interface)?;
    }
    for link in links {
        if let Program::Pod { slot, vlan } = link.program {
            write_pod(object, link.interface, slot, vlan)?;
        }
    }
    Ok(())
}

pub(super) fn write_pod(
    object: &mut Object,
    interface: u32,
    slot: u16,
    vlan: u16,
) -> Result<(), SteeringError> {
    let done = object.pods.insert(interface, [slot, vlan], 0);
    done.map_err(|e| map_error("pods", format!("set interface index {interface}"), &e))
}

pub(super) fn remove_pod(object: &mut Object, interface: u32) -> Result<(), SteeringError> {
    let done = object.pods.remove(&interface).or_else(absent_is_fine);
    done.map_err(|e| map_error("pods", format!("remove interface index {interface}"), &e))
}

pub(super) fn read_branches(object: &Object) -> Result<BTreeSet<u16>, SteeringError> {
    let mut branches = BTreeSet::new();
    for vlan in 1..=4094 {
        let set = object.branch_vlans.get(&u32::from(vlan), 0);
        if set.map_err(|e| map_error("branch_vlans", format!("read VLAN {vlan}"), &e))? != 0 {
            branches.insert(vlan);
        }
    }
    Ok(branches)
}

pub(super) fn read_local_addresses(object: &Object) -> Result<BTreeSet<IpAddr>, SteeringError> {
    let address = |key: AddressKey| IpAddr::V6(Ipv6Addr::from(key)).to_canonical();
    let keys: Result<_, _> = object.local_addresses.keys().map(|key| key.map(address)).collect();
    keys.map_err(|e| map_error("local_addresses", "list addresses".to_owned(), &e))
}

/// Removing what is not there is done already.
fn absent_is_fine(error: MapError) -> Result<(), MapError> {
    match &error {
        MapError::KeyNotFound => Ok(()),
        MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        _ => Err(error),
    }
}

pub(super) fn map_error(map: &'static str, action: String, error: &dyn Error) -> SteeringError {
    SteeringError::Map { action, map, message: chain(error) }
}

fn address_key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
