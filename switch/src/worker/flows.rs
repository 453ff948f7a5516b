//! Flows on request: a worker shows or ends those that fit, a bounded number of entries between two batches.

use espalier_api::filter::Filter;
use ipnet::IpNet;

use super::Worker;
use crate::facts::Teller;
use crate::filter::{self, Known};
use crate::flow::{FlowHandle, FlowRecord, FlowState, Now, PodSlot, RuleKey, Selector};

/// A filter in the table's own terms.
#[derive(Debug, Clone, Default)]
pub struct FlowMatch {
    /// Of this pod.
    pub slot: Option<PodSlot>,
    /// With a far end in here.
    pub remote: Option<IpNet>,
    /// With this port at either end.
    pub port: Option<u16>,
    /// Of this protocol.
    pub protocol: Option<u8>,
    /// In this state.
    pub state: Option<FlowState>,
    /// Allowed by one of these rules, each from a generation on to another.
    pub rules: Option<Vec<RuleSpan>>,
    /// Fitting this.
    pub filter: Option<Filter<Known>>,
}

/// A rule's number while it meant one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleSpan {
    /// The number.
    pub rule: u32,
    /// The first generation with this meaning.
    pub from: u32,
    /// The first generation without it.
    pub until: u32,
}

impl RuleSpan {
    /// Whether the number, in the sense of a generation, is this rule.
    pub fn covers(&self, key: RuleKey) -> bool {
        self.rule == key.rule && (self.from..self.until).contains(&key.generation)
    }
}

impl FlowMatch {
    /// Whether a flow fits everything given.
    pub fn fits(&self, flow: &FlowRecord) -> bool {
        let ports = |port: u16| match flow.key.selector() {
            Selector::Ports { local, remote } => local == port || remote == port,
            _ => false,
        };
        let rule = |spans: &Vec<RuleSpan>| spans.iter().any(|span| span.covers(flow.account()));
        self.slot.is_none_or(|slot| slot == flow.key.slot())
            && self.remote.is_none_or(|net| net.contains(&flow.key.remote()))
            && self.port.is_none_or(ports)
            && self.protocol.is_none_or(|protocol| protocol == flow.key.protocol())
            && self.state.is_none_or(|state| state == flow.state)
            && self.rules.as_ref().is_none_or(rule)
            && self.filter.as_ref().is_none_or(|filter| filter::fits_flow(filter, flow))
    }
}

/// What a worker found in a stretch of its table.
#[derive(Debug, Default)]
pub struct FlowStretch {
    /// The flows that fit.
    pub flows: Vec<FlowRecord>,
    /// Where to go on, if not at the end.
    pub next: Option<u32>,
    /// Ended flows that a listener had been told of before.
    pub told: u64,
}

impl Worker {
    /// The flows that fit among `limit` entries from `cursor` on.
    pub(super) fn list_flows(&self, filter: &FlowMatch, cursor: u32, limit: u32, now: Now) -> FlowStretch {
        let mut flows = Vec::new();
        let next = self.shard.flows.page(cursor, limit, now, |_, flow| {
            if filter.fits(&flow) {
                flows.push(flow);
            }
        });
        let told = self.shard.flows.ended.as_ref().map_or(0, Teller::told);
        FlowStretch { flows, next, told }
    }

    /// Ends the flows that fit among `limit` entries from `cursor` on.
    pub(super) fn drop_flows(
        &mut self,
        filter: &FlowMatch,
        cursor: u32,
        limit: u32,
        now: Now,
    ) -> (u64, Option<u32>) {
        let mut doomed: Vec<FlowHandle> = Vec::new();
        let next = self.shard.flows.page(cursor, limit, now, |handle, flow| {
            if filter.fits(&flow) {
                doomed.push(handle);
            }
        });
        let count = doomed.len() as u64;
        doomed.into_iter().for_each(|handle| self.shard.flows.remove(handle));
        (count, next)
    }

    /// Enters flows of an earlier life. Returns how many were taken.
    pub(super) fn restore_flows(&mut self, flows: &[FlowRecord], now: Now) -> u64 {
        flows.iter().filter(|flow| self.shard.flows.restore(flow, now).is_ok()).count() as u64
    }
}
