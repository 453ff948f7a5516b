//! What flows have carried since they were last looked at: the difference between two looks at one flow's counts.
//!
//! The recorder shows it every flow that ended and, in sweeps, every live one, in the order in which the worker told
//! them. Memory follows the flows that live; what is forgotten because its end was never told is counted.

use std::collections::HashMap;

use espalier_api::Direction;

use crate::flow::{FlowKey, FlowRecord, Now, PodSlot};

/// Two moments of entry closer than this may be the same: what is read of live flows is exact to a tick and the time the
/// answer took.
const SAME_ENTRY_MS: u64 = 1000;
/// A flow that no sweep has found for this long, and in so many of them, has ended untold.
const FORGOTTEN_MS: u64 = 60_000;
const FORGOTTEN_SWEEPS: u64 = 3;

/// What a flow has carried since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The flow, with its sums.
    pub(crate) flow: FlowRecord,
    /// Packets since, by `Direction as usize`.
    pub(crate) packets: [u64; 2],
    /// Bytes since, by `Direction as usize`.
    pub(crate) bytes: [u64; 2],
    /// What each direction had carried before, in packets.
    pub(crate) before: [u64; 2],
    /// Directions in which a FIN went since.
    pub(crate) fin: [bool; 2],
    /// When it was entered.
    pub(crate) began: Now,
    /// When its last packet came.
    pub(crate) last: Now,
    /// Whether it is the first that the flow has carried in this epoch.
    pub(crate) first_in_epoch: bool,
}

struct Base {
    packets: [u64; 2],
    bytes: [u64; 2],
    fin: [bool; 2],
    began: Now,
    sweep: u64,
    seen: Now,
    /// The epoch in which it last carried something.
    epoch: u64,
}

/// The last look at each flow.
pub(crate) struct Baseline {
    flows: HashMap<FlowKey, Base, foldhash::fast::RandomState>,
    sweep: u64,
    epoch: u64,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { flows: HashMap::default(), sweep: 0, epoch: 1 }
    }
}

impl Baseline {
    /// From now on each flow is once more the first time seen to carry something.
    pub(crate) fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// A live flow as it was found at `now`.
    pub(crate) fn live(&mut self, flow: &FlowRecord, now: Now) -> Progress {
        let began = Now(now.0.saturating_sub(flow.age_ms));
        let last = Now(now.0.saturating_sub(flow.idle_ms));
        let progress = self.progress(flow, began, last);
        let carried = progress.packets != [0; 2];
        let epoch = self.flows.get(&flow.key).map_or(0, |base| base.epoch);
        let base = Base {
            epoch: if carried { self.epoch } else { epoch },
            packets: flow.packets,
            bytes: flow.bytes,
            fin: fins(flow),
            began: progress.began,
            sweep: self.sweep,
            seen: now,
        };
        self.flows.insert(flow.key, base);
        progress
    }

    /// A flow that ended with its packet at `last`.
    pub(crate) fn ended(&mut self, flow: &FlowRecord, last: Now) -> Progress {
        let began = Now(last.0.saturating_sub(flow.age_ms));
        let progress = self.progress(flow, began, last);
        self.flows.remove(&flow.key);
        progress
    }

    fn progress(&self, flow: &FlowRecord, began: Now, last: Now) -> Progress {
        let same = |base: &&Base| {
            base.began.0.abs_diff(began.0) < SAME_ENTRY_MS
                && (0..2).all(|at| base.packets[at] <= flow.packets[at] && base.bytes[at] <= flow.bytes[at])
        };
        let base = self.flows.get(&flow.key).filter(same);
        let (packets, bytes) = base.map_or(([0; 2], [0; 2]), |base| (base.packets, base.bytes));
        let fin = base.map_or([false; 2], |base| base.fin);
        let now_fin = fins(flow);
        let carried = [0, 1].map(|at| flow.packets[at] - packets[at]);
        let counted = base.is_some_and(|base| base.epoch == self.epoch);
        Progress {
            flow: *flow,
            first_in_epoch: carried != [0; 2] && !counted,
            packets: carried,
            bytes: [0, 1].map(|at| flow.bytes[at] - bytes[at]),
            before: packets,
            fin: [0, 1].map(|at| now_fin[at] && !fin[at]),
            began: base.map_or(began, |base| base.began),
            last,
        }
    }

    /// A look at all live flows begins.
    pub(crate) fn begin_sweep(&mut self) {
        self.sweep += 1;
    }

    /// It has come to its end: forgets the flows that are gone without a word. Returns how many, by pod.
    pub(crate) fn end_sweep(&mut self, now: Now) -> HashMap<PodSlot, u64> {
        let mut gone = HashMap::new();
        let sweep = self.sweep;
        self.flows.retain(|key, base| {
            let forgotten =
                sweep - base.sweep >= FORGOTTEN_SWEEPS && now.0.saturating_sub(base.seen.0) >= FORGOTTEN_MS;
            if forgotten {
                *gone.entry(key.slot()).or_default() += 1;
            }
            !forgotten
        });
        gone
    }

    /// Another pod sits in this slot from now on.
    pub(crate) fn forget_pod(&mut self, slot: PodSlot) {
        self.flows.retain(|key, _| key.slot() != slot);
    }
}

fn fins(flow: &FlowRecord) -> [bool; 2] {
    let mut fins = [false; 2];
    for direction in [Direction::Ingress, Direction::Egress] {
        fins[direction as usize] = flow.has_fin(direction);
    }
    fins
}
