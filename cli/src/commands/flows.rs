//! `espalier flows`: the flows the switch tracks; list, count and drop them.
//!
//! A listing is read page by page, so that a million flows stall neither the switch nor this program.

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use comfy_table::Cell;
use espalier_api::flows::{Flow, FlowCount, FlowFilter, FlowListing, FlowPage, FlowState, FlowsDropped};
use espalier_api::{Direction, InputError};

use crate::args::{CountArgs, DropArgs, FlowsArgs, FlowsCommand, Format, Global, ListArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, column, duration, grouped, if_it_fits, wide};

/// Flows shown in a table unless told otherwise: it is aligned as a whole.
const TABLE_LIMIT: usize = 1000;
/// Table entries a page looks at.
const PAGE: u32 = 4096;
/// Clears a terminal and goes to its corner (ECMA-48 ED and CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn run(global: &Global, args: &FlowsArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut client = Client::connect(global)?;
    match &args.command {
        Some(FlowsCommand::Count(args)) => count(&mut client, args, out),
        Some(FlowsCommand::Drop(args)) => drop_flows(&mut client, args, out),
        None => list(&mut client, &args.list, out),
    }
}

fn list(client: &mut Client, args: &ListArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    loop {
        show(client, args, out)?;
        let Some(seconds) = args.watch else { return Ok(ExitCode::SUCCESS) };
        out.flush()?;
        thread::sleep(Duration::from_secs(seconds));
        out.text(if io::stdout().is_terminal() { CLEAR } else { "\n" })?;
    }
}

fn show(client: &mut Client, args: &ListArgs, out: &mut Output) -> Result<(), CliError> {
    let filter = args.filter.filter();
    let format = args.format.format();
    if matches!(format, Format::Json | Format::Yaml) {
        return print_data(client, filter, args.limit.unwrap_or(usize::MAX), format, out);
    }
    let limit = args.limit.unwrap_or(TABLE_LIMIT);
    let mut rows = Vec::new();
    let mut more = false;
    each_flow(client, filter, |flow| {
        more = rows.len() == limit;
        if !more {
            rows.push(row(flow, out));
        }
        Ok(!more)
    })?;
    let shown = rows.len();
    let columns = [
        column("POD"),
        wide("LOCAL"),
        column("PORT"),
        column(""),
        column("REMOTE"),
        column("STATE"),
        wide("IN"),
        wide("OUT"),
        wide("IDLE"),
        if_it_fits("RULE"),
    ];
    out.list(columns, rows, format)?;
    if more {
        out.line(format!(
            "only the first {shown}: narrow the filter, raise --limit, or use `espalier flows count`"
        ))?;
    }
    Ok(())
}

/// One array with a flow a line, or one sequence of YAML, written as the pages come.
fn print_data(
    client: &mut Client,
    filter: FlowFilter,
    limit: usize,
    format: Format,
    out: &mut Output,
) -> Result<(), CliError> {
    let mut begun = false;
    first_flows(client, filter, limit, |flow| {
        let first = !std::mem::replace(&mut begun, true);
        if format == Format::Yaml {
            return out.yaml(&[flow]);
        }
        out.text(if first { "[\n" } else { ",\n" })?;
        out.json_bare(flow)
    })?;
    out.text(match (begun, format) {
        (false, _) => "[]\n",
        (true, Format::Yaml) => "",
        (true, _) => "\n]\n",
    })
}

/// Hands over the first `limit` flows that fit.
fn first_flows(
    client: &mut Client,
    filter: FlowFilter,
    limit: usize,
    mut each: impl FnMut(&Flow) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut left = limit;
    each_flow(client, filter, |flow| {
        if left == 0 {
            return Ok(false);
        }
        left -= 1;
        each(flow).map(|()| true)
    })
}

/// Hands over every flow that fits until `each` says no.
fn each_flow(
    client: &mut Client,
    filter: FlowFilter,
    mut each: impl FnMut(&Flow) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let mut listing = FlowListing { filter, cursor: 0, limit: PAGE };
    loop {
        let page: FlowPage = client.post("/v1/flows", &listing)?;
        for flow in &page.flows {
            if !each(flow)? {
                return Ok(());
            }
        }
        match page.next {
            Some(next) => listing.cursor = next,
            None => return Ok(()),
        }
    }
}

fn row(flow: &Flow, out: &Output) -> [Cell; 10] {
    let state = match flow.state {
        FlowState::Established | FlowState::UdpStream => out.cell(flow.state, Tone::Good),
        FlowState::Reset => out.cell(flow.state, Tone::Bad),
        _ => Cell::new(flow.state),
    };
    let port = match flow.local_port {
        Some(port) => format!("{}/{port}", flow.protocol),
        None => flow.protocol.to_string(),
    };
    let id = flow.icmp_id.map(|id| format!(" id {id}")).unwrap_or_default();
    [
        Cell::new(&flow.pod),
        Cell::new(flow.local),
        Cell::new(port),
        Cell::new(if flow.direction == Direction::Egress { "->" } else { "<-" }),
        Cell::new(end(flow.remote, flow.remote_port) + &id),
        state,
        Cell::new(grouped(flow.ingress_packets)),
        Cell::new(grouped(flow.egress_packets)),
        Cell::new(duration(flow.idle_ms / 1000)),
        Cell::new(flow.rule.as_ref().map_or("-", |rule| rule.as_str())),
    ]
}

/// `10.0.1.10:5432`, `[2001:db8::1]:5432`, or the address alone.
fn end(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}

fn count(client: &mut Client, args: &CountArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let count: FlowCount = client.post("/v1/flows/count", &args.filter.filter())?;
    if out.data(args.format.format(), &count)? {
        return Ok(ExitCode::SUCCESS);
    }
    out.line(format!("{} flows", grouped(count.flows)))?;
    let states = count.by_state.iter().map(|(state, count)| (state.to_string(), *count));
    let pods = count.by_pod.iter().map(|(pod, count)| (pod.to_string(), *count));
    for (heading, counts) in [("state", states.collect::<Vec<_>>()), ("pod", pods.collect())] {
        if !counts.is_empty() {
            out.line(format!("\nby {heading}"))?;
            out.fields(counts.into_iter().map(|(name, count)| (name, Cell::new(grouped(count)))))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn drop_flows(client: &mut Client, args: &DropArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let filter = args.filter.filter();
    if !args.yes && !confirmed(client, &filter)? {
        return Ok(ExitCode::FAILURE);
    }
    let dropped: FlowsDropped = client.post("/v1/flows/drop", &filter)?;
    if args.json {
        out.json(&dropped)?;
    } else {
        out.line(format!("{} flows dropped", grouped(dropped.dropped)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal; where nobody can answer, `--yes` must have.
fn confirmed(client: &mut Client, filter: &FlowFilter) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        let message = "missing: standard input is no terminal to ask on, and dropped flows are judged anew";
        return Err(InputError::new("--yes", message).into());
    }
    let count: FlowCount = client.post("/v1/flows/count", filter)?;
    let mut asking = io::stderr().lock();
    write!(asking, "Drop {} flows of {} pods? [y/N] ", grouped(count.flows), count.by_pod.len())?;
    asking.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_written_as_it_can_be_pasted() {
        assert_eq!(end("10.0.0.1".parse().unwrap(), Some(80)), "10.0.0.1:80");
        assert_eq!(end("2001:db8::1".parse().unwrap(), Some(80)), "[2001:db8::1]:80");
        assert_eq!(end("2001:db8::1".parse().unwrap(), None), "2001:db8::1");
    }
}
