//! Answers ARP and IPv6 neighbour discovery on both sides, and asks for the neighbours the switch needs to know.
//!
//! To a pod the switch is every neighbour (its eth0 has a /32 and a link route); to the VPC it is the branch ENI. The
//! guard stage calls [`arp`] and [`nd`] with a parsed frame; `neighbour` calls the two request builders. Replies are
//! whole frames of their own: a received frame is never turned around, because its start cannot move.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use espalier_api::Mac;

use crate::flow::PodSlot;
use crate::neighbour::Link;
use crate::tables::PodTable;

mod arp;
mod nd;

pub use arp::{arp, arp_request};
pub use nd::{nd, neighbour_solicit};

/// Large enough for a tagged neighbour advertisement (90 bytes).
pub const MAX_FRAME: usize = 96;

/// A frame the switch made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Originated {
    /// The pod's port, or the trunk (`None`).
    pub to: Option<PodSlot>,
    /// The frame.
    pub bytes: ArrayVec<u8, MAX_FRAME>,
}

/// On which side of the switch a neighbour lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Behind the trunk: frames carry the branch's tag and MAC.
    Trunk,
    /// The pod: frames are untagged and carry the host veth's MAC.
    Pod,
}

/// What the responder knows of the two ends of one branch.
pub struct Ends<'a> {
    /// The pod's slot.
    pub slot: PodSlot,
    /// The branch.
    pub pod: &'a PodTable,
    /// What was learned about its neighbours.
    pub link: &'a mut Link,
}

impl Ends<'_> {
    /// The switch's own MAC towards `side`; `None` while the pod's port is down.
    fn own_mac(&self, side: Side) -> Option<[u8; 6]> {
        match side {
            Side::Trunk => Some(self.pod.mac),
            Side::Pod => self.link.host.map(|host| host.mac),
        }
    }

    fn owns_v4(&self, address: Ipv4Addr) -> bool {
        self.pod.owns(IpAddr::from(address).into())
    }

    fn owns_v6(&self, address: Ipv6Addr) -> bool {
        self.pod.owns(IpAddr::from(address).into())
    }

    /// Starts a frame from the switch towards `side`.
    fn frame(&self, side: Side, destination: [u8; 6], ethertype: u16) -> Option<Originated> {
        let mut bytes = ArrayVec::new();
        bytes.extend(destination);
        bytes.extend(self.own_mac(side)?);
        let to = match side {
            Side::Pod => Some(self.slot),
            Side::Trunk => {
                bytes.extend([0x81, 0x00]);
                bytes.extend(self.pod.vlan.to_be_bytes());
                None
            }
        };
        bytes.extend(ethertype.to_be_bytes());
        Some(Originated { to, bytes })
    }
}

/// Whether a MAC address can belong to one interface.
fn is_unicast(mac: [u8; 6]) -> bool {
    Mac::new(mac).is_some()
}
