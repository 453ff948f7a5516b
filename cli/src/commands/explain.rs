//! `espalier explain`: would this packet pass, and which rule decides; one question or a file of them.
//!
//! Answered by the running switch, or offline from a snapshot file by the same engine.

use std::collections::HashSet;
use std::process::ExitCode;

use espalier_api::control::PodStatus;
use espalier_api::{Answer, InputError, PodName, Query, Verdict};

use crate::args::{ExplainArgs, Global};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone};
use crate::queries;

/// Questions sent to the switch in one request.
const CHUNK: usize = 10_000;

pub(super) fn run(global: &Global, args: &ExplainArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut source = Source::connect(global)?;
    if let Some(path) = &args.queries {
        let queries = queries::read(path, |pod| source.pods.contains(pod))?;
        for chunk in queries.chunks(CHUNK) {
            for answer in source.answers(chunk)? {
                print(&answer, args.json, out)?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let query = question(args)?;
    queries::check(&query, |pod| source.pods.contains(pod))?;
    let mut denied = false;
    for answer in source.answers(&[query])? {
        denied |= answer.verdict == Verdict::Deny;
        print(&answer, args.json, out)?;
    }
    Ok(ExitCode::from(u8::from(denied)))
}

/// Who answers.
struct Source {
    client: Client,
    pods: HashSet<PodName>,
}

impl Source {
    fn connect(global: &Global) -> Result<Self, CliError> {
        let mut client = Client::connect(global)?;
        let pods: Vec<PodStatus> = client.get("/v1/pods")?;
        Ok(Self { client, pods: pods.into_iter().map(|pod| pod.name).collect() })
    }

    /// One answer a question, in the same order.
    fn answers(&mut self, queries: &[Query]) -> Result<Vec<Answer>, CliError> {
        Ok(self.client.post("/v1/explain", queries)?)
    }
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

fn print(answer: &Answer, json: bool, out: &mut Output) -> Result<(), CliError> {
    if json {
        return out.json_line(answer);
    }
    let verdict = match answer.verdict {
        Verdict::Allow => out.paint("allow", Tone::Good),
        Verdict::Deny => out.paint("deny ", Tone::Bad),
    };
    let tracked = match (answer.verdict, answer.tracked) {
        (Verdict::Deny, _) => "",
        (Verdict::Allow, true) => " (tracked)",
        (Verdict::Allow, false) => " (untracked)",
    };
    out.line(format!("{verdict}  {}{tracked}", answer.reason))
}
