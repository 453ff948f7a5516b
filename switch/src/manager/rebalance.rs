//! Pods change their worker while their traffic goes on: one on request, or as many as even out the workers' load.
//!
//! The order of the steps is what keeps every packet, and packets of one flow in order; see [`Manager::move_pod`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use espalier_api::control::Moved;
use espalier_api::{InputError, PodName};

use super::{Manager, ManagerError, State};
use crate::flow::PodSlot;
use crate::tables::Tables;
use crate::worker::{Crew, Handle};

/// Flows taken from one worker and given to the other between two batches of each.
const STRETCH: usize = 1024;

impl Manager {
    /// Moves a pod to another worker. Returns once it lives there.
    ///
    /// First the new home is told to hold the pod's packets. Then tables with the new home are published: when their grace
    /// period is over, nobody hands anything to the old home any more. Now the old home deals with what it was handed
    /// before, and gives the pod up. What the pod itself has sent to others' rings until then is dealt with by their
    /// readers, before the new home, which sends by rings of its own, takes the pod in and releases what it held.
    pub fn move_pod(&mut self, pod: &PodName, to: usize) -> Result<Moved, ManagerError> {
        let crew = self.crew()?;
        if to >= crew.count() {
            let message = format!("there is no worker {to}: the last is {}", crew.count() - 1);
            return Err(InputError::new("worker", message).into());
        }
        let port = self.known_pod(pod).map_err(|message| InputError::new("pod", message))?;
        let (slot, from) = (port.slot, port.home);
        let mut moved = Moved { pod: pod.clone(), from, to, flows: 0, flows_lost: 0, held_ms: 0.0 };
        if from == to {
            return Ok(moved);
        }
        let tables = self.tables_with_home(pod, to)?;
        let started = Instant::now();
        if let Err(error) = self.carry_over(slot, &mut moved, &tables) {
            // It is nowhere now; the next look at the interfaces attaches it anew.
            if let Some(port) = self.pods.get_mut(pod) {
                port.state = State::Down(format!("its move to worker {to} failed: {error}"));
            }
            return Err(error);
        }
        moved.held_ms = started.elapsed().as_secs_f64() * 1000.0;
        if moved.flows_lost > 0 {
            tracing::warn!(%pod, to, lost = moved.flows_lost, "the pod's new worker has no room for all its flows");
        }
        tracing::info!(%pod, from, to, flows = moved.flows, ms = moved.held_ms.round(), "pod moved");
        Ok(moved)
    }

    /// The steps of a move that the workers take.
    fn carry_over(&self, slot: PodSlot, moved: &mut Moved, tables: &Arc<Tables>) -> Result<(), ManagerError> {
        let crew = self.crew()?;
        let (from, to) = (crew.worker(moved.from), crew.worker(moved.to));
        to.hold(slot).map_err(ManagerError::failed)?;
        drop(crew.publish(tables).map_err(ManagerError::failed)?);
        let luggage = from.release(slot).map_err(ManagerError::failed)?;
        crew.drain().map_err(ManagerError::failed)?;
        if luggage.has_more_flows() {
            (moved.flows, moved.flows_lost) = move_flows(from, to, slot).map_err(ManagerError::failed)?;
        }
        let settled = to.settle(slot, luggage).map_err(ManagerError::failed)?;
        moved.flows += settled.flows;
        moved.flows_lost += settled.flows_lost;
        settled.port.map_err(ManagerError::failed)
    }

    /// The tables in force with another home for a pod.
    fn tables_with_home(&mut self, pod: &PodName, home: usize) -> Result<Arc<Tables>, ManagerError> {
        if let Some(port) = self.pods.get_mut(pod) {
            port.home = home;
        }
        let enforced = self.enforced()?;
        let pods = enforced.snapshot.pods.iter();
        let placed: Vec<PodSlot> =
            pods.filter_map(|pod| self.pods.get(&pod.name).map(|port| port.slot)).collect();
        Ok(self.tables(&enforced.snapshot, &enforced.judge, &placed))
    }

