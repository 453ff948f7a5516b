//! `espalier pods`: the pods of this node, their branch ENIs and their packets; moving them between workers.

use std::collections::BTreeMap;
use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::agent::{AgentPod, AgentPodState, AgentStatus};
use espalier_api::control::{MovePod, Moved, PodCounters, PodStatus, PodTuning, PortState, Rebalance};
use espalier_api::{InputError, PodName};
use serde::Serialize;

use crate::args::{Format, Global, MoveArgs, PodsArgs, PodsCommand, RebalanceArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, column, first_few, grouped, listed, wide};
use crate::suggest;

pub(super) fn run(global: &Global, args: &PodsArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut client = Client::connect(global)?;
    match &args.command {
        Some(PodsCommand::Move(args)) => return move_pod(&mut client, args, out),
        Some(PodsCommand::Rebalance(args)) => return rebalance(&mut client, args, out),
        None => {}
    }
    let pods = join(client.get("/v1/pods")?, Client::agent(global));
    let format = args.format.format();
    match &args.pod {
        None if out.data(format, &pods)? => {}
        None => list(&pods, format, out)?,
        Some(name) => {
            let pod = find(&pods, name)?;
            if !out.data(format, pod)? {
                show(pod, out)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn move_pod(client: &mut Client, args: &MoveArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let path = format!("/v1/pods/{}/{}/move", args.pod.namespace(), args.pod.name());
    let moved: Moved = client.post(&path, &MovePod { worker: args.worker })?;
    if args.json {
        out.json(&moved)?
    } else {
        out.line(told(&moved))?
    }
    Ok(ExitCode::SUCCESS)
}

fn rebalance(client: &mut Client, args: &RebalanceArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let wanted = Rebalance { interval_ms: args.interval * 1000 };
    let moved: Vec<Moved> = client.post("/v1/pods/rebalance", &wanted)?;
    if args.json {
        out.json(&moved)?;
    } else if moved.is_empty() {
        out.line("nothing to move: no move makes the busiest worker less busy by much")?;
    } else {
        moved.iter().try_for_each(|moved| out.line(told(moved)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of one pod.
fn told(moved: &Moved) -> String {
    let Moved { pod, from, to, flows, flows_lost, held_ms } = moved;
    if from == to {
        return format!("{pod} is at home with worker {to} already");
    }
    let lost = match flows_lost {
        0 => String::new(),
        lost => format!(", {} found no room there", grouped(*lost)),
    };
    format!(
        "{pod} moved from worker {from} to {to}: {} flows went along{lost}, packets waited for {held_ms:.1} ms",
        grouped(*flows)
    )
}

/// A pod as the switch and the agent see it; one of them at least does.
#[derive(Serialize)]
#[serde(untagged)]
enum Joined {
    /// In the switch.
    Switch {
        #[serde(flatten)]
        pod: Box<PodStatus>,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent: Option<AgentPod>,
    },
    /// Known to the agent alone, which says why.
    Agent { name: PodName, agent: AgentPod },
}

impl Joined {
    fn name(&self) -> &PodName {
        match self {
            Self::Switch { pod, .. } => &pod.name,
            Self::Agent { name, .. } => name,
        }
    }
}

fn join(pods: Vec<PodStatus>, agent: Option<AgentStatus>) -> Vec<Joined> {
    let known = agent.into_iter().flat_map(|agent| agent.pods);
    let mut known: BTreeMap<PodName, AgentPod> = known.map(|pod| (pod.name.clone(), pod)).collect();
    let mut joined: Vec<Joined> = pods
        .into_iter()
        .map(|pod| Joined::Switch { agent: known.remove(&pod.name), pod: Box::new(pod) })
        .collect();
    joined.extend(known.into_iter().map(|(name, agent)| Joined::Agent { name, agent }));
    joined
}

fn find<'a>(pods: &'a [Joined], name: &PodName) -> Result<&'a Joined, InputError> {
    pods.iter().find(|pod| pod.name() == name).ok_or_else(|| {
        let message = format!("{name} is not on this node: `espalier pods` lists those that are");
        suggest::with_near(InputError::new("pod", message), name, pods.iter().map(Joined::name))
    })
}

fn list(pods: &[Joined], format: Format, out: &mut Output) -> Result<(), CliError> {
    let columns = [
        column("POD"),
        column("STATE"),
        column("ADDRESS"),
        column("RX"),
        column("TX"),
        column("DROPPED"),
        wide("ENI"),
        wide("VLAN"),
        wide("WORKER"),
        wide("VETH"),
        wide("SECURITY GROUPS"),
    ];
    let rows: Vec<[Cell; 11]> = pods
        .iter()
        .map(|pod| match pod {
            Joined::Switch { pod, agent } => row(pod, agent.as_ref(), format, out),
            Joined::Agent { agent, .. } => row_of_agent(agent, out),
        })
        .collect();
    out.list(columns, rows, format)
}

fn row(pod: &PodStatus, agent: Option<&AgentPod>, format: Format, out: &Output) -> [Cell; 11] {
    let dropped = |reasons: &BTreeMap<String, u64>| reasons.values().sum::<u64>();
    let counters = &pod.counters;
    let addresses = if format == Format::Wide { pod.addresses.len() } else { 1 };
    [
        Cell::new(&pod.name),
        match agent.filter(|agent| agent.state != AgentPodState::Sent && pod.state == PortState::Up) {
            Some(agent) => out.cell(format!("up, {}", because(agent)), Tone::Bad),
            None => state(pod, out),
        },
        Cell::new(first_few(&pod.addresses, addresses)),
        Cell::new(grouped(counters.rx)),
        Cell::new(grouped(counters.tx)),
        Cell::new(grouped(dropped(&counters.egress_dropped) + dropped(&counters.ingress_dropped))),
        Cell::new(&pod.eni_id),
        Cell::new(pod.vlan),
        Cell::new(pod.worker),
        Cell::new(listed(&pod.veth)),
        Cell::new(listed(&pod.security_groups)),
    ]
}

/// A pod that is not in the switch.
fn row_of_agent(pod: &AgentPod, out: &Output) -> [Cell; 11] {
    let nothing = || Cell::new("-");
    [
        Cell::new(&pod.name),
        out.cell(because(pod), Tone::Bad),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
        Cell::new(listed(&pod.eni_id)),
        Cell::new(listed(pod.vlan)),
        nothing(),
        nothing(),
        Cell::new(listed(&pod.security_groups)),
    ]
}

/// What the agent does with a pod, and why.
fn because(pod: &AgentPod) -> String {
    let state = match pod.state {
        AgentPodState::Sent => "sent",
        AgentPodState::Partial => "in part",
        AgentPodState::Held => "held",
        AgentPodState::Denied => "denied",
        AgentPodState::Kernel => "left to the kernel",
    };
    match &pod.reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    }
}

fn state(pod: &PodStatus, out: &Output) -> Cell {
    match &pod.state {
        PortState::Up if pod.audit => out.cell("up, audit mode", Tone::Bad),
        PortState::Up => out.cell("up", Tone::Good),
        PortState::Down(reason) => out.cell(format!("down: {reason}"), Tone::Bad),
    }
}

fn show(pod: &Joined, out: &mut Output) -> Result<(), CliError> {
    let (pod, agent) = match pod {
        Joined::Switch { pod, agent } => (pod, agent.as_ref()),
        Joined::Agent { agent, .. } => {
            let fields = [
                ("pod", Cell::new(&agent.name)),
                ("state", out.cell(because(agent), Tone::Bad)),
                ("branch ENI", Cell::new(listed(&agent.eni_id))),
                ("security groups", Cell::new(listed(&agent.security_groups))),
                ("policies", Cell::new(listed(&agent.policies))),
            ];
            return out.fields(fields.map(|(name, value)| (name.to_owned(), value)));
        }
    };
    let or_unknown = |value: Option<String>| Cell::new(value.unwrap_or_else(|| "not known yet".to_owned()));
    let xdp = pod.xdp.as_ref().map_or_else(|| "not attached".to_owned(), super::status::attachment);
    let counters = &pod.counters;
    let mut fields = vec![
        ("pod", Cell::new(&pod.name)),
        ("state", state(pod, out)),
        ("branch ENI", Cell::new(format!("{}, VLAN {}, {}", pod.eni_id, pod.vlan, pod.mac))),
        ("addresses", Cell::new(listed(&pod.addresses))),
        ("security groups", Cell::new(listed(&pod.security_groups))),
        ("policies", Cell::new(listed(agent.iter().flat_map(|agent| &agent.policies)))),
        ("agent", Cell::new(agent.map_or_else(|| "does not know it".to_owned(), because))),
        ("veth", Cell::new(format!("{}, XDP {xdp}", pod.veth.as_deref().unwrap_or("not found")))),
        ("tuning", Cell::new(tuning(&pod.tuning))),
        ("gateway MAC", or_unknown(pod.gateway_mac.map(|mac| mac.to_string()))),
        ("pod MAC", or_unknown(pod.pod_mac.map(|mac| mac.to_string()))),
        ("worker", Cell::new(pod.worker)),
        ("from the pod", Cell::new(traffic(counters.rx, counters.rx_bytes))),
        ("to the pod", Cell::new(traffic(counters.tx, counters.tx_bytes))),
    ];
    fields.push(("lost in the kernel", super::status::lost(&pod.kernel, out)));
    out.fields(fields.into_iter().map(|(name, value)| (name.to_owned(), value)))?;
    out.line("")?;
    verdicts(counters, out)
}

/// Direction, verdict, reason, count: every packet of the pod is in one row, and those that only audit mode let pass are in
/// another besides.
fn verdicts(counters: &PodCounters, out: &mut Output) -> Result<(), CliError> {
    let row = |direction: &str, verdict, reason: &str, packets, bytes: Option<u64>| {
        [
            Cell::new(direction),
            verdict,
            Cell::new(reason),
            Cell::new(grouped(packets)),
            Cell::new(listed(bytes.map(grouped))),
        ]
    };
    let good = |verdict: &str| out.cell(verdict, Tone::Good);
    let reasons = |direction: &'static str, verdict: &str, reasons: &BTreeMap<String, u64>| -> Vec<_> {
        let counts = reasons.iter();
        counts.map(|(why, count)| row(direction, out.cell(verdict, Tone::Bad), why, *count, None)).collect()
    };
    let drops = |direction, counts| reasons(direction, "dropped", counts);
    let mut rows = vec![row("egress", good("forwarded"), "-", counters.out, Some(counters.out_bytes))];
    rows.push(row("egress", Cell::new("answered"), "-", counters.consumed, None));
    rows.extend(drops("egress", &counters.egress_dropped));
    rows.extend(reasons("egress", "would deny", &counters.egress_would_deny));
    rows.push(row("ingress", good("forwarded"), "-", counters.tx, Some(counters.tx_bytes)));
    rows.extend(drops("ingress", &counters.ingress_dropped));
    rows.extend(reasons("ingress", "would deny", &counters.ingress_would_deny));
    out.table(["DIRECTION", "VERDICT", "REASON", "PACKETS", "BYTES"], rows)
}

/// What is changed at the pod's veth, or why it is not.
fn tuning(tuning: &PodTuning) -> String {
    match &tuning.untuned {
        Some(reason) => format!("none: {reason}"),
        None => listed(&tuning.applied),
    }
}

fn traffic(packets: u64, bytes: u64) -> String {
    format!("{} packets, {} bytes", grouped(packets), grouped(bytes))
}
