//! The two ends of each branch as the worker sees them: the attached port, and the MAC addresses learned by asking.
//!
//! A gateway or pod that is not known yet is asked for at once and then with growing pauses; a known one is asked again
//! every minute, so that a changed MAC address is noticed without traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use espalier_api::Family;

use crate::clock;
use crate::flow::{Now, PodSlot};
use crate::ip::Ip;
use crate::responder::{Ends, Originated, Side, arp_request, neighbour_solicit};
use crate::tables::{PodTable, Tables};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const REFRESH: Duration = Duration::from_secs(60);

/// What a pod takes the switch for: the addresses of its default routes under the AWS CNI.
const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The host end of a pod's veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostEnd {
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its MTU.
    pub mtu: u32,
}

/// The ends of one branch.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// The pod's port; `None` while it is not attached.
    pub host: Option<HostEnd>,
    /// MAC of the pod's interface.
    pub pod_mac: Option<[u8; 6]>,
    gateway_v4: Option<[u8; 6]>,
    gateway_v6: Option<[u8; 6]>,
    ask_at: Option<Now>,
    pause: Duration,
}

impl Link {
    /// The gateway's MAC from an ARP message of its own.
    pub fn learn_gateway_v4(&mut self, mac: [u8; 6]) {
        self.gateway_v4 = Some(mac);
    }

    /// The gateway's MAC from a neighbour discovery message of its own.
    pub fn learn_gateway_v6(&mut self, mac: [u8; 6]) {
        self.gateway_v6 = Some(mac);
    }

    /// MAC of the next hop towards `remote`: as configured, or as learned.
    #[inline]
    pub fn gateway_mac<'a>(&'a self, pod: &'a PodTable, remote: Ip) -> Option<&'a [u8; 6]> {
        pod.gateway_mac.as_ref().or(match remote.family {
            Family::V4 => self.gateway_v4.as_ref(),
            Family::V6 => self.gateway_v6.as_ref(),
        })
    }

    /// Whether every neighbour this branch needs is known.
    pub fn is_resolved(&self, pod: &PodTable) -> bool {
        self.pod_mac.is_some() && self.gateway_is_resolved(pod)
    }

    /// Whether the next hop is known for each family the pod has.
    pub fn gateway_is_resolved(&self, pod: &PodTable) -> bool {
        pod.addresses.iter().all(|address| self.gateway_mac(pod, *address).is_some())
    }
}

/// The links of one worker, by slot.
#[derive(Clone)]
pub struct Links {
    links: Vec<Link>,
    next: Option<Now>,
}

impl Links {
    /// Nothing attached.
    pub fn new(slots: usize) -> Self {
        Self { links: vec![Link::default(); slots], next: None }
    }

    /// One link.
    pub fn link(&self, slot: PodSlot) -> &Link {
        &self.links[usize::from(slot.0)]
    }

    /// One link, to learn.
    pub fn link_mut(&mut self, slot: PodSlot) -> &mut Link {
        &mut self.links[usize::from(slot.0)]
    }

    /// The pod's port is attached; its neighbours are asked for in the next round.
    pub fn attached(&mut self, slot: PodSlot, host: HostEnd) {
        let link = self.link_mut(slot);
        link.host = Some(host);
        link.pod_mac = None;
        self.ask_again(slot);
    }

    /// The branch's facts may have changed: ask for its neighbours in the next round.
    pub fn ask_again(&mut self, slot: PodSlot) {
        let link = self.link_mut(slot);
        link.ask_at = Some(Now(0));
        link.pause = FIRST_PAUSE;
        self.next = Some(Now(0));
    }

    /// The pod's port is gone.
    pub fn detached(&mut self, slot: PodSlot) {
        self.link_mut(slot).host = None;
    }

    /// The slot is free: another pod may take it.
    pub fn forget(&mut self, slot: PodSlot) {
        *self.link_mut(slot) = Link::default();
    }

    /// Gives a branch's link to another worker.
    pub fn take(&mut self, slot: PodSlot) -> Link {
        std::mem::take(self.link_mut(slot))
    }

    /// Takes a branch's link over from another worker.
    pub fn put(&mut self, slot: PodSlot, link: Link) {
        if let Some(at) = link.ask_at {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
        *self.link_mut(slot) = link;
    }

    /// When [`Links::ask`] has something to do next.
    pub fn next(&self) -> Option<Now> {
        self.next
    }

    /// Makes the requests that are due.
    pub fn ask(&mut self, tables: &Tables, now: Now, mut send: impl FnMut(Originated)) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = None;
        for (slot, pod) in tables.pods() {
            let link = &mut self.links[usize::from(slot.0)];
            let Some(mut at) = link.ask_at else { continue };
            if at <= now {
                at = clock::after(now, next_pause(link, pod));
                link.ask_at = Some(at);
                requests(&Ends { slot, pod, link }, &mut send);
            }
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }
}

fn next_pause(link: &mut Link, pod: &PodTable) -> Duration {
    if link.is_resolved(pod) {
        return REFRESH;
    }
    let pause = link.pause;
    link.pause = (pause * 2).min(LONGEST_PAUSE);
    pause
}

fn requests(ends: &Ends<'_>, send: &mut impl FnMut(Originated)) {
    for address in &ends.pod.addresses {
        let (gateway, pod) = match IpAddr::from(*address) {
            IpAddr::V4(own) => (
                ends.pod.gateway_v4.and_then(|gateway| arp_request(Side::Trunk, ends, own, gateway)),
                arp_request(Side::Pod, ends, POD_GATEWAY_V4, own),
            ),
            IpAddr::V6(own) => (
                neighbour_solicit(Side::Trunk, ends, ends.pod.link_local, ends.pod.gateway_v6),
                neighbour_solicit(Side::Pod, ends, POD_GATEWAY_V6, own),
            ),
        };
        gateway.filter(|_| ends.pod.gateway_mac.is_none()).into_iter().chain(pod).for_each(&mut *send);
    }
}