    /// Moves pods until no move makes the busiest worker less busy by much, by the packets since `before`.
    pub fn rebalance(&mut self, before: &PacketCounts) -> Result<Vec<Moved>, ManagerError> {
        let workers = self.crew()?.count();
        let now = self.packets();
        let loads: Vec<Load<PodName>> = self
            .pods
            .iter()
            .map(|(pod, port)| {
                let count = |counts: &PacketCounts| counts.0.get(pod).copied().unwrap_or_default();
                let packets = count(&now).saturating_sub(count(before));
                Load { pod: pod.clone(), home: port.home, packets }
            })
            .collect();
        let plan = plan(loads, workers);
        plan.into_iter().map(|(pod, to)| self.move_pod(&pod, to)).collect()
    }

    /// Packets of each pod so far, both ways.
    pub fn packets(&self) -> PacketCounts {
        let reports = self.crew.as_ref().map_or_else(Vec::new, Crew::reports);
        let count = |slot: PodSlot| {
            let pods = reports.iter().flatten().map(|report| report.counters.pod(slot));
            pods.map(|pod| pod.rx + pod.tx).sum()
        };
        PacketCounts(self.pods.iter().map(|(name, port)| (name.clone(), count(port.slot))).collect())
    }
}

/// Packets of each pod at one moment.
pub struct PacketCounts(BTreeMap<PodName, u64>);

/// Moves a pod's flows, in parts between which both workers move packets. Returns how many went, and how many found no room.
fn move_flows(from: &Handle, to: &Handle, slot: PodSlot) -> Result<(u64, u64), crate::worker::WorkerFailed> {
    let (mut moved, mut lost) = (0, 0);
    loop {
        let flows = from.take_flows(slot, STRETCH)?;
        if flows.is_empty() {
            return Ok((moved, lost));
        }
        let all = flows.len() as u64;
        let taken = to.restore_flows(flows)?;
        moved += taken;
        lost += all - taken;
    }
}

/// What a pod costs its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Load<P> {
    pod: P,
    home: usize,
    packets: u64,
}

/// Which pods to move where: always from the busiest worker to the idlest, the pod that leaves them closest together, as
/// long as that takes at least a twentieth off the busiest. Each pod moves once at most.
fn plan<P: Clone>(mut loads: Vec<Load<P>>, workers: usize) -> Vec<(P, usize)> {
    let mut sums = vec![0; workers];
    loads.iter().for_each(|load| sums[load.home] += load.packets);
    let mut moves = Vec::new();
    while let Some(busiest) = (0..workers).max_by_key(|worker| sums[*worker])
        && let Some(idlest) = (0..workers).min_by_key(|worker| sums[*worker])
    {
        let gap = sums[busiest] - sums[idlest];
        let movable = loads.iter().enumerate().filter(|(_, load)| load.home == busiest && load.packets > 0);
        let best = movable.min_by_key(|(_, load)| gap.abs_diff(2 * load.packets)).map(|(index, _)| index);
        let Some(index) = best else { break };
        let packets = loads[index].packets;
        let after = (sums[busiest] - packets).max(sums[idlest] + packets);
        if sums[busiest] - after.min(sums[busiest]) < sums[busiest] / 20 + 1 {
            break;
        }
        sums[busiest] -= packets;
        sums[idlest] += packets;
        moves.push((loads.swap_remove(index).pod, idlest));
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(loads: &[(usize, u64)], workers: usize) -> Vec<(usize, usize)> {
        let loads = loads.iter().enumerate();
        plan(
            loads.map(|(pod, (home, packets))| Load { pod, home: *home, packets: *packets }).collect(),
            workers,
        )
    }

    #[test]
    fn load_is_evened_out_with_few_moves() {
        assert_eq!(planned(&[(0, 100), (0, 100), (1, 0)], 2), [(0, 1)]);
        assert_eq!(planned(&[(0, 90), (0, 50), (0, 40)], 2), [(0, 1)]);
        assert_eq!(planned(&[(0, 10), (0, 10), (0, 10), (0, 10)], 4).len(), 3);
    }

    #[test]
    fn what_is_even_or_cannot_be_helped_stays() {
        assert_eq!(planned(&[(0, 100), (1, 100)], 2), []);
        assert_eq!(planned(&[(0, 100), (1, 3)], 2), []);
        assert_eq!(planned(&[(0, 1000), (0, 1), (1, 990)], 2), []);
        assert_eq!(planned(&[(0, 0), (0, 0)], 2), []);
        assert_eq!(planned(&[], 2), []);
        assert_eq!(planned(&[(0, 5)], 1), []);
    }
}
