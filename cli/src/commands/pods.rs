//! `espalier pods`: the pods of this node, their branch ENIs and their packets; moving them between workers.

use std::collections::BTreeMap;
use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::control::{MovePod, Moved, PodStatus, PortState, Rebalance};
use espalier_api::{InputError, PodName};

use crate::args::{Global, MoveArgs, PodsArgs, PodsCommand, RebalanceArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, grouped, listed};

pub(super) fn run(global: &Global, args: &PodsArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut client = Client::connect(global)?;
    match &args.command {
        Some(PodsCommand::Move(args)) => return move_pod(&mut client, args, out),
        Some(PodsCommand::Rebalance(args)) => return rebalance(&mut client, args, out),
        None => {}
    }
    let pods: Vec<PodStatus> = client.get("/v1/pods")?;
    match &args.pod {
        None if args.json => out.json(&pods)?,
        None => list(&pods, out)?,
        Some(name) => {
            let pod = find(&pods, name)?;
            if args.json { out.json(pod)? } else { show(pod, out)? }
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

fn find<'a>(pods: &'a [PodStatus], name: &PodName) -> Result<&'a PodStatus, InputError> {
    pods.iter().find(|pod| pod.name == *name).ok_or_else(|| {
        InputError::new("pod", format!("{name} is not on this node: `espalier pods` lists those that are"))
    })
}

fn list(pods: &[PodStatus], out: &mut Output) -> Result<(), CliError> {
    let headings = ["POD", "STATE", "VLAN", "WORKER", "ADDRESSES", "RX", "TX", "DROPPED", "SECURITY GROUPS"];
    let rows: Vec<[Cell; 9]> = pods.iter().map(|pod| row(pod, out)).collect();
    out.table(headings, rows)
}

fn row(pod: &PodStatus, out: &Output) -> [Cell; 9] {
    let dropped = |reasons: &BTreeMap<String, u64>| reasons.values().sum::<u64>();
    let counters = &pod.counters;
    [
        Cell::new(&pod.name),
        state(&pod.state, out),
        Cell::new(pod.vlan),
        Cell::new(pod.worker),
        Cell::new(listed(&pod.addresses)),
        Cell::new(grouped(counters.rx)),
        Cell::new(grouped(counters.tx)),
        Cell::new(grouped(dropped(&counters.egress_dropped) + dropped(&counters.ingress_dropped))),
        Cell::new(listed(&pod.security_groups)),
    ]
}

fn state(state: &PortState, out: &Output) -> Cell {
    match state {
        PortState::Up => out.cell("up", Tone::Good),
        PortState::Down(reason) => out.cell(format!("down: {reason}"), Tone::Bad),
    }
}

fn show(pod: &PodStatus, out: &mut Output) -> Result<(), CliError> {
    let or_unknown = |value: Option<String>| Cell::new(value.unwrap_or_else(|| "not known yet".to_owned()));
    let xdp = pod.xdp.as_ref().map_or_else(|| "not attached".to_owned(), super::status::attachment);
    let counters = &pod.counters;
    let mut fields = vec![
        ("pod", Cell::new(&pod.name)),
        ("state", state(&pod.state, out)),
        ("branch ENI", Cell::new(format!("{}, VLAN {}, {}", pod.eni_id, pod.vlan, pod.mac))),
        ("addresses", Cell::new(listed(&pod.addresses))),
        ("security groups", Cell::new(listed(&pod.security_groups))),
        ("veth", Cell::new(format!("{}, XDP {xdp}", pod.veth.as_deref().unwrap_or("not found")))),
        ("gateway MAC", or_unknown(pod.gateway_mac.map(|mac| mac.to_string()))),
        ("pod MAC", or_unknown(pod.pod_mac.map(|mac| mac.to_string()))),
        ("worker", Cell::new(pod.worker)),
        ("from the pod", Cell::new(traffic(counters.rx, counters.rx_bytes))),
        ("to the pod", Cell::new(traffic(counters.tx, counters.tx_bytes))),
    ];
    for (direction, reasons) in [("egress", &counters.egress_dropped), ("ingress", &counters.ingress_dropped)]
    {
        let text = listed(reasons.iter().map(|(reason, count)| format!("{reason} {}", grouped(*count))));
        let name = if direction == "egress" { "egress dropped" } else { "ingress dropped" };
        fields.push((name, Cell::new(text)));
    }
    fields.push(("lost in the kernel", super::status::lost(&pod.kernel, out)));
    out.fields(fields.into_iter().map(|(name, value)| (name.to_owned(), value)))
}

fn traffic(packets: u64, bytes: u64) -> String {
    format!("{} packets, {} bytes", grouped(packets), grouped(bytes))
}
