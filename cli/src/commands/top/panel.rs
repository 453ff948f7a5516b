//! The panels of `top` as plain tables: columns, rows, what they are sorted by, and their text for `--once`.
//!
//! Nothing here knows of a terminal: `draw` shows the rows, `view` chooses and orders them.

use comfy_table::Cell;
use espalier_api::control::WorkerState;

use super::rates::{DropRate, PodRate, Rates, RuleRate, WorkerRate};
use crate::error::CliError;
use crate::output::{Output, grouped, listed, short};

/// A table of `top`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    Pods,
    Drops,
    Rules,
    Workers,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) heading: &'static str,
    /// Its values stand on the right.
    pub(super) numeric: bool,
    /// Left out where there is little room.
    pub(super) spare: bool,
}

/// What a row says, and whether it deserves a look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) cells: Vec<Value>,
    pub(super) alarming: bool,
}

/// A cell with what it is sorted by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Name(String),
    /// A rate or a count, in short.
    Number(f64),
    /// A count, in full.
    Count(u64),
    /// Nothing to say.
    None,
}

const fn name(heading: &'static str) -> Column {
    Column { heading, numeric: false, spare: false }
}

const fn number(heading: &'static str) -> Column {
    Column { heading, numeric: true, spare: false }
}

const fn spare(heading: &'static str) -> Column {
    Column { heading, numeric: true, spare: true }
}

const PODS: &[Column] = &[
    name("POD"),
    number("FROM pps"),
    number("bit/s"),
    number("TO pps"),
    number("bit/s"),
    number("DROP/s"),
    spare("DROPPED"),
    spare("WORKER"),
];
const DROPS: &[Column] = &[name("REASON"), number("DROP/s"), number("DROPPED"), name("MOSTLY")];
const RULES: &[Column] =
    &[name("RULE"), number("pps"), number("bit/s"), number("FLOWS/s"), name("ALLOWS"), spare("PACKETS")];
const WORKERS: &[Column] = &[
    name("WORKER"),
    name("STATE"),
    number("RX pps"),
    number("FWD pps"),
    number("DROP/s"),
    number("PKT/BATCH"),
    number("ns/PKT"),
    number("LOAD %"),
    spare("PODS"),
    spare("FLOWS"),
    spare("HANDED pps"),
    spare("CORE"),
];

impl Panel {
    /// In the order of the tab key.
    pub(super) const ALL: [Self; 4] = [Self::Pods, Self::Drops, Self::Rules, Self::Workers];

    /// Its heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Drops => "drops",
            Self::Rules => "rules",
            Self::Workers => "workers",
        }
    }

    /// Its columns.
    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Pods => PODS,
            Self::Drops => DROPS,
            Self::Rules => RULES,
            Self::Workers => WORKERS,
        }
    }

    /// The column that rows are sorted by unless another is chosen.
    pub(super) fn first_order(self) -> usize {
        if self == Self::Workers { 0 } else { 1 }
    }

    /// Its rows, in the order of the switch.
    pub(super) fn rows(self, rates: &Rates) -> Vec<Row> {
        match self {
            Self::Pods => rates.pods.iter().map(pod).collect(),
            Self::Drops => rates.drops.iter().map(drop_of).collect(),
            Self::Rules => rates.rules.iter().flatten().map(rule).collect(),
            Self::Workers => rates.workers.iter().map(worker).collect(),
        }
    }
}

impl Value {
    /// What is shown.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Number(number) => short(*number),
            Self::Count(count) => grouped(*count),
            Self::None => "-".to_owned(),
        }
    }

    /// What rows are sorted by: names upwards, numbers downwards.
    pub(super) fn compare(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Name(one), Self::Name(other)) => one.cmp(other),
            _ => other.amount().total_cmp(&self.amount()),
        }
    }

    fn amount(&self) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Count(count) => *count as f64,
            Self::Name(_) | Self::None => f64::NEG_INFINITY,
        }
    }
}

/// Every panel as a table, busiest rows first.
pub(super) fn print(rates: &Rates, out: &mut Output) -> Result<(), CliError> {
    let total = &rates.total;
    out.line(format!(
        "{} pps received = {} forwarded + {} dropped + {} consumed, over {:.1} s",
        short(total.received),
        short(total.forwarded),
        short(total.dropped),
        short(total.consumed),
        rates.seconds
    ))?;
    for panel in Panel::ALL {
        out.line(format!("\n{}", panel.title()))?;
        let mut rows = panel.rows(rates);
        sort(&mut rows, panel.first_order());
        let headings = panel.columns().iter().map(|column| column.heading);
        let rows =
            rows.into_iter().map(|row| row.cells.iter().map(|value| Cell::new(value.text())).collect());
        out.rows(headings, rows)?;
    }
    Ok(())
}

/// Sorts by a column; rows that are equal there stay in their order.
pub(super) fn sort(rows: &mut [Row], by: usize) {
    rows.sort_by(|one, other| match (one.cells.get(by), other.cells.get(by)) {
        (Some(one), Some(other)) => one.compare(other),
        _ => std::cmp::Ordering::Equal,
    });
}

fn pod(pod: &PodRate) -> Row {
    let name = if pod.up { pod.pod.to_string() } else { format!("{} (down)", pod.pod) };
    Row {
        cells: vec![
            Value::Name(name),
            Value::Number(pod.from_pod.packets_per_second),
            Value::Number(pod.from_pod.bits_per_second),
            Value::Number(pod.to_pod.packets_per_second),
            Value::Number(pod.to_pod.bits_per_second),
            Value::Number(pod.drops_per_second),
            Value::Count(pod.dropped),
            Value::Count(pod.worker as u64),
        ],
        alarming: !pod.up || pod.drops_per_second > 0.0,
    }
}

fn drop_of(drop: &DropRate) -> Row {
    Row {
        cells: vec![
            Value::Name(drop.reason.clone()),
            Value::Number(drop.per_second),
            Value::Count(drop.total),
            drop.most_by.as_ref().map_or(Value::None, |pod| Value::Name(pod.to_string())),
        ],
        alarming: drop.per_second > 0.0,
    }
}

fn rule(rule: &RuleRate) -> Row {
    let id = rule.rule.as_ref().map_or_else(|| format!("one of {}", rule.group), ToString::to_string);
    Row {
        cells: vec![
            Value::Name(id),
            Value::Number(rule.passed.packets_per_second),
            Value::Number(rule.passed.bits_per_second),
            Value::Number(rule.new_flows_per_second),
            Value::Name(rule.summary.clone()),
            Value::Count(rule.packets),
        ],
        alarming: false,
    }
}

fn worker(worker: &WorkerRate) -> Row {
    let (state, alarming) = match worker.state {
        WorkerState::Running => ("running", false),
        WorkerState::Stalled => ("stalled", true),
        WorkerState::Dead => ("dead", true),
    };
    Row {
        cells: vec![
            Value::Name(worker.worker.to_string()),
            Value::Name(state.to_owned()),
            Value::Number(worker.received_per_second),
            Value::Number(worker.forwarded_per_second),
            Value::Number(worker.dropped_per_second),
            worker.packets_per_batch.map_or(Value::None, Value::Number),
            worker.ns_per_packet.map_or(Value::None, Value::Number),
            worker.load.map_or(Value::None, |load| Value::Number(load * 100.0)),
            Value::Count(worker.pods as u64),
            Value::Count(worker.flows as u64),
            Value::Number(worker.handed_over_per_second),
            Value::Name(listed(worker.core)),
        ],
        alarming,
    }
}
