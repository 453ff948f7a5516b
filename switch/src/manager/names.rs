//! Looks up what filters name: pods, rules, groups and drop reasons become the workers' numbers.
//!
//! A name that nothing has is refused with where to find those that are, rather than matching nothing.

use espalier_api::filter::{Filter, Name};
use espalier_api::{GroupId, InputError, PodName, RuleId};

use super::{Manager, PodPort};
use crate::filter::Known;
use crate::reason::DropReason;
use crate::worker::RuleSpan;

impl Manager {
    /// The filter in the workers' numbers.
    pub fn known(&self, filter: Filter) -> Result<Filter<Known>, InputError> {
        let known = filter.try_map(|name| match name {
            Name::Pod(name) => {
                let port = self.known_pod(&name)?;
                Ok(Known::Pod { slot: port.slot, vlan: port.identity.vlan() })
            }
            Name::Rule(id) => self.known_rule(&id).map(Known::Rules),
            Name::Group(id) => self.known_group(&id).map(Known::Rules),
            Name::Reason(label) => known_reason(&label).map(Known::Reason),
        });
        Ok(known?)
    }

    pub(super) fn known_pod(&self, name: &PodName) -> Result<&PodPort, String> {
        self.pods.get(name).ok_or_else(|| unknown_pod(name))
    }

    pub(super) fn known_rule(&self, id: &RuleId) -> Result<Vec<RuleSpan>, String> {
        let spans = self.rule_names.spans(id);
        if spans.is_empty() {
            return Err(format!("{id} is no rule of the enforced snapshot: `espalier rules POD` lists them"));
        }
        Ok(spans)
    }

    fn known_group(&self, id: &GroupId) -> Result<Vec<RuleSpan>, String> {
        let enforced = self.enforced.as_ref();
        let mut groups = enforced.iter().flat_map(|enforced| &enforced.snapshot.security_groups);
        if !groups.any(|group| group.group_id == *id) {
            return Err(format!("{id} is no group of the enforced snapshot: `espalier groups` lists them"));
        }
        Ok(self.rule_names.spans_of_group(id))
    }
}

/// Why a pod cannot be meant.
pub(super) fn unknown_pod(name: &PodName) -> String {
    format!("{name} is not in the enforced snapshot: `espalier pods` lists those that are")
}

fn known_reason(label: &str) -> Result<DropReason, String> {
    DropReason::of_label(label).ok_or_else(|| {
        let labels: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        format!("{label} is no drop reason: expected one of {}", labels.join(", "))
    })
}
