//! The whole step on established flows: batches from the trunk and from a pod in turns, as the worker receives them.

use anyhow::Result;
use espalier_api::Direction::{Egress, Ingress};
use espalier_switch::flow::tcp_flag::ACK;

use super::arena::Frame;
use super::packets::{TCP, Template, UDP};
use super::world::{Batch, PODS, World, ends, node, vlan};
use super::{Allocated, BATCH, BATCHES, ROUND, ROUNDS, WARM_UP, sized, warm};
use crate::compare::rules::Allocator;
use crate::measure::Subject;
use crate::random::Random;
use crate::report::Report;

/// Bytes between two frames that lie side by side.
pub(super) const STRIDE: usize = 128;
/// Bytes between two frames of the UMEM. Their headers then share a few sets of the caches.
const UMEM_STRIDE: usize = 4096;

/// What is sent.
const SUBJECTS: [(&str, bool, u8, usize); 5] = [
    ("espalier tcp4", false, TCP, STRIDE),
    ("espalier udp4", false, UDP, STRIDE),
    ("espalier tcp6", true, TCP, STRIDE),
    ("espalier udp6", true, UDP, STRIDE),
    ("espalier tcp4, frames 4 KiB apart", false, TCP, UMEM_STRIDE),
];

/// One kind of packet on a table of its flows.
pub(super) struct Load<'f> {
    pub(super) world: World<'f>,
    batches: Vec<Batch<'f>>,
    template: Template,
    random: Random,
    flows: u32,
    v6: bool,
    protocol: u8,
}

/// All subjects at one number of flows.
pub(super) fn run(
    report: &mut Report,
    allocator: Allocator,
    allocated: &mut Allocated,
    (case, flows): (&str, u32),
    runs: usize,
) -> Result<()> {
    let mut memory = SUBJECTS.map(|(.., stride)| vec![0; ROUND * stride]);
    let mut loads = Vec::new();
    for ((_, v6, protocol, stride), memory) in SUBJECTS.into_iter().zip(&mut memory) {
        loads.push(Load::new(flows, v6, protocol, Frame::cut(memory, stride))?.established()?);
    }
    for load in &mut loads {
        load.sample()?;
        allocated.count(allocator, WARM_UP + ROUNDS, || load.sample())?;
    }
    let named = SUBJECTS.iter().zip(&mut loads);
    let mut subjects: Vec<Subject<'_>> =
        named.map(|((name, ..), load)| Subject::new(name, || load.sample())).collect();
    report.in_turns(case, &mut subjects, runs)
}

/// [`ROUND`] frames in batches.
pub(super) fn batches<'f>(mut frames: impl Iterator<Item = Frame<'f>>) -> Vec<Batch<'f>> {
    (0..BATCHES).map(|_| frames.by_ref().take(BATCH).collect()).collect()
}

impl<'f> Load<'f> {
    /// Packets of flows that nobody has begun.
    pub(super) fn new(
        flows: u32,
        v6: bool,
        protocol: u8,
        frames: impl Iterator<Item = Frame<'f>>,
    ) -> Result<Self> {
        let config = if v6 { sized(1, 2 * flows) } else { sized(2 * flows, 1) };
        let world = World::new(&node()?, &config)?;
        let template = Template::new(v6, protocol, ACK)?;
        let (batches, random) = (batches(frames), Random::new(52));
        Ok(Self { world, batches, template, random, flows, v6, protocol })
    }

    /// The same with the flows entered.
    pub(super) fn established(mut self) -> Result<Self> {
        self.world.establish(self.flows, self.v6, self.protocol)?;
        Ok(self)
    }

    fn sample(&mut self) -> Result<f64> {
        let spent = self.rounds(|| {});
        self.world.all_forwarded()?;
        Ok(spent)
    }

    /// One run: each round its packets are written, then timed; nanoseconds a packet. `between` is not timed.
    pub(super) fn rounds(&mut self, mut between: impl FnMut()) -> f64 {
        warm(|| {
            self.write();
            let spent = self.world.round(&mut self.batches);
            between();
            spent
        })
    }

    /// Even batches come from the trunk for any pods, odd ones from one pod.
    fn write(&mut self) {
        let Self { batches, template, random, flows, v6, protocol, .. } = self;
        let pods = u32::from(PODS);
        for (number, batch) in batches.iter_mut().enumerate() {
            let sender = random.below(PODS.into()) as u32;
            for frame in batch {
                let flow = random.below((*flows / pods) as usize) as u32 * pods;
                if number % 2 == 0 {
                    let ends = ends(flow + random.below(PODS.into()) as u32, *v6, *protocol);
                    frame.come_from_trunk(vlan(ends.slot));
                    template.write(frame, &ends, Ingress);
                } else {
                    let ends = ends(flow + sender, *v6, *protocol);
                    frame.come_from_pod(ends.slot);
                    template.write(frame, &ends, Egress);
                }
            }
        }
    }
}
