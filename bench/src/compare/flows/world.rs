//! A worker's state without a kernel: a node of pods with their ports attached, and tables full of established flows.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use espalier_api::Direction::{Egress, Ingress};
use espalier_api::Snapshot;
use espalier_rules::Judge;
use espalier_switch::flow::fragment::{FragmentConfig, Fragments};
use espalier_switch::flow::{
    FlowConfig, FlowTable, NewFlow, Now, PacketFacts, PodSlot, Timeouts, tcp_flag::ACK, tcp_flag::SYN,
};
use espalier_switch::neighbour::HostEnd;
use espalier_switch::reason::DropReason;
use espalier_switch::step::{Memory, Outcome, Shard, ShardParts, step};
use espalier_switch::tables::Tables;

use super::arena::{Arena, Frame};
use super::packets::{Ends, TCP};
use super::{BATCH, ROUND};
use crate::measure::nanoseconds_each;

/// Pods of the node.
pub(super) const PODS: u16 = 64;
/// When everything happens.
pub(super) const NOW: Now = Now(2000);
/// MAC of the next hop.
pub(super) const GATEWAY_MAC: [u8; 6] = [2, 0xee, 0, 0, 0, 1];

/// MAC of a branch ENI.
pub(super) fn branch_mac(slot: PodSlot) -> [u8; 6] {
    [6, 0, 0, 0, 0, slot.0 as u8 + 1]
}

/// MAC of a pod's interface.
pub(super) fn pod_mac(slot: PodSlot) -> [u8; 6] {
    [2, 0xaa, 0, 0, 0, slot.0 as u8 + 1]
}

/// MAC of the host end of a pod's veth.
pub(super) fn veth_mac(slot: PodSlot) -> [u8; 6] {
    [2, 0xbb, 0, 0, 0, slot.0 as u8 + 1]
}

/// VLAN of a branch.
pub(super) fn vlan(slot: PodSlot) -> u16 {
    slot.0 + 1
}

/// Address of a pod. The first is that of `input::empty`'s only pod.
fn address(slot: PodSlot, v6: bool) -> IpAddr {
    let host = u32::from(slot.0) + 9;
    match v6 {
        true => Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(host)).into(),
        false => Ipv4Addr::from_bits(0x0a00_0000 + host).into(),
    }
}

/// Flow number `flow`; remote ends and pods differ from one to the next.
pub(super) fn ends(flow: u32, v6: bool, protocol: u8) -> Ends {
    let slot = PodSlot((flow % u32::from(PODS)) as u16);
    let host = 1000 + (flow >> 10);
    let remote = match v6 {
        true => Ipv6Addr::from_bits(0x2001_0db8_0001 << 80 | u128::from(host)).into(),
        false => Ipv4Addr::from_bits(0x0a40_0000 + host).into(),
    };
    let remote_port = 1024 + (flow & 0x3ff) as u16;
    Ends { slot, local: address(slot, v6), remote, protocol, local_port: 443, remote_port }
}

/// A node of [`PODS`] pods of both families.
pub(super) fn node() -> Result<Snapshot> {
    let mut pods = String::new();
    for slot in (0..PODS).map(PodSlot) {
        let comma = if slot.0 == 0 { "" } else { "," };
        let mac = branch_mac(slot).map(|byte| format!("{byte:02x}")).join(":");
        write!(
            pods,
            r#"{comma}{{"name":"bench/pod-{n}","eniId":"eni-{n}","vlan":{vlan},"mac":"{mac}","addresses":["{v4}","{v6}"],
            "subnets":["10.0.0.0/24","2001:db8::/64"],"veth":"veth{n}","securityGroups":["sg-0"],
            "gateway":{{"mac":"02:ee:00:00:00:01"}}}}"#,
            n = slot.0,
            vlan = vlan(slot),
            v4 = address(slot, false),
            v6 = address(slot, true),
        )?;
    }
    let text = format!(
        r#"{{"generation":1,"vpc":{{"cidrs":["10.0.0.0/8"]}},"trunk":{{"interface":"trunk0"}},"pods":[{pods}],
        "securityGroups":[{{"groupId":"sg-0"}}]}}"#
    );
    Ok(Snapshot::from_json(text.as_bytes())?)
}

