//! `espalier pods [POD]`: the pods of this node, their branch ENIs and their packets.

use std::collections::BTreeMap;
use std::process::ExitCode;

use comfy_table::Cell;
use espalier_api::control::{PodStatus, PortState};
use espalier_api::{InputError, PodName};

use crate::args::{Global, PodsArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, grouped, listed};

pub(super) fn run(global: &Global, args: &PodsArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let pods: Vec<PodStatus> = Client::connect(global)?.get("/v1/pods")?;
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

fn find<'a>(pods: &'a [PodStatus], name: &PodName) -> Result<&'a PodStatus, InputError> {
    pods.iter().find(|pod| pod.name == *name).ok_or_else(|| {
        InputError::new("pod", format!("{name} is not on this node: `espalier pods` lists those that are"))
    })
}

fn list(pods: &[PodStatus], out: &mut Output) -> Result<(), CliError> {
    let headings = ["POD", "STATE", "VLAN", "ADDRESSES", "RX", "TX", "DROPPED", "SECURITY GROUPS"];
    let rows: Vec<[Cell; 8]> = pods.iter().map(|pod| row(pod, out)).collect();
    out.table(headings, rows)
}

fn row(pod: &PodStatus, out: &Output) -> [Cell; 8] {
    let dropped = |reasons: &BTreeMap<String, u64>| reasons.values().sum::<u64>();
    let counters = &pod.counters;
    [
        Cell::new(&pod.name),
        state(&pod.state, out),
        Cell::new(pod.vlan),
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
