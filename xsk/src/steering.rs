//! The steering: the XDP programs on the trunk and on the pods' veths, and the maps that tell them where frames go.
//! Owned by the switch's management thread. Promises to fail closed: links and maps are pinned, so that frames of
//! branches and pods are dropped, not passed to the node, while no switch runs; only the `detach_` calls and
//! `unpin_all` take a program off an interface, dropping a `Steering` does not.

mod counters;
mod dry_run;
mod error;
mod kernel;
mod links;
mod mapped;
mod object;
mod pins;
mod tables;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub use counters::SteeringCounters;
pub use dry_run::{DryRun, Entrance, Verdict};
pub use error::SteeringError;
pub(crate) use kernel::{FLAG_GENERIC, FLAG_NATIVE, link_create, link_detach};
pub(crate) use links::explain as explain_attach;
pub use throttle::Throttle;

use crate::InterfaceRef;
use object::Object;
use pins::{LinkName, PinDirectory, Program};
use tables::{read_branches, read_local_addresses, remove_pod, sync_pods, write_pod};

/// How the program is to be attached, or is attached (never `Auto` then).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// Native if the driver can, else generic, which [`Attachment::fallback`] reports.
    #[default]
    Auto,
    /// In the driver, before a socket buffer exists.
    Native,
    /// In the network stack, after the driver: works everywhere, slower.
    Generic,
}

/// Where the steering lives and how large it is.
#[derive(Debug, Clone)]
pub struct SteeringConfig {
    /// The directory of the pins. A bpffs is mounted for it when it lies on none. One switch at a time may use it.
    pub pin_dir: PathBuf,
    /// The mode to attach in.
    pub mode: XdpMode,
    /// How many pods there can be: slots are `0..max_pods`.
    pub max_pods: u32,
}

/// How an interface is steered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `Native` or `Generic`.
    pub mode: XdpMode,
    /// Why native mode was refused, when `Auto` fell back to generic.
    pub fallback: Option<String>,
    /// Whether the link of an earlier run was taken over.
    pub adopted: bool,
}

/// A steered interface: what `Steering::pods` and `Steering::trunk` list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteeredPod {
    /// The interface index of the pod's veth on the node.
    pub interface: u32,
    /// Its slot.
    pub slot: u16,
    /// The VLAN of its branch.
    pub vlan: u16,
    /// `Native` or `Generic`.
    pub mode: XdpMode,
}

/// The programs, maps and links, pinned under one directory.
pub struct Steering {
    config: SteeringConfig,
    pins: PinDirectory,
    object: Object,
    trunk: Option<LinkName>,
    pods: BTreeMap<u32, LinkName>,
    branches: BTreeSet<u16>,
    local_addresses: BTreeSet<IpAddr>,
}

impl Steering {
    /// Loads the programs and takes over what an earlier process left pinned: the maps with their contents, and the
    /// links, whose program is replaced without a moment unattached. Pins of interfaces that are gone are removed.
    /// Pinned maps of another layout are made anew and empty, see [`Steering::recreated`].
    pub fn open(config: &SteeringConfig) -> Result<Steering, SteeringError> {
        if !(1..=65536).contains(&config.max_pods) {
            return Err(SteeringError::MaxPods(config.max_pods));
        }
        let pins = PinDirectory::open(&config.pin_dir)?;
        let mut object = Object::load(&pins, config.max_pods)?;
        sync_pods(&mut object, &pins.links()?)?;
        let links = links::adopt(&pins, &object)?;
        sync_pods(&mut object, &links)?;
        let is_trunk = |link: &&LinkName| link.program == Program::Trunk;
        Ok(Steering {
            config: config.clone(),
            trunk: links.iter().find(is_trunk).copied(),
            pods: links.iter().filter(|l| !is_trunk(l)).map(|l| (l.interface, *l)).collect(),
            branches: read_branches(&object)?,
            local_addresses: read_local_addresses(&object)?,
            pins,
            object,
        })
    }

    /// Steers the trunk. Only one interface is the trunk: another one that was is detached afterwards.
    pub fn attach_trunk(&mut self, interface: &InterfaceRef) -> Result<Attachment, SteeringError> {
        let same = self.trunk.filter(|link| link.interface == interface.index);
        let (pins, mode) = (&self.pins, self.config.mode);
        let (name, attachment) = links::attach(pins, &self.object, interface, Program::Trunk, mode, same)?;
        if let Some(old) = self.trunk.replace(name).filter(|old| old.interface != interface.index) {
            links::detach(&self.pins, &old)?;
        }
        Ok(attachment)
    }

