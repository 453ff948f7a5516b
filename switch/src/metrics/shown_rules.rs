//! Which rules have series of their own: those with hits, up to a number; all others share one.
//!
//! A rule that has its own series keeps it while it is in force. What the others let pass is added up by what is new each
//! time, and a rule that gets its own series later begins there with what is new: no counter goes back whichever rules come
//! and go, and no packet is in two.

use std::collections::HashMap;

use espalier_api::hits::{RuleHits, RuleUsage, RuleUse};

/// The counts that are exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Packets in the rule's direction and as replies.
    pub(super) packets: [u64; 2],
    /// Bytes of those.
    pub(super) bytes: [u64; 2],
    pub(super) flows: u64,
    pub(super) refused: u64,
}

impl Counted {
    pub(super) fn of(hits: &RuleHits) -> Self {
        Self {
            packets: [hits.packets, hits.reply_packets],
            bytes: [hits.bytes, hits.reply_bytes],
            flows: hits.flows,
            refused: hits.refused_flows,
        }
    }

    /// Adds what `now` has more than `before`.
    fn add(&mut self, now: &Self, before: &Self) {
        for way in 0..2 {
            self.packets[way] += now.packets[way].saturating_sub(before.packets[way]);
            self.bytes[way] += now.bytes[way].saturating_sub(before.bytes[way]);
        }
        self.flows += now.flows.saturating_sub(before.flows);
        self.refused += now.refused.saturating_sub(before.refused);
    }
}

/// Group and rule, as labels.
pub(super) type Labels = (String, String);

/// A rule that has let something pass.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    shown: bool,
    /// What the others' series has of it.
    elsewhere: Counted,
}

/// The choice, and what the rest has let pass.
#[derive(Debug)]
pub(super) struct ShownRules {
    most: usize,
    seen: HashMap<Labels, Seen>,
    others: Counted,
}

impl ShownRules {
    /// Shows so many rules at most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, seen: HashMap::new(), others: Counted::default() }
    }

    /// The series, sorted.
    pub(super) fn show(&mut self, usage: &RuleUsage) -> Vec<(Labels, Counted)> {
        let mut rules: Vec<(Labels, Counted)> = merged(&usage.rules);
        rules.retain(|(_, counted)| *counted != Counted::default());
        // Where there is not room for all that are new, the busiest have it.
        rules.sort_unstable_by_key(|(_, counted)| std::cmp::Reverse(counted.packets[0] + counted.packets[1]));
        let mut before = std::mem::take(&mut self.seen);
        let kept = |labels: &Labels| before.get(labels).is_some_and(|seen| seen.shown);
        let mut room = self.most - rules.iter().filter(|(labels, _)| kept(labels)).count().min(self.most);
        let mut series = Vec::new();
        for (labels, counted) in rules {
            let mut seen = before.remove(&labels).unwrap_or_default();
            if !seen.shown && room > 0 {
                (seen.shown, room) = (true, room - 1);
            }
            if seen.shown {
                let mut own = Counted::default();
                own.add(&counted, &seen.elsewhere);
                series.push((labels.clone(), own));
            } else {
                self.others.add(&counted, &seen.elsewhere);
                seen.elsewhere = counted;
            }
            self.seen.insert(labels, seen);
        }
        let apart = |name: &str, counted| (("other".to_owned(), name.to_owned()), counted);
        series.push(apart("other", self.others));
        series.push(apart("none", Counted::of(&usage.without_rule)));
        series.push(apart("earlier", Counted::of(&usage.earlier)));
        series.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        series
    }
}

/// Rules under their labels; alike ones without ids are one.
fn merged(rules: &[RuleUse]) -> Vec<(Labels, Counted)> {
    let by_label: HashMap<Labels, Counted> = rules
        .iter()
        .map(|used| {
            let rule = &used.rule;
            let name = rule.id.as_ref().map_or_else(
                || format!("{} {} {}", rule.direction, rule.protocol, rule.target),
                ToString::to_string,
            );
            ((used.group.to_string(), name), Counted::of(&used.hits))
        })
        .collect();
    by_label.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_api::SecurityGroupRule;

    fn usage(rules: &[(&str, u64)]) -> RuleUsage {
        let rules = rules.iter().map(|(id, packets)| {
            let rule = format!(
                r#"{{"SecurityGroupRuleId": "{id}", "IsEgress": true, "IpProtocol": "-1", "CidrIpv4": "0.0.0.0/0"}}"#
            );
            let rule: SecurityGroupRule = serde_json::from_str(&rule).unwrap();
            let hits = RuleHits { packets: *packets, ..RuleHits::default() };
            RuleUse { group: "sg-1".parse().unwrap(), rule, pods: 1, known_seconds: 0, hits }
        });
        RuleUsage { rules: rules.collect(), ..RuleUsage::default() }
    }

    fn shown(rules: &mut ShownRules, now: &[(&str, u64)]) -> Vec<(String, u64)> {
        let series = rules.show(&usage(now)).into_iter();
        let series = series.filter(|((_, rule), _)| !matches!(rule.as_str(), "none" | "earlier"));
        series.map(|((_, rule), counted)| (rule, counted.packets[0])).collect()
    }

    fn are(series: &[(String, u64)], wanted: &[(&str, u64)]) -> bool {
        let mut series: Vec<_> = series.iter().map(|(rule, count)| (rule.as_str(), *count)).collect();
        series.sort_unstable();
        series == wanted
    }

    #[test]
    fn the_rest_is_one_series_that_never_goes_back() {
        let mut rules = ShownRules::new(2);
        let first = shown(&mut rules, &[("sgr-a", 5), ("sgr-b", 9), ("sgr-c", 7), ("sgr-d", 0)]);
        assert!(are(&first, &[("other", 5), ("sgr-b", 9), ("sgr-c", 7)]), "{first:?}");
        let busier = shown(&mut rules, &[("sgr-a", 50), ("sgr-b", 9), ("sgr-c", 8), ("sgr-d", 3)]);
        assert!(are(&busier, &[("other", 53), ("sgr-b", 9), ("sgr-c", 8)]), "{busier:?}");
        let gone = shown(&mut rules, &[("sgr-a", 51), ("sgr-c", 8)]);
        assert!(are(&gone, &[("other", 53), ("sgr-a", 1), ("sgr-c", 8)]), "{gone:?}");
    }
}
