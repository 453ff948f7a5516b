//! Reading and changing both ends of one pod's veth, and putting back what was changed.
//!
//! Called by the tuner. A change is made only where it changes something, so that undoing it is the opposite; the pod's own
//! settings, its own qdisc above all, stay as they are.

use std::path::Path;

use espalier_xsk::ethtool::{Offload, Offloads, offloads, set_offload};
use espalier_xsk::{InterfaceError, interface};
use serde::{Deserialize, Serialize};

use super::record::Entry;
use super::{Knob, Tuning, TuningError, napi, qdisc};
use crate::netns::{POD_INTERFACE, inside};

/// A change that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    /// GRO of the pod's end was off.
    Gro,
    /// TSO of the host's end was on.
    HostTso,
    /// The pod's end received without a thread.
    Threaded,
    /// The pod's end had no queue.
    Qdisc,
    /// Transmit checksums of the pod's end were left to the device.
    TxChecksum,
}

impl Change {
    /// What is changed.
    pub(super) fn of(self) -> &'static str {
        match self {
            Self::Gro => "GRO of eth0",
            Self::HostTso => "TSO of the host's end",
            Self::Threaded => "threaded NAPI of eth0",
            Self::Qdisc => "the qdisc of eth0",
            Self::TxChecksum => "transmit checksums of eth0",
        }
    }
}

/// The state of a veth.
pub(super) struct Found {
    /// MAC of the pod's end.
    pub(super) mac: [u8; 6],
    /// Kind of its root qdisc; none for `noqueue`.
    pub(super) qdisc: Option<String>,
    pod: Offloads,
    host_tso: bool,
    /// Unknown where the kernel has no such thing.
    threaded: Option<bool>,
}

/// Both ends as they are.
pub(super) fn look(netns: &Path, veth: &str) -> Result<Found, TuningError> {
    let host_tso = offloads(veth)?.tso;
    inside(netns, || {
        let eth0 = interface(POD_INTERFACE)?;
        let (pod, qdisc) = (offloads(POD_INTERFACE)?, qdisc::root(eth0.index)?);
        Ok(Found { mac: eth0.mac, qdisc, pod, host_tso, threaded: napi::is_threaded().ok() })
    })?
}

/// What has to change for the setting.
pub(super) fn needed(setting: &Tuning, found: &Found) -> Vec<Change> {
    let wanted = |knob: &Knob| match knob {
        Knob::Gro => [(!found.pod.gro).then_some(Change::Gro), found.host_tso.then_some(Change::HostTso)],
        Knob::ThreadedNapi => [(found.threaded != Some(true)).then_some(Change::Threaded), None],
        Knob::Qdisc => [found.qdisc.is_none().then_some(Change::Qdisc), None],
        Knob::NoTxChecksum => [found.pod.tx_checksum.then_some(Change::TxChecksum), None],
    };
    setting.knobs().iter().flat_map(wanted).flatten().collect()
}

/// Makes the changes.
pub(super) fn apply(netns: &Path, veth: &str, changes: &[Change]) -> Result<(), TuningError> {
    if changes.contains(&Change::HostTso) {
        set_offload(veth, Offload::Tso, false)?;
    }
    inside(netns, || changes.iter().try_for_each(|change| turn(*change, true)))?
}

/// Undoes the changes, unless the veth is gone or another one has its place.
pub(super) fn revert(index: u32, entry: &Entry) -> Result<(), TuningError> {
    let host = match interface(&entry.veth) {
        Ok(found) if found.index == index && entry.changes.contains(&Change::HostTso) => {
            set_offload(&entry.veth, Offload::Tso, true)
        }
        _ => Ok(()),
    };
    inside(&entry.netns, || {
        if interface(POD_INTERFACE)?.mac != entry.mac {
            return Ok(());
        }
        // In the opposite order: threads go before the NAPI they serve. One that fails keeps no other from going back.
        let results: Vec<_> = entry.changes.iter().rev().map(|change| turn(*change, false)).collect();
        results.into_iter().collect()
    })??;
    Ok(host?)
}

/// Makes or undoes a change of the pod's end, in its namespace.
fn turn(change: Change, made: bool) -> Result<(), TuningError> {
    let set = |offload, on| set_offload(POD_INTERFACE, offload, on).map_err(InterfaceError::into);
    match change {
        Change::Gro => set(Offload::Gro, made),
        Change::TxChecksum => set(Offload::TxChecksum, !made),
        Change::Threaded => napi::set_threaded(made),
        Change::Qdisc if made => qdisc::add(interface(POD_INTERFACE)?.index),
        Change::Qdisc => qdisc::remove(interface(POD_INTERFACE)?.index),
        Change::HostTso => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(on: bool, qdisc: Option<&str>) -> Found {
        let pod = Offloads {
            tx_checksum: on,
            rx_checksum: on,
            scatter_gather: on,
            tso: on,
            gso: on,
            gro: on,
            tx_vlan: on,
            rx_vlan: on,
        };
        Found { mac: [2; 6], qdisc: qdisc.map(str::to_owned), pod, host_tso: on, threaded: Some(on) }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let all: Tuning = "gro,threaded-napi,qdisc,no-tx-checksum".parse().unwrap();
        assert_eq!(needed(&all, &found(false, None)), [Change::Gro, Change::Threaded, Change::Qdisc]);
        assert_eq!(needed(&all, &found(true, Some("fq"))), [Change::HostTso, Change::TxChecksum]);
        assert_eq!(needed(&"off".parse().unwrap(), &found(false, None)), []);
    }
}
