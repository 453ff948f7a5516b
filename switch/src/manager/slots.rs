//! Which slot a pod sits in. A slot is a pod's index in every table of the data path; it is stable while the pod lives.

use espalier_api::{EniId, Mac, Pod, Vlan};

use crate::flow::PodSlot;

/// What makes a pod the same pod in the next snapshot. Anything else about it may change in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    uid: Option<String>,
    eni_id: EniId,
    vlan: Vlan,
    mac: Mac,
    veth: Option<String>,
    netns: Option<std::path::PathBuf>,
}

impl Identity {
    pub(super) fn of(pod: &Pod) -> Self {
        Self {
            uid: pod.uid.clone(),
            eni_id: pod.eni_id.clone(),
            vlan: pod.vlan,
            mac: pod.mac,
            veth: pod.veth.clone(),
            netns: pod.netns.clone(),
        }
    }
}

impl Identity {
    /// What names the pod across restarts: its UID, or its branch ENI.
    pub(super) fn name(&self) -> &str {
        self.uid.as_deref().unwrap_or(self.eni_id.as_str())
    }

    /// VLAN of its branch.
    pub(super) fn vlan(&self) -> u16 {
        self.vlan.get()
    }
}

/// The free slots.
pub(super) struct Slots {
    taken: Vec<bool>,
}

impl Slots {
    pub(super) fn new(count: u16) -> Self {
        Self { taken: vec![false; usize::from(count)] }
    }

    /// The wanted slot if it is free, else the lowest that is. The caller made sure that one is.
    pub(super) fn take(&mut self, wanted: Option<PodSlot>) -> PodSlot {
        let wanted = wanted.map(PodSlot::index).filter(|index| self.taken.get(*index) == Some(&false));
        let index = wanted
            .or_else(|| self.taken.iter().position(|taken| !taken))
            .expect("a snapshot with more pods than slots is refused");
        self.taken[index] = true;
        PodSlot(index as u16)
    }

    pub(super) fn release(&mut self, slot: PodSlot) {
        self.taken[slot.index()] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_lowest_first_and_wishes_granted() {
        let mut slots = Slots::new(4);
        assert_eq!(slots.take(Some(PodSlot(2))), PodSlot(2));
        assert_eq!(slots.take(Some(PodSlot(2))), PodSlot(0));
        assert_eq!(slots.take(None), PodSlot(1));
        slots.release(PodSlot(0));
        assert_eq!(slots.take(Some(PodSlot(99))), PodSlot(0));
        assert_eq!(slots.take(None), PodSlot(3));
    }
}
