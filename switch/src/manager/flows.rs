//! Flows on request: listing, counting and dropping, in stretches that never stall a worker.

use std::collections::HashMap;

use espalier_api::flows::{Flow, FlowCount, FlowFilter, FlowListing, FlowPage, FlowState, FlowsDropped};
use espalier_api::{Direction, InputError, PodName, QueryProtocol};

use super::{Manager, ManagerError};
use crate::flow::{self, FlowRecord, PodSlot, Selector};
use crate::worker::{Crew, FlowMatch, Handle};

/// Table entries looked at between two batches.
const STRETCH: u32 = 4096;

impl Manager {
    /// One page of a listing.
    pub fn flows(&self, listing: &FlowListing) -> Result<FlowPage, ManagerError> {
        let filter = self.flow_match(&listing.filter)?;
        let limit = listing.limit.clamp(1, STRETCH);
        let Some((worker, at)) = self.shard_of(listing.cursor) else {
            return Ok(FlowPage { flows: Vec::new(), next: None });
        };
        let stretch = worker.list_flows(filter, at, limit).map_err(ManagerError::failed)?;
        let pods = self.pods_by_slot();
        let flows = stretch
            .flows
            .iter()
            .filter_map(|flow| Some(self.flow(flow, pods.get(&flow.key.slot())?)))
            .collect();
        Ok(FlowPage { flows, next: self.cursor(worker.index(), stretch.next) })
    }

    /// How many flows fit.
    pub fn count_flows(&self, filter: &FlowFilter) -> Result<FlowCount, ManagerError> {
        let filter = self.flow_match(filter)?;
        let pods = self.pods_by_slot();
        let mut count = FlowCount::default();
        let mut cursor = Some(0);
        while let Some((worker, at)) = cursor.and_then(|cursor| self.shard_of(cursor)) {
            let stretch = worker.list_flows(filter.clone(), at, STRETCH).map_err(ManagerError::failed)?;
            for flow in &stretch.flows {
                count.flows += 1;
                *count.by_state.entry(state(flow.state)).or_default() += 1;
                if let Some(pod) = pods.get(&flow.key.slot()) {
                    *count.by_pod.entry(PodName::clone(pod)).or_default() += 1;
                }
            }
            cursor = self.cursor(worker.index(), stretch.next);
        }
        Ok(count)
    }

    /// Ends the flows that fit. Their next packets are judged anew.
    pub fn drop_flows(&self, filter: &FlowFilter) -> Result<FlowsDropped, ManagerError> {
        let filter = self.flow_match(filter)?;
        let mut dropped = 0;
        let mut cursor = Some(0);
        while let Some((worker, at)) = cursor.and_then(|cursor| self.shard_of(cursor)) {
            let (count, next) =
                worker.drop_flows(filter.clone(), at, STRETCH).map_err(ManagerError::failed)?;
            dropped += count;
            cursor = self.cursor(worker.index(), next);
        }
        tracing::info!(dropped, "flows dropped on request");
        Ok(FlowsDropped { dropped })
    }

    /// The worker in whose table a cursor points, and where: a cursor numbers the entries of all tables one after another.
    fn shard_of(&self, cursor: u32) -> Option<(&Handle, u32)> {
        let crew = self.crew.as_ref()?;
        let each = self.entries_each(crew.count());
        let worker = crew.handles().get((cursor / each) as usize)?;
        Some((worker, cursor % each))
    }

    /// Where to go on after a worker's table was read up to `next`.
    fn cursor(&self, worker: usize, next: Option<u32>) -> Option<u32> {
        let workers = self.crew.as_ref().map_or(1, Crew::count);
        let each = self.entries_each(workers);
        match next {
            Some(at) => Some(worker as u32 * each + at),
            None => (worker + 1 < workers).then_some((worker as u32 + 1) * each),
        }
    }

    fn entries_each(&self, workers: usize) -> u32 {
        self.shard_flows(workers).entries().iter().sum()
    }

    /// The filter in the table's terms; names that nothing has are refused rather than matching nothing.
    fn flow_match(&self, filter: &FlowFilter) -> Result<FlowMatch, InputError> {
        let slot = filter.pod.as_ref().map(|name| self.known_pod(name));
        let slot = slot.transpose().map_err(|message| InputError::new("pod", message))?;
        let rules = filter.rule.as_ref().map(|id| self.known_rule(id));
        let rules = rules.transpose().map_err(|message| InputError::new("rule", message))?;
        filter.filter.check_for_flows()?;
        let expression = (!filter.filter.is_empty()).then(|| self.known(filter.filter.clone()));
        Ok(FlowMatch {
            slot: slot.map(|port| port.slot),
            remote: filter.remote.map(espalier_api::Address::net),
            port: filter.port,
            protocol: filter.protocol.map(|protocol| protocol.0),
            state: filter.state.map(table_state),
            rules,
            filter: expression.transpose()?,
        })
    }

    pub(super) fn pods_by_slot(&self) -> HashMap<PodSlot, &PodName> {
        self.pods.iter().map(|(name, port)| (port.slot, name)).collect()
    }

    fn flow(&self, flow: &FlowRecord, pod: &PodName) -> Flow {
        let (local_port, remote_port, icmp_id) = match flow.key.selector() {
            Selector::Ports { local, remote } => (Some(local), Some(remote), None),
            Selector::Query { id, .. } => (None, None, Some(id)),
            Selector::Addresses => (None, None, None),
        };
        let rule = self.rule_names.name(flow.account());
        let (ingress, egress) = (Direction::Ingress as usize, Direction::Egress as usize);
        Flow {
            pod: pod.clone(),
            direction: flow.initiator(),
            protocol: QueryProtocol(flow.key.protocol()),
            local: flow.key.local(),
            local_port,
            remote: flow.key.remote(),
            remote_port,
            icmp_id,
            state: state(flow.state),
            rule: rule.and_then(|rule| rule.id.clone()),
            group: rule.map(|rule| rule.group.clone()),
            ingress_packets: flow.packets[ingress],
            ingress_bytes: flow.bytes[ingress],
            egress_packets: flow.packets[egress],
            egress_bytes: flow.bytes[egress],
            age_ms: flow.age_ms,
            idle_ms: flow.idle_ms,
        }
    }
}

/// The same states, in the table's type and in the API's.
const STATES: [(flow::FlowState, FlowState); 13] = [
    (flow::FlowState::SynSent, FlowState::SynSent),
    (flow::FlowState::SynReceived, FlowState::SynReceived),
    (flow::FlowState::PickedUp, FlowState::PickedUp),
    (flow::FlowState::Established, FlowState::Established),
    (flow::FlowState::HalfClosed, FlowState::HalfClosed),
    (flow::FlowState::Closing, FlowState::Closing),
    (flow::FlowState::Reset, FlowState::Reset),
    (flow::FlowState::Udp, FlowState::Udp),
    (flow::FlowState::UdpStream, FlowState::UdpStream),
    (flow::FlowState::Icmp, FlowState::Icmp),
    (flow::FlowState::Other, FlowState::Other),
    (flow::FlowState::Untracked, FlowState::Untracked),
    (flow::FlowState::Revoked, FlowState::Revoked),
];

pub(super) fn state(state: flow::FlowState) -> FlowState {
    STATES.iter().find(|(table, _)| *table == state).map_or(FlowState::Other, |(_, shown)| *shown)
}

fn table_state(state: FlowState) -> flow::FlowState {
    STATES.iter().find(|(_, shown)| *shown == state).map_or(flow::FlowState::Other, |(table, _)| *table)
}
