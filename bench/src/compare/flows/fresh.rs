//! New flows: each packet is judged by a thousand rules and enters its flow. The whole step, as on established flows.
//!
//! A run grows the table by its packets, into entries that no cache holds; outside the measured time they are removed.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use espalier_api::Direction::Ingress;
use espalier_rules::{Engine, Judge};
use espalier_switch::flow::tcp_flag::SYN;
use espalier_switch::flow::{FlowKey, PodSlot};

use super::arena::Frame;
use super::established::batches;
use super::packets::{Ends, TCP, Template, UDP};
use super::world::{Batch, World, vlan};
use super::{Allocated, ROUND, ROUNDS, sized};
use crate::compare::rules::Allocator;
use crate::input::{self, Packet, RuleSet, Traffic};
use crate::measure::Subject;
use crate::report::Report;

const STRIDE: usize = 128;

/// The pod of the rule set.
const POD: PodSlot = PodSlot(0);

/// First packets on a table with other flows.
struct Load<'f> {
    world: World<'f>,
    batches: Vec<Batch<'f>>,
    templates: [Template; 2],
    allowed: Vec<Packet>,
    keys: Vec<FlowKey>,
    next: usize,
}

/// New flows beside a number of established ones.
pub(super) fn run(
    report: &mut Report,
    allocator: Allocator,
    allocated: &mut Allocated,
    (case, flows): (&str, u32),
    runs: usize,
) -> Result<()> {
    let mut memory = vec![0; ROUND * STRIDE];
    let mut load = Load::new(&input::thousand_rules(), flows, Frame::cut(&mut memory, STRIDE))?;
    load.sample()?;
    allocated.count(allocator, ROUNDS, || load.sample())?;
    report.in_turns(case, &mut [Subject::new("espalier", || load.sample())], runs)
}

impl<'f> Load<'f> {
    fn new(set: &RuleSet, flows: u32, frames: impl Iterator<Item = Frame<'f>>) -> Result<Self> {
        let room = flows + 2 * (ROUND * ROUNDS) as u32;
        let mut world = World::new(&set.snapshot, &sized(room, 1))?;
        world.establish(flows, false, TCP)?;
        let templates = [Template::new(false, TCP, SYN)?, Template::new(false, UDP, 0)?];
        let keys = Vec::with_capacity(ROUND * ROUNDS);
        let allowed = allowed(&world.tables.judge, set)?;
        Ok(Self { world, batches: batches(frames), templates, allowed, keys, next: 0 })
    }

    fn sample(&mut self) -> Result<f64> {
        let before = self.world.shard.flows.len();
        let mut spent = 0.0;
        for _ in 0..ROUNDS {
            self.write();
            spent += self.world.round(&mut self.batches);
        }
        self.world.all_forwarded()?;
        let entered = self.world.shard.flows.len() - before;
        ensure!(entered == ROUND * ROUNDS, "{entered} of {} new flows were entered", ROUND * ROUNDS);
        for key in self.keys.drain(..) {
            let handle = self.world.shard.flows.find(&key).handle().context("a new flow is gone")?;
            self.world.shard.flows.remove(handle);
        }
        Ok(spent / ROUNDS as f64)
    }

    /// No two packets of a run are of one flow: the allowed ones come in turns, with another port in each turn.
    fn write(&mut self) {
        let Self { world, batches, templates, allowed, keys, next } = self;
        let local =
            world.tables.pod(POD).and_then(|pod| pod.addresses.first()).map(|address| (*address).into());
        for (frame, local) in batches.iter_mut().flatten().zip(local.into_iter().cycle()) {
            let Packet { remote, protocol, port } = allowed[*next % allowed.len()];
            let remote_port = 1024 + (*next / allowed.len() % 60_000) as u16;
            let ends =
                Ends { slot: POD, local, remote: remote.into(), protocol, local_port: port, remote_port };
            frame.come_from_trunk(vlan(POD));
            templates[usize::from(protocol == UDP)].write(frame, &ends, Ingress);
            keys.push(ends.key());
            *next += 1;
        }
    }
}

/// Distinct packets that the rules let pass.
fn allowed(judge: &Judge, set: &RuleSet) -> Result<Vec<Packet>> {
    let policy = judge.policy_of(0).context("the benches' snapshots have a pod")?;
    let mut packets = input::packets(set, Traffic::Uniform, 53, |_| false);
    let mut known = HashSet::new();
    packets.retain(|packet| {
        // A loopback address is refused before the rules are asked.
        !packet.remote.is_loopback()
            && judge.judge(policy, &packet.tuple()).passes()
            && known.insert((packet.remote, packet.protocol, packet.port))
    });
    ensure!(!packets.is_empty(), "the rules of the benches let nothing pass");
    Ok(packets)
}
