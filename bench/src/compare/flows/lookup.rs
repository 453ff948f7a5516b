//! The flow table alone: lookup and state update of established flows, in batches.

use std::hint::black_box;

use anyhow::{Result, ensure};
use espalier_api::Direction::Egress;
use espalier_switch::flow::{FlowKey, FlowTable, Lookups, PacketFacts, tcp_flag::ACK};

use super::packets::TCP;
use super::world::{NOW, World, ends, node};
use super::{BATCH, ROUND, ROUNDS, WARM_UP, sized, warm};
use crate::measure::{Subject, nanoseconds_each};
use crate::random::Random;
use crate::report::Report;

/// Both families at one number of flows.
pub(super) fn run(report: &mut Report, case: &str, flows: u32, runs: usize) -> Result<()> {
    let snapshot = node()?;
    let mut subjects = Vec::new();
    for (name, v6) in [("espalier v4", false), ("espalier v6", true)] {
        let config = if v6 { sized(1, 2 * flows) } else { sized(2 * flows, 1) };
        let mut world = World::new(&snapshot, &config)?;
        world.establish(flows, v6, TCP)?;
        let mut random = Random::new(51);
        subjects.push(Subject::new(name, move || sample(&mut world.shard.flows, &mut random, flows, v6)));
    }
    report.in_turns(case, &mut subjects, runs)
}

/// One run over flows drawn at random.
fn sample(table: &mut FlowTable, random: &mut Random, flows: u32, v6: bool) -> Result<f64> {
    let mut keys: Vec<FlowKey> = Vec::with_capacity(ROUND);
    let mut passed = 0;
    let mut lookups = Lookups::default();
    let spent = warm(|| {
        keys.clear();
        keys.extend((0..ROUND).map(|_| ends(random.below(flows as usize) as u32, v6, TCP).key()));
        nanoseconds_each(ROUND, || passed += update(table, black_box(&keys), &mut lookups))
    });
    let packets = ROUND * (WARM_UP + ROUNDS);
    ensure!(passed == packets, "{passed} of {packets} packets found their flow");
    Ok(spent)
}

/// What the step does of it; how many packets passed.
fn update(table: &mut FlowTable, keys: &[FlowKey], lookups: &mut Lookups) -> usize {
    let facts = PacketFacts { direction: Egress, tcp_flags: ACK, bytes: 64 };
    let mut passed = 0;
    for keys in keys.chunks(BATCH) {
        for key in keys {
            lookups.add(*key);
        }
        lookups.look(table);
        for place in 0..keys.len() as u32 {
            let Some(sought) = lookups.get(place) else { continue };
            passed += usize::from(table.pass_steady(sought, 0, &facts, NOW));
        }
        lookups.clear();
    }
    passed
}
