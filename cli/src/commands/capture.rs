//! `espalier capture`: packets with what the switch decided about them, as a pcapng file or a line each.
//!
//! The file is opened before the switch is asked for anything, and holds whole blocks only, however the capture ends.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use espalier_api::control::PodStatus;
use espalier_api::filter::{Fate, Filter, FilterError, Headers};
use espalier_api::watch::{WatchEvent, WatchRequest, WatchedPacket};
use espalier_api::{InputError, PodName};

use super::trace::clock;
use crate::args::{CaptureArgs, Global};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, Tone, fail, grouped};

mod pcapng;
mod sink;

use pcapng::Blocks;
use sink::{Failed, Sink};

/// How often somebody at a terminal is told how far it has come.
const TELL_AGAIN: Duration = Duration::from_millis(500);

pub(super) fn run(global: &Global, args: &CaptureArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let request = WatchRequest { filter: filter(args)?, snaplen: args.snaplen, stages: false };
    let sink = args.write.as_deref().map(Sink::open).transpose()?;
    let mut client = Client::connect(global)?;
    match sink {
        None => lines(client, &request, args, out),
        Some(sink) => {
            let pods: Vec<PodStatus> = client.get("/v1/pods")?;
            let pods = pods.into_iter().filter_map(|pod| Some((pod.veth?, pod.name.to_string())));
            let begun = Blocks::begin(args.snaplen, pods.collect());
            let blocks = begun.map_err(|error| CliError::Output(io::Error::other(error)))?;
            file(client, &request, args, File { blocks, sink, progress: Progress::default() })
        }
    }
}

/// The filter of the words: those behind the pod's name are parsed alone first, so that a mistake is pointed at in them.
fn filter(args: &CaptureArgs) -> Result<Filter, InputError> {
    let pointed = |error: FilterError| InputError::new("filter", error.pointed());
    let first = args.words.first();
    let pod = first.filter(|word| word.contains('/')).and_then(|word| word.parse::<PodName>().ok());
    let words = args.words.get(usize::from(pod.is_some())..).unwrap_or_default().join(" ");
    let own: Filter = words.parse().map_err(pointed)?;
    let mut parts = Vec::new();
    parts.extend(pod.map(|pod| format!("pod {pod}")));
    if !own.is_empty() {
        parts.push(if parts.is_empty() && !args.drops { own.to_string() } else { format!("({own})") });
    }
    parts.extend(args.drops.then(|| "drop".to_owned()));
    parts.join(" and ").parse().map_err(pointed)
}

/// A line for each packet.
fn lines(
    client: Client,
    request: &WatchRequest,
    args: &CaptureArgs,
    out: &mut Output,
) -> Result<ExitCode, CliError> {
    let mut progress = Progress::default();
    let watched = client.watch(request, args.duration, |event| {
        match event {
            WatchEvent::Watching { .. } => progress.begun = true,
            WatchEvent::Lost(lost) => progress.lost = lost,
            WatchEvent::Packet(packet) => {
                progress.packets += 1;
                if args.json {
                    out.json_line(&packet)?;
                } else {
                    let text = line(&packet, out);
                    out.line(text)?;
                }
                out.flush()?;
            }
        }
        Ok(args.count.is_none_or(|count| progress.packets < count))
    });
    if progress.begun {
        progress.tell("");
    }
    watched.map(|()| ExitCode::SUCCESS)
}

/// A pcapng file being written.
struct File {
    blocks: Blocks,
    sink: Sink,
    progress: Progress,
}

