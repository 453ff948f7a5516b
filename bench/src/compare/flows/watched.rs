//! What it costs to look: established TCP with observers at the shard, and denied packets that somebody is told of.
//!
//! Rings that nobody empties are full in all but the first rounds: what they cost is what an overloaded reader costs.

use anyhow::{Result, ensure};
use espalier_switch::facts;
use espalier_switch::observe::{Samples, Wanted, Watch, tap};

use super::ROUND;
use super::arena::Frame;
use super::established::{Load, STRIDE};
use super::packets::TCP;
use crate::measure::Subject;
use crate::report::Report;

/// Flows of the pods.
const FLOWS: u32 = 10_000;
/// Bytes kept of each packet.
const SNAPLEN: usize = 128;
/// Room of a ring of facts, as in the switch.
const FACTS: usize = 1 << 15;

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    Nobody,
    /// For drops alone, of which there are none.
    ForDrops,
    /// At every packet, and keeps up.
    InTime,
    /// At every packet, and has stopped reading.
    TooSlow,
}

const ESTABLISHED: [(&str, Looks); 4] = [
    ("nobody looks", Looks::Nobody),
    ("for drops, of which there are none", Looks::ForDrops),
    ("at each packet", Looks::InTime),
    ("at each packet, reader does not read", Looks::TooSlow),
];

const DENIED: [(&str, Looks); 3] = [
    ("nobody is told", Looks::Nobody),
    ("told", Looks::InTime),
    ("told, reader does not read", Looks::TooSlow),
];

/// All subjects of both cases.
pub(super) fn run(report: &mut Report, runs: usize) -> Result<()> {
    established(report, runs)?;
    denied(report, runs)
}

fn established(report: &mut Report, runs: usize) -> Result<()> {
    let mut memory = ESTABLISHED.map(|_| vec![0; ROUND * STRIDE]);
    let mut loads = Vec::new();
    for ((_, looks), memory) in ESTABLISHED.into_iter().zip(&mut memory) {
        let mut load = Load::new(FLOWS, false, TCP, Frame::cut(memory, STRIDE))?.established()?;
        let samples = watch(&mut load, looks);
        loads.push((load, samples));
    }
    let named = ESTABLISHED.iter().zip(&mut loads);
    let mut subjects: Vec<Subject<'_>> = named
        .map(|((name, looks), (load, samples))| {
            Subject::new(name, || {
                let spent = load.rounds(|| {
                    if *looks == Looks::InTime {
                        drain(samples)
                    }
                });
                load.world.all_forwarded()?;
                let watched = load.world.shard.watch.is_some();
                ensure!(watched == (*looks != Looks::Nobody), "somebody looked away");
                Ok(spent)
            })
        })
        .collect();
    report.in_turns("flows/watched/10k", &mut subjects, runs)
}

fn watch(load: &mut Load<'_>, looks: Looks) -> Option<Samples> {
    let wanted: Wanted = match looks {
        Looks::Nobody => return None,
        Looks::ForDrops => Box::new(|seen| seen.end.dropped().is_some()),
        Looks::InTime | Looks::TooSlow => Box::new(|_| true),
    };
    let (tap, samples) = tap(SNAPLEN, wanted);
    load.world.shard.watch = Some(Box::new(Watch::new(Box::new(tap))));
    Some(samples)
}

fn drain(samples: &mut Option<Samples>) {
    while samples.as_mut().is_some_and(|samples| samples.next(|_| ()).is_some()) {}
}

fn denied(report: &mut Report, runs: usize) -> Result<()> {
    let mut memory = DENIED.map(|_| vec![0; ROUND * STRIDE]);
    let mut loads = Vec::new();
    for ((_, looks), memory) in DENIED.into_iter().zip(&mut memory) {
        // Nothing is established, and the group has no rules.
        let mut load = Load::new(FLOWS, false, TCP, Frame::cut(memory, STRIDE))?;
        let (teller, listener) = facts::ring(FACTS);
        if looks != Looks::Nobody {
            load.world.shard.facts = Some(teller);
        }
        loads.push((load, listener));
    }
    let named = DENIED.iter().zip(&mut loads);
    let mut subjects: Vec<Subject<'_>> = named
        .map(|((name, looks), (load, listener))| {
            Subject::new(name, || {
                let spent = load.rounds(|| {
                    if *looks == Looks::InTime {
                        listener.by_ref().for_each(|_| ())
                    }
                });
                load.world.all_denied()?;
                Ok(spent)
            })
        })
        .collect();
    report.in_turns("flows/denied", &mut subjects, runs)
}
