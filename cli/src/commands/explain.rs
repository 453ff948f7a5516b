//! `espalier explain`: would this packet pass, and which rule decides; one question or a file of them.
//!
//! Answered by the running switch, or offline from a snapshot file by the same engine.

use std::process::ExitCode;

use espalier_api::{Explained, InputError, Query, Verdict};

use crate::args::{ExplainArgs, Global};
use crate::error::CliError;
use crate::output::{Output, Tone};
use crate::queries;
use crate::source::Source;

pub(super) fn run(global: &Global, args: &ExplainArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut source = Source::open(global, args.snapshot.as_deref())?;
    if let Some(path) = &args.queries {
        let queries = queries::read(path, |pod| source.knows(pod))?;
        source.answer(&queries, args.nearest, |explained| print(explained, args.json, out))?;
        return Ok(ExitCode::SUCCESS);
    }
    let query = question(args)?;
    queries::check(&query, |pod| source.knows(pod)).map_err(|error| source.suggest(error, &query.pod))?;
    let mut denied = false;
    source.answer(&[query], true, |explained| {
        denied |= explained.answer.verdict == Verdict::Deny;
        print(explained, args.json, out)
    })?;
    Ok(ExitCode::from(u8::from(denied)))
}

/// The one question the flags ask; clap has seen to it that none is missing.
fn question(args: &ExplainArgs) -> Result<Query, InputError> {
    let packet = &args.packet;
    let missing = |flag: &str| InputError::new(flag, "missing");
    Ok(Query {
        pod: args.pod.clone().ok_or_else(|| missing("pod"))?,
        direction: packet.direction(),
        protocol: packet.protocol.ok_or_else(|| missing("protocol"))?,
        remote: packet.remote.ok_or_else(|| missing("remote"))?,
        port: packet.port,
        icmp_type: packet.icmp_type,
        icmp_code: packet.icmp_code,
    })
}

fn print(explained: &Explained, json: bool, out: &mut Output) -> Result<(), CliError> {
    if json {
        return out.json_line(explained);
    }
    let verdict = match explained.answer.verdict {
        Verdict::Allow => out.paint("allow", Tone::Good),
        Verdict::Deny => out.paint("deny ", Tone::Bad),
    };
    out.line(format!("{verdict}  {}", explained.answer.reason))?;
    match &explained.nearest {
        Some(nearest) => out.line(format!("       {}", nearest.reason)),
        None => Ok(()),
    }
}