fn file(
    client: Client,
    request: &WatchRequest,
    args: &CaptureArgs,
    mut file: File,
) -> Result<ExitCode, CliError> {
    let mut ended = Ok(true);
    let watched = client.watch(request, args.duration, |event| {
        ended = file.add(event, args);
        Ok(matches!(ended, Ok(true)))
    });
    if !file.progress.begun {
        // The switch refused: what the file held before stays.
        return watched.map(|()| ExitCode::SUCCESS);
    }
    let ended = ended.and_then(|_| file.end());
    file.progress.tell(&format!(", {} bytes", grouped(file.sink.written())));
    match ended {
        Ok(()) => watched.map(|()| ExitCode::SUCCESS),
        Err(Failed(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(error.into()),
        Err(Failed(error)) => {
            fail(&format!(
                "{}: {error}: the capture ends here; what was written is whole, the switch goes on",
                file.sink.name()
            ));
            Ok(ExitCode::FAILURE)
        }
    }
}

impl File {
    /// Takes an event in; says whether more are wanted.
    fn add(&mut self, event: WatchEvent, args: &CaptureArgs) -> Result<bool, Failed> {
        match event {
            // A reader of a pipe sees the section at once.
            WatchEvent::Watching { .. } => {
                self.progress.begun = true;
                self.sink.write(&self.blocks.take())?;
            }
            WatchEvent::Lost(lost) => {
                self.blocks.lost(lost);
                self.progress.lost = lost;
            }
            WatchEvent::Packet(packet) => {
                self.blocks.packet(&packet)?;
                if self.sink.written() + self.blocks.len() as u64 + ROOM_FOR_END > args.max_size {
                    // It would be too large: without this packet.
                    self.blocks.take();
                    self.progress.full = true;
                    return Ok(false);
                }
                self.sink.write(&self.blocks.take())?;
                self.progress.packets += 1;
                self.progress.tell_sometimes(self.sink.written());
            }
        }
        Ok(args.count.is_none_or(|count| self.progress.packets < count))
    }

    fn end(&mut self) -> Result<(), Failed> {
        self.blocks.end()?;
        self.sink.write(&self.blocks.take())?;
        self.sink.flush()
    }
}

/// Bytes kept for the statistics at the end.
const ROOM_FOR_END: u64 = 2048;

/// How far it has come.
#[derive(Default)]
struct Progress {
    /// Whether the workers look.
    begun: bool,
    packets: u64,
    lost: u64,
    full: bool,
    told: Option<Instant>,
}

impl Progress {
    /// At a terminal, on one line that is written over.
    fn tell_sometimes(&mut self, bytes: u64) {
        let due = self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN);
        if due && io::stderr().is_terminal() {
            self.told = Some(Instant::now());
            // Where standard error is closed there is nobody to tell.
            let _ = write!(io::stderr(), "\r{}, {} bytes", self.text(), grouped(bytes));
        }
    }

    /// At the end.
    fn tell(&self, more: &str) {
        let begin = if self.told.is_some() { "\r" } else { "" };
        let full = if self.full { "; the file is as large as --max-size allows" } else { "" };
        // As above.
        let _ = writeln!(io::stderr(), "{begin}{}{more}{full}", self.text());
    }

    fn text(&self) -> String {
        format!("{} packets captured, {} lost", grouped(self.packets), grouped(self.lost))
    }
}

/// When, where, who to whom, and what became of it.
fn line(packet: &WatchedPacket, out: &Output) -> String {
    let way = if packet.outbound { ">" } else { "<" };
    let fate = packet.fate.label();
    let verdict = match packet.fate {
        Fate::Forward => out.paint(fate, Tone::Good),
        Fate::Consumed => fate.to_owned(),
        Fate::Drop => {
            format!("{} {}", out.paint(fate, Tone::Bad), packet.reason.as_deref().unwrap_or_default())
        }
    };
    let rules = packet.legs.iter().filter_map(|leg| leg.rule.as_ref());
    let rules: String = rules.map(|rule| format!(" {rule}")).collect();
    let (time, ends) = (clock(packet.unix_ns), Headers::of(&packet.data));
    format!("{time} {} {way} {ends}, {} bytes: {verdict}{rules}", packet.interface, packet.len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn composed(words: &[&str]) -> Result<String, String> {
        let line = ["espalier", "capture"].into_iter().chain(words.iter().copied());
        let crate::args::Command::Capture(args) = crate::args::Cli::parse_from(line).command else {
            panic!("capture was asked for")
        };
        filter(&args).map(|filter| filter.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn pod_words_and_drops_are_one_filter() {
        let composed_of = |words: &[&str]| composed(words).unwrap();
        assert_eq!(composed_of(&[]), "");
        assert_eq!(composed_of(&["--drops"]), "drop");
        assert_eq!(composed_of(&["tcp", "port", "80", "or", "443"]), "tcp port 80 or 443");
        assert_eq!(
            composed_of(&["a/b", "port 80 or 443", "--drops"]),
            "pod a/b and (port 80 or 443) and drop"
        );
    }

    #[test]
    fn a_mistake_is_pointed_at_in_the_words_given() {
        let error = composed(&["a/b", "tcp", "prot", "80"]).unwrap_err();
        assert!(error.ends_with("\n  tcp prot 80\n      ^"), "{error}");
    }
}
