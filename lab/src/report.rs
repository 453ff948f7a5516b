//! What came of the probes: the JSON of `lab run --json`, and the table for people.

use std::fmt::{self, Write as _};

use espalier_api::control::Counters;
use espalier_api::{RuleId, Verdict};
use serde::{Deserialize, Serialize};

/// The outcome of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// The probes in the scenario's order.
    pub probes: Vec<ProbeResult>,
    /// Probes that went as expected.
    pub passed: usize,
    /// Probes that did not.
    pub failed: usize,
    /// The switch's counters after the last probe.
    pub counters: Counters,
}

/// The outcome of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Where it came from.
    pub from: String,
    /// Where it went.
    pub to: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, a number, `dns` or `http`.
    pub protocol: String,
    /// Destination port, where there is one.
    pub port: Option<u16>,
    /// What the scenario expects.
    pub expect: Verdict,
    /// What happened on the wire.
    pub got: Got,
    /// The rule that decides, by the switch's own account.
    pub rule: Option<RuleId>,
    /// Why, and what is wrong where the probe failed.
    pub reason: String,
    /// Milliseconds until it was certain.
    pub ms: f64,
    /// Whether it counts as passed.
    #[serde(skip)]
    pub passed: bool,
    /// Family, ICMP type and code or DNS name, for the table.
    #[serde(skip)]
    pub detail: String,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Got {
    /// The packet arrived, and where an answer was due it came back unchanged.
    Allow,
    /// Nothing arrived, and the switch counted a drop for want of a rule.
    Deny,
    /// Neither was proven: `reason` says what was seen.
    Unproven,
}

impl Got {
    /// Whether this is what was expected.
    pub fn is(self, expected: Verdict) -> bool {
        matches!((self, expected), (Self::Allow, Verdict::Allow) | (Self::Deny, Verdict::Deny))
    }

    fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unproven => "unproven",
        }
    }
}

impl Report {
    /// Whether every probe went as expected.
    pub fn is_success(&self) -> bool {
        self.failed == 0
    }

    /// The table for people; `colour` where a terminal shows it and `NO_COLOR` is not set.
    pub fn table(&self, colour: bool) -> String {
        let heads = ["", "FROM", "TO", "WHAT", "EXPECTED", "GOT", "RULE", "MS"].map(String::from);
        let rows: Vec<_> = [heads].into_iter().chain(self.probes.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..8).map(width).collect();
        let mut out = String::new();
        for (index, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                7 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            let probe = index.checked_sub(1).and_then(|index| self.probes.get(index));
            let code = match probe {
                None => "1",
                Some(probe) if probe.passed => "32",
                Some(_) => "31",
            };
            paint(&mut out, line.trim_end(), code, colour);
            if let Some(failed) = probe.filter(|probe| !probe.passed) {
                paint(&mut out, &format!("      {}", failed.reason), "31", colour);
            }
        }
        let _ = writeln!(out, "\n{self}");
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { rx, forwarded, consumed, dropped, .. } = &self.counters;
        let drops: u64 = dropped.values().sum();
        write!(f, "{}: {} passed, {} failed; ", self.scenario, self.passed, self.failed)?;
        write!(f, "switch: rx {rx} = forwarded {forwarded} + dropped {drops} + consumed {consumed}")
    }
}

fn row(probe: &ProbeResult) -> [String; 8] {
    let port = probe.port.map(|port| format!("/{port}")).unwrap_or_default();
    let verdict = match probe.expect {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    let rule = match (&probe.rule, probe.got) {
        (Some(rule), _) => rule.to_string(),
        (None, Got::Allow) => "(not filtered)".into(),
        (None, _) => "(no rule)".into(),
    };
    [
        if probe.passed { "ok" } else { "FAIL" }.into(),
        probe.from.clone(),
        probe.to.clone(),
        format!("{}{port}{}", probe.protocol, probe.detail),
        verdict.into(),
        probe.got.label().into(),
        rule,
        format!("{:.1}", probe.ms),
    ]
}

fn paint(out: &mut String, line: &str, code: &str, colour: bool) {
    let _ = if colour { writeln!(out, "\x1b[{code}m{line}\x1b[0m") } else { writeln!(out, "{line}") };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(expect: Verdict, got: Got) -> ProbeResult {
        ProbeResult {
            from: "a/b".into(),
            to: "db".into(),
            protocol: "tcp".into(),
            port: Some(5432),
            expect,
            got,
            rule: None,
            reason: "no rule allows it".into(),
            ms: 1.25,
            passed: got.is(expect),
            detail: String::new(),
        }
    }

    #[test]
    fn the_json_has_the_documented_fields_and_no_others() {
        let report = Report {
            scenario: "rds".into(),
            probes: vec![result(Verdict::Deny, Got::Deny)],
            passed: 1,
            failed: 0,
            counters: Counters::default(),
        };
        let json = serde_json::to_string(&report).unwrap();
        assert!(
            json.starts_with(
                r#"{"scenario":"rds","probes":[{"from":"a/b","to":"db","protocol":"tcp","port":5432,"expect":"deny","got":"deny","rule":null,"reason":"no rule allows it","ms":1.25}],"passed":1,"failed":0,"counters":{"#
            ),
            "{json}"
        );
    }

    #[test]
    fn a_failed_probe_is_marked_and_explained_and_colour_is_asked_for() {
        let report = Report {
            scenario: "rds".into(),
            probes: vec![result(Verdict::Allow, Got::Unproven)],
            passed: 0,
            failed: 1,
            counters: Counters::default(),
        };
        let table = report.table(false);
        assert!(table.contains("FAIL") && table.contains("      no rule allows it"), "{table}");
        assert!(!table.contains('\x1b'));
        assert!(report.table(true).contains("\x1b[31m"));
    }
}