    /// Steers a pod's veth (its end on the node). A steered pod that gets another slot or VLAN is changed in place.
    pub fn attach_pod(
        &mut self,
        interface: &InterfaceRef,
        slot: u16,
        vlan: u16,
    ) -> Result<Attachment, SteeringError> {
        check_vlan(vlan)?;
        self.check_slot(slot)?;
        let program = Program::Pod { slot, vlan };
        if let Some(holder) = self.pods().find(|p| p.slot == slot && p.interface != interface.index) {
            return Err(SteeringError::SlotTaken { slot, holder: holder.interface });
        }
        let old = self.pods.get(&interface.index).copied();
        // The entry comes first, so that the pod's first frame already finds it.
        write_pod(&mut self.object, interface.index, slot, vlan)?;
        match links::attach(&self.pins, &self.object, interface, program, self.config.mode, old) {
            Ok((name, attachment)) => {
                self.pods.insert(interface.index, name);
                Ok(attachment)
            }
            Err(error) => {
                match old.map(|link| link.program) {
                    Some(Program::Pod { slot, vlan }) => {
                        write_pod(&mut self.object, interface.index, slot, vlan)?;
                    }
                    _ => remove_pod(&mut self.object, interface.index)?,
                }
                Err(error)
            }
        }
    }

    /// Takes the program off a pod's veth, whose frames then reach the node's stack, and empties its slot.
    pub fn detach_pod(&mut self, interface: u32) -> Result<(), SteeringError> {
        let link = *self.pods.get(&interface).ok_or(SteeringError::NotAttached(interface))?;
        links::detach(&self.pins, &link)?;
        self.pods.remove(&interface);
        remove_pod(&mut self.object, interface)?;
        match link.program {
            Program::Pod { slot, .. } if u32::from(slot) < self.config.max_pods => {
                self.clear_pod_socket(slot)
            }
            _ => Ok(()),
        }
    }

    /// Takes the program off the trunk. Does nothing when no trunk is steered.
    pub fn detach_trunk(&mut self) -> Result<(), SteeringError> {
        if let Some(link) = self.trunk {
            links::detach(&self.pins, &link)?;
            self.trunk = None;
        }
        Ok(())
    }

    /// Detaches everything and removes every pin, the directory, and the bpffs mounted for it.
    pub fn unpin_all(self) -> Result<(), SteeringError> {
        let Steering { pins, object, .. } = self;
        drop(object);
        pins.destroy()
    }

    /// As [`Steering::unpin_all`], for pins that a dead process left, without loading anything.
    pub fn remove_pins(pin_dir: &std::path::Path) -> Result<(), SteeringError> {
        if !pin_dir.exists() {
            return Ok(());
        }
        PinDirectory::open(pin_dir)?.destroy()
    }

    /// The pods that are steered now, those of an earlier run included: a restarted switch detaches the stale ones.
    pub fn pods(&self) -> impl Iterator<Item = SteeredPod> {
        self.pods.values().filter_map(|link| match link.program {
            Program::Pod { slot, vlan } => {
                Some(SteeredPod { interface: link.interface, slot, vlan, mode: link.mode })
            }
            Program::Trunk => None,
        })
    }

    /// The interface index and mode of the steered trunk.
    pub fn trunk(&self) -> Option<(u32, XdpMode)> {
        self.trunk.map(|link| (link.interface, link.mode))
    }

    /// The pinned maps that did not fit this version or `max_pods` and were made anew, empty. The pods' entries are
    /// restored from the pins; branches and addresses must be set again, until when trunk frames pass to the kernel.
    pub fn recreated(&self) -> &[&'static str] {
        &self.object.recreated
    }

    /// The counters of the programs, summed over the CPUs.
    pub fn counters(&self) -> Result<SteeringCounters, SteeringError> {
        SteeringCounters::read(&self.object.counters)
    }

    fn check_slot(&self, slot: u16) -> Result<(), SteeringError> {
        let max_pods = self.config.max_pods;
        if u32::from(slot) < max_pods { Ok(()) } else { Err(SteeringError::Slot { slot, max_pods }) }
    }
}

impl Default for SteeringConfig {
    fn default() -> Self {
        SteeringConfig { pin_dir: PathBuf::from("/sys/fs/bpf/espalier"), mode: XdpMode::Auto, max_pods: 1024 }
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering")
            .field("config", &self.config)
            .field("trunk", &self.trunk)
            .field("pods", &self.pods)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

impl FromStr for XdpMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(XdpMode::Auto),
            "native" => Ok(XdpMode::Native),
            "generic" => Ok(XdpMode::Generic),
            other => Err(format!("{other:?} is no XDP mode: use auto, native or generic")),
        }
    }
}

fn check_vlan(vlan: u16) -> Result<(), SteeringError> {
    if (1..=4094).contains(&vlan) { Ok(()) } else { Err(SteeringError::Vlan(vlan)) }
}

/// An error with its sources in one line: aya's own messages leave the kernel's answer to the source.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
