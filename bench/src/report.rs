//! The result of a comparison: rows, goals, and how both are printed.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::machine::Machine;
use crate::measure::{Quartiles, Subject, in_turns};

/// One comparison.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What it should have been.
    pub goals: Vec<Goal>,
    /// What could not be measured, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

/// A subject that could not be measured.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Which.
    pub subject: String,
    /// Why.
    pub error: String,
}

/// One subject on one case.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `area/case/size`.
    pub case: String,
    /// `espalier…` or the peer.
    pub subject: String,
    /// Middle of the runs.
    pub median: f64,
    /// First quarter.
    pub p25: f64,
    /// Third quarter.
    pub p75: f64,
    /// `ns`, `us`, `ms`, `MiB`, `bytes`.
    pub unit: &'static str,
    /// Number of runs.
    pub runs: usize,
}

/// A number that was promised.
#[derive(Debug, Serialize)]
pub struct Goal {
    /// What.
    pub goal: String,
    /// The promise.
    pub want: f64,
    /// The median measured.
    pub got: f64,
    /// Whether it was kept.
    pub met: bool,
}

impl Report {
    /// An empty one for this machine.
    pub fn new() -> Self {
        Self { machine: Machine::here(), rows: Vec::new(), goals: Vec::new(), failures: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, case: &str, subject: &str, unit: &'static str, samples: Quartiles) {
        let Quartiles { median, p25, p75, runs } = samples;
        let (case, subject) = (case.to_owned(), subject.to_owned());
        self.rows.push(Row { case, subject, median, p25, p75, unit, runs });
    }

    /// The median of a row, if it was measured.
    pub fn median(&self, case: &str, subject: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.case == case && row.subject == subject).map(|row| row.median)
    }

    /// Runs the subjects in turns, and adds a row of nanoseconds for each.
    pub fn in_turns(&mut self, case: &str, subjects: &mut [Subject<'_>], runs: usize) -> Result<()> {
        let samples = in_turns(subjects, runs)?;
        for (subject, samples) in subjects.iter().zip(samples) {
            self.row(case, subject.name, "ns", samples);
        }
        Ok(())
    }

    /// Adds a goal that a number stays at or below `want`.
    pub fn at_most(&mut self, goal: &str, want: f64, got: f64) {
        self.goals.push(Goal { goal: goal.to_owned(), want, got, met: got <= want });
    }

    /// Adds a goal that a number reaches `want`.
    pub fn at_least(&mut self, goal: &str, want: f64, got: f64) {
        self.goals.push(Goal { goal: goal.to_owned(), want, got, met: got >= want });
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, memory_mib, load } = &self.machine;
        writeln!(f, "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, load {load}\n")?;
        writeln!(f, "{:<44} {:<24} {:>10} {:>10} {:>10} unit", "case", "subject", "median", "p25", "p75")?;
        for Row { case, subject, median, p25, p75, unit, .. } in &self.rows {
            writeln!(f, "{case:<44} {subject:<24} {median:>10.2} {p25:>10.2} {p75:>10.2} {unit}")?;
        }
        if !self.goals.is_empty() {
            writeln!(f, "\n{:<72} {:>10} {:>10}", "goal", "want", "got")?;
        }
        for Goal { goal, want, got, met } in &self.goals {
            let mark = if *met { "met" } else { "missed" };
            writeln!(f, "{goal:<72} {want:>10.2} {got:>10.2} {mark}")?;
        }
        for Failure { subject, error } in &self.failures {
            writeln!(f, "\n{subject} could not be measured: {error}")?;
        }
        Ok(())
    }
}