/// What a worker has.
pub(super) struct World<'f> {
    pub(super) tables: Tables,
    pub(super) shard: Shard<Frame<'f>>,
    decided: Vec<(Frame<'f>, Outcome)>,
}

/// A batch of packets, to be used again and again.
pub(super) type Batch<'f> = Vec<Frame<'f>>;

impl<'f> World<'f> {
    /// All pods of the snapshot attached, in the first slots.
    pub(super) fn new(snapshot: &Snapshot, config: &FlowConfig) -> Result<Self> {
        // The warnings are of EC2's quotas, which the rules of the benches pass on purpose.
        let (judge, _) = Judge::compiled(snapshot);
        let mut shard = Shard::new(ShardParts {
            flows: FlowTable::new(config)?,
            fragments: fragments()?,
            related_errors: true,
            slots: PODS.into(),
        });
        let placed: Vec<PodSlot> = (0..snapshot.pods.len() as u16).map(PodSlot).collect();
        for slot in placed.iter().copied() {
            shard.links.attached(slot, HostEnd { mac: veth_mac(slot), mtu: 1500 });
            shard.links.link_mut(slot).pod_mac = Some(pod_mac(slot));
        }
        let tables = Tables::new(snapshot, judge, &placed, PODS.into(), Timeouts::NITRO);
        Ok(Self { tables, shard, decided: Vec::with_capacity(BATCH) })
    }

    /// Enters `flows` established flows.
    pub(super) fn establish(&mut self, flows: u32, v6: bool, protocol: u8) -> Result<()> {
        let packet = |direction, tcp_flags| PacketFacts { direction, tcp_flags, bytes: 64 };
        let flag = |flag| if protocol == TCP { flag } else { 0 };
        let first = packet(Ingress, flag(SYN));
        let generation = self.tables.stamp;
        let opening = NewFlow {
            initiator: Ingress,
            rule: 0,
            generation,
            tracked: true,
            revoke_on_change: false,
            first,
        };
        for flow in 0..flows {
            let entered = self.shard.flows.insert(&ends(flow, v6, protocol).key(), &opening, NOW);
            let handle = entered.map_err(|refused| anyhow::anyhow!("flow {flow}: {refused:?}"))?;
            // The answer and two more packets each way: established TCP, or a UDP stream.
            for (direction, flags) in [(Egress, SYN | ACK), (Ingress, ACK), (Egress, ACK)] {
                self.shard.flows.on_packet(handle, &packet(direction, flag(flags)), NOW);
            }
        }
        Ok(())
    }

    /// Nanoseconds for each packet of a round: through the step, accounted as forwarded, and put back into its batch.
    pub(super) fn round(&mut self, batches: &mut [Batch<'f>]) -> f64 {
        let Self { tables, shard, decided } = self;
        let arena = Arena::default();
        nanoseconds_each(ROUND, || {
            for batch in batches {
                step(&arena, shard, tables, NOW, Frame::from, batch, decided);
                for (frame, outcome) in decided.drain(..) {
                    if let Outcome::Forward(exit) = outcome {
                        shard.counters.forwarded(exit, arena.len(&frame));
                    }
                    batch.push(frame);
                }
            }
        })
    }

    /// Fails if policy let any packet so far pass.
    pub(super) fn all_denied(&self) -> Result<()> {
        let totals = &self.shard.counters.totals;
        let denied =
            [DropReason::DeniedIngress, DropReason::DeniedEgress].map(|reason| totals.dropped.of(reason));
        ensure!(
            totals.rx == denied.iter().sum::<u64>(),
            "of {} packets only {denied:?} were denied in and out",
            totals.rx
        );
        Ok(())
    }

    /// Fails if any packet so far was not forwarded.
    pub(super) fn all_forwarded(&self) -> Result<()> {
        let totals = &self.shard.counters.totals;
        let dropped = totals.dropped.by_label();
        ensure!(
            totals.rx == totals.forwarded,
            "of {} packets some were not forwarded: {dropped:?}",
            totals.rx
        );
        Ok(())
    }
}

fn fragments<H, V: Copy>() -> Result<Fragments<H, V>> {
    Fragments::new(FragmentConfig::for_pods(PODS))
        .ok_or_else(|| anyhow::anyhow!("the memory for fragments was refused"))
}
