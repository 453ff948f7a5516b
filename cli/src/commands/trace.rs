//! `espalier trace`: what would become of a packet, stage by stage, and with `--live` what becomes of real ones.

use std::process::ExitCode;
use std::time::Duration;

use comfy_table::Cell;
use espalier_api::filter::{Fate, Filter, FilterError};
use espalier_api::trace::{Stage, Trace, TraceRequest};
use espalier_api::watch::{WatchEvent, WatchRequest, WatchedPacket};
use espalier_api::{Direction, InputError, Verdict};

use crate::args::{DirectionArg, Global, TraceArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, grouped, warn};

pub(super) fn run(global: &Global, args: &TraceArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    match &args.live {
        Some(words) => live(global, args, &words.join(" "), out),
        None => inject(global, args, out),
    }
}

fn inject(global: &Global, args: &TraceArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let trace: Trace = Client::connect(global)?.post("/v1/trace", &request(args)?)?;
    if args.json {
        out.json(&trace)?;
    } else {
        out.line(&trace.packet)?;
        out.line("")?;
        stages(&trace.stages, out)?;
        let port = trace.port.as_deref().unwrap_or("the switch");
        verdict(trace.reason.as_deref(), &format!("would leave by {port}"), "would be dropped", out)?;
    }
    Ok(ExitCode::from(u8::from(trace.verdict == Verdict::Deny)))
}

/// The packet the flags ask about; clap has seen to it that none is missing.
fn request(args: &TraceArgs) -> Result<TraceRequest, InputError> {
    let missing = |flag: &str| InputError::new(flag, "missing");
    Ok(TraceRequest {
        pod: args.pod.clone().ok_or_else(|| missing("pod"))?,
        direction: match args.direction {
            Some(DirectionArg::Ingress) => Direction::Ingress,
            None if args.ingress => Direction::Ingress,
            _ => Direction::Egress,
        },
        protocol: args.protocol.ok_or_else(|| missing("protocol"))?,
        remote: args.remote.ok_or_else(|| missing("remote"))?,
        local: args.local,
        port: args.port,
        source_port: args.source_port,
        tcp_flags: args.tcp_flags,
        icmp_type: args.icmp_type,
        icmp_code: args.icmp_code,
        payload: args.payload,
    })
}

fn live(global: &Global, args: &TraceArgs, filter: &str, out: &mut Output) -> Result<ExitCode, CliError> {
    let filter: Filter =
        filter.parse().map_err(|error: FilterError| InputError::new("filter", error.pointed()))?;
    let request = WatchRequest { filter, snaplen: SNAPLEN, stages: true };
    let client = Client::connect(global)?;
    let duration = args.duration.map(Duration::from_secs);
    let (mut shown, mut lost) = (0, 0);
    client.watch(&request, duration, |event| {
        match event {
            WatchEvent::Watching { .. } => {}
            WatchEvent::Lost(packets) => lost = packets,
            WatchEvent::Packet(packet) => {
                print(&packet, args.json, out)?;
                out.flush()?;
                shown += 1;
            }
        }
        Ok(args.count.is_none_or(|count| shown < count))
    })?;
    if lost > 0 {
        warn(&format!("{} more packets fitted; they came faster than they could be shown", grouped(lost)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Enough for the headers that stages speak of.
const SNAPLEN: u32 = 256;

fn print(packet: &WatchedPacket, json: bool, out: &mut Output) -> Result<(), CliError> {
    if json {
        return out.json_line(packet);
    }
    let parsed = packet.stages.iter().find(|stage| stage.stage == espalier_api::trace::StageName::Parse);
    let line = parsed.map_or("", |stage| stage.decided.as_str());
    out.line(format!("{} {} {line}", clock(packet.unix_ns), packet.interface))?;
    stages(&packet.stages, out)?;
    let (sent, dropped) = match packet.fate {
        Fate::Consumed => ("used by the switch itself".to_owned(), "dropped"),
        _ => (format!("sent to {}", packet.to.as_deref().unwrap_or("-")), "dropped"),
    };
    verdict(packet.reason.as_deref(), &sent, dropped, out)?;
    out.line("")
}

/// The time of day, UTC, as tcpdump shows it.
pub(super) fn clock(unix_ns: u64) -> String {
    let (seconds, micros) = (unix_ns / 1_000_000_000 % 86_400, unix_ns / 1000 % 1_000_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// One stage a paragraph: whose policy, what it read, what it decided.
fn stages(stages: &[Stage], out: &mut Output) -> Result<(), CliError> {
    let paragraph = |stage: &Stage| {
        let whose = match (&stage.pod, stage.direction) {
            (Some(pod), Some(direction)) => Some(format!("{direction} of {pod}, worker {}", stage.worker)),
            _ => None,
        };
        let read = Some(&stage.read).filter(|read| !read.is_empty()).cloned();
        let lines: Vec<_> = whose.into_iter().chain(read).chain([format!("-> {}", stage.decided)]).collect();
        let text = lines.join("\n");
        let cell = if stage.passed { Cell::new(text) } else { out.cell(text, Tone::Bad) };
        (stage.stage.label().to_owned(), cell)
    };
    let paragraphs: Vec<_> = stages.iter().map(paragraph).collect();
    out.fields(paragraphs)
}

fn verdict(reason: Option<&str>, sent: &str, dropped: &str, out: &mut Output) -> Result<(), CliError> {
    match reason {
        None => {
            let word = out.paint("allow", Tone::Good);
            out.line(format!("{word}  {sent}"))
        }
        Some(reason) => {
            let word = out.paint("drop", Tone::Bad);
            out.line(format!("{word}  {dropped}: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_of_the_day() {
        assert_eq!(clock(86_400_000_000_000 + 3_661_000_001_000), "01:01:01.000001");
    }
}
