//! What a capture keeps of a packet beside its bytes, as the comment of its block: `verdict=drop reason=… pod=… rule=…`.
//!
//! Written by `espalier capture`, read back by the replay; words with `=` between, so that they can be searched for. A
//! `pod=` begins what that pod's policy said.

use std::fmt;
use std::str::FromStr;

use super::{WatchedLeg, WatchedPacket};
use crate::filter::Fate;
use crate::ids::{Generation, PodName};
use crate::rule::Direction;

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What became of it.
    pub fate: Fate,
    /// Why it was dropped.
    pub reason: Option<String>,
    /// Whether it was lost on its way out, after another record that says it was sent on.
    pub outbound: bool,
    /// Whether another worker had it before: there is another record, that says where it came from.
    pub handed_over: bool,
    /// VLAN of its branch, if it came by the trunk.
    pub vlan: Option<u16>,
    /// The generation of the rules.
    pub generation: Generation,
    /// The interface it was to leave by.
    pub to: Option<String>,
    /// By which worker it was decided.
    pub worker: usize,
    /// What the policies of up to two pods said.
    pub legs: Vec<WatchedLeg>,
}

impl From<&WatchedPacket> for Record {
    fn from(packet: &WatchedPacket) -> Self {
        Self {
            fate: packet.fate,
            reason: packet.reason.clone(),
            outbound: packet.outbound,
            handed_over: packet.handed_over,
            vlan: packet.vlan,
            generation: packet.generation,
            to: packet.to.clone(),
            worker: packet.worker,
            legs: packet.legs.clone(),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verdict={}", self.fate.label())?;
        if let Some(reason) = &self.reason {
            write!(f, " reason={reason}")?;
        }
        if self.outbound {
            write!(f, " lost=outbound")?;
        }
        if self.handed_over {
            write!(f, " from=worker")?;
        }
        write!(f, " generation={} worker={}", self.generation, self.worker)?;
        if let Some(vlan) = self.vlan {
            write!(f, " vlan={vlan}")?;
        }
        if let Some(to) = &self.to {
            write!(f, " to={to}")?;
        }
        for leg in &self.legs {
            let policy = if leg.passed { "allow" } else { "deny" };
            let flow = if leg.known { "known" } else { "new" };
            write!(f, " pod={} direction={} policy={policy} flow={flow}", leg.pod, leg.direction)?;
            if let Some(rule) = &leg.rule {
                write!(f, " rule={rule}")?;
            }
            if let Some(group) = &leg.group {
                write!(f, " group={group}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut record = Self {
            fate: Fate::Consumed,
            reason: None,
            outbound: false,
            handed_over: false,
            vlan: None,
            generation: Generation(0),
            to: None,
            worker: 0,
            legs: Vec::new(),
        };
        let mut judged = false;
        for word in text.split(' ') {
            let wrong = || format!("{word:?} is not what a capture notes of a packet");
            let (key, value) = word.split_once('=').ok_or_else(wrong)?;
            if key == "verdict" {
                let fate = Fate::ALL.into_iter().find(|fate| fate.label() == value);
                (record.fate, judged) = (fate.ok_or_else(wrong)?, true);
            } else {
                record.set(key, value).ok_or_else(wrong)?;
            }
        }
        if judged { Ok(record) } else { Err("it names no verdict".to_owned()) }
    }
}

impl Record {
    /// Takes a word in. Words of a later version are passed over.
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "reason" => self.reason = Some(value.to_owned()),
            "lost" => self.outbound = true,
            "from" => self.handed_over = true,
            "generation" => self.generation = Generation(value.parse().ok()?),
            "worker" => self.worker = value.parse().ok()?,
            "vlan" => self.vlan = Some(value.parse().ok()?),
            "to" => self.to = Some(value.to_owned()),
            "pod" => self.legs.push(leg(value.parse().ok()?)),
            "direction" => {
                let direction = [Direction::Ingress, Direction::Egress];
                let direction = direction.into_iter().find(|direction| direction.to_string() == value);
                self.legs.last_mut()?.direction = direction?;
            }
            "policy" => self.legs.last_mut()?.passed = value == "allow",
            "flow" => self.legs.last_mut()?.known = value == "known",
            "rule" => self.legs.last_mut()?.rule = Some(value.parse().ok()?),
            "group" => self.legs.last_mut()?.group = Some(value.parse().ok()?),
            _ => {}
        }
        Some(())
    }
}

fn leg(pod: PodName) -> WatchedLeg {
    WatchedLeg { pod, direction: Direction::Ingress, passed: false, rule: None, group: None, known: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let leg = WatchedLeg {
            direction: Direction::Egress,
            passed: true,
            rule: Some("sgr-1".parse().unwrap()),
            group: Some("sg-1".parse().unwrap()),
            known: true,
            ..leg("shop/web".parse().unwrap())
        };
        let record = Record {
            fate: Fate::Drop,
            reason: Some("denied-ingress".to_owned()),
            outbound: false,
            handed_over: true,
            vlan: Some(7),
            generation: Generation(12),
            to: None,
            worker: 1,
            legs: vec![leg, super::leg("shop/db".parse().unwrap())],
        };
        let text = record.to_string();
        assert_eq!(
            text,
            "verdict=drop reason=denied-ingress from=worker generation=12 worker=1 vlan=7 pod=shop/web direction=egress \
             policy=allow flow=known rule=sgr-1 group=sg-1 pod=shop/db direction=ingress policy=deny flow=new"
        );
        assert_eq!(text.parse(), Ok(record));
        for bad in ["", "verdict=maybe", "pod=web verdict=drop", "rule=sgr-1 verdict=drop", "generation=1"] {
            assert!(bad.parse::<Record>().is_err(), "{bad}");
        }
    }
}
