//! The command line: `pktgen send | sink | reflect`, with what each option means.
//!
//! Parsed once in main; the commands read it as it is. Values are checked here as far as they stand alone.

mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use espalier_xsk::XdpMode;

use crate::endpoint::Endpoint;
use crate::rate::Rate;

pub use traffic::TrafficArgs;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The heading of what is done with frames that arrive.
const COUNTING: &str = "Counting";

const SEND_EXAMPLES: &str = "\
Examples:
  One million 64-byte UDP frames from namespace red to namespace blue, counted on arrival:
    pktgen send red:eth0 --receive blue:eth0 --src 10.0.0.1 --dst 10.0.0.2 --count 1000000
  The Internet mix over 1000 flows at 200 000 frames a second for 10 s, as JSON:
    pktgen send eth0 --dst-mac 02:00:00:00:00:02 --src 10.0.0.0/24 --dst 10.1.0.1 \\
        --size imix --flows 1000 --rate 200kpps --duration 10s --json
  Tagged IPv4 and IPv6, seven parts UDP, two TCP, one ICMP, reproducible:
    pktgen send trunk0 --receive pod:eth0 --vlan 101 --src 10.0.0.1,fd00::1 --dst 10.0.0.2,fd00::2 \\
        --protocol udp:7,tcp:2,icmp:1 --size 128 --seed 7
  The highest rate without loss (RFC 2544), round trip through a reflector at the other end:
    pktgen send eth0 --receive self --dst-mac 02:00:00:00:00:02 --src 10.0.0.1 --dst 10.0.0.2 \\
        --search
  A capture, at its own pace, three times:
    pktgen send eth0 --pcap capture.pcap --repeat 3

Exit codes:
  0  done
  1  more was lost, came twice or out of order than --max-loss and --strict allow, or the search
     found no rate
  2  bad usage or input, or it could not run

Latencies are right where sender and receiver share a clock: on one machine, or when frames are reflected.";

const SINK_EXAMPLES: &str = "\
Examples:
  Count what arrives until Ctrl-C:
    pktgen sink eth0
  Wait for a million frames for at most a minute, fail unless all came once and in order:
    pktgen sink blue:eth0 --count 1000000 --duration 60s --strict --json

Exit codes:
  0  done
  1  fewer than --count came, or --strict and frames were lost, came twice or out of order
  2  bad usage or input, or it could not run

Latencies are right where sender and receiver share a clock: on one machine, or when frames are reflected.";

const REFLECT_EXAMPLES: &str = "\
Examples:
  Send every frame back where it came from until Ctrl-C:
    pktgen reflect blue:eth0

Exit codes:
  0  done
  2  bad usage or input, or it could not run";

/// Load generator: sends, counts and reflects frames with sequence numbers and times in them.
#[derive(Debug, Clone, Parser)]
#[command(name = "pktgen", version, styles = STYLES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Send frames, and count them where they arrive
    #[command(after_help = SEND_EXAMPLES)]
    Send(Box<SendArgs>),
    /// Take in every frame of an interface and count loss, reordering, duplicates and latency
    #[command(after_help = SINK_EXAMPLES)]
    Sink(SinkArgs),
    /// Send every frame of an interface back to its sender
    #[command(after_help = REFLECT_EXAMPLES)]
    Reflect(ReflectArgs),
}

/// How frames are made and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Through an AF_XDP socket: any frame, back-pressure.
    AfXdp,
    /// Made by the kernel (live frames, Linux 5.18): the fastest, no back-pressure.
    Kernel,
}

/// `pktgen send`
#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    /// Where frames leave: INTERFACE, or NETNS:INTERFACE in another network namespace
    pub interface: Endpoint,
    /// Count frames where they arrive: at another INTERFACE or NETNS:INTERFACE, or at `self` when they are reflected
    #[arg(long, value_name = "ENDPOINT", value_parser = receive_at)]
    pub receive: Option<ReceiveAt>,
    /// How frames are made and sent
    #[arg(long, value_enum, default_value = "af-xdp")]
    pub engine: EngineKind,
    /// How fast: packets (200kpps) or bits of frames (1.5Gbps) a second, or max [default: max]
    #[arg(long)]
    pub rate: Option<Rate>,
    /// Frames to send
    #[arg(long, conflicts_with = "pcap")]
    pub count: Option<u64>,
    /// Time to send for (10 s when there is no --count)
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Queue of the interface to send on (AF_XDP); a veth delivers it to the same queue of its peer
    #[arg(long, default_value_t = 0)]
    pub queue: u32,
    /// Core to send on
    #[arg(long)]
    pub core: Option<usize>,
    /// What to send.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// The replay of a capture.
    #[command(flatten)]
    pub replay: ReplayArgs,
    /// The search for the no-loss rate.
    #[command(flatten)]
    pub search: SearchArgs,
    /// Percent of the frames that may be lost before the exit code is 1
    #[arg(help_heading = COUNTING, long, value_name = "PERCENT", requires = "receive", value_parser = percent)]
    pub max_loss: Option<f64>,
    /// Exit code 1 when a frame comes twice, damaged, or out of order within its flow
    #[arg(help_heading = COUNTING, long, requires = "receive")]
    pub strict: bool,
    /// How long to wait for frames under way after the last one was sent
    #[arg(help_heading = COUNTING, long, value_parser = duration, default_value = "1s")]
    pub settle: Duration,
    /// Core to receive on
    #[arg(help_heading = COUNTING, long)]
    pub receive_core: Option<usize>,
    /// What all commands share.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `pktgen send --pcap`
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Replay")]
pub struct ReplayArgs {
    /// Send the frames of this capture as they are, at their own pace unless --rate is given
    #[arg(long, value_name = "FILE", conflicts_with = "search")]
    pub pcap: Option<PathBuf>,
    /// Send the capture this often
    #[arg(long, default_value_t = 1, requires = "pcap")]
    pub repeat: u64,
}

/// `pktgen send --search`
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Search")]
pub struct SearchArgs {
    /// Find the highest rate without loss by halving (RFC 2544, section 26.1), --rate being the highest tried
    #[arg(long, requires = "receive")]
    pub search: bool,
    /// How long to send in each trial
    #[arg(long, value_parser = duration, default_value = "2s", requires = "search")]
    pub trial: Duration,
    /// Stop when the rate is known to this percentage
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "1", requires = "search")]
    pub precision: f64,
}

/// `pktgen sink`
#[derive(Debug, Clone, Args)]
pub struct SinkArgs {
    /// Where frames arrive: INTERFACE, or NETNS:INTERFACE in another network namespace
    pub interface: Endpoint,
    /// Stop when this many different frames have come
    #[arg(long)]
    pub count: Option<u64>,
    /// Stop after this time
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Exit code 1 when a frame is lost, comes twice, damaged, or out of order within its flow
    #[arg(long)]
    pub strict: bool,
    /// Core to run on
    #[arg(long)]
    pub core: Option<usize>,
    /// What all commands share.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `pktgen reflect`
#[derive(Debug, Clone, Args)]
pub struct ReflectArgs {
    /// The interface: INTERFACE, or NETNS:INTERFACE in another network namespace
    pub interface: Endpoint,
    /// Stop after this many frames
    #[arg(long)]
    pub count: Option<u64>,
    /// Stop after this time
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Core to run on
    #[arg(long)]
    pub core: Option<usize>,
    /// What all commands share.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What all commands share.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "General")]
pub struct CommonArgs {
    /// Print the result as one JSON object, and no progress
    #[arg(long)]
    pub json: bool,
    /// How to attach the program that takes frames in: auto, native or generic
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub xdp: XdpMode,
    /// Never sleep while waiting for frames: better latencies for a whole core
    #[arg(long)]
    pub busy_poll: bool,
}

/// Where a sender's frames are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiveAt {
    /// On the interface they left from.
    Itself,
    /// On another one.
    Other(Endpoint),
}

fn receive_at(text: &str) -> Result<ReceiveAt, String> {
    if text == "self" { Ok(ReceiveAt::Itself) } else { text.parse().map(ReceiveAt::Other) }
}

/// `10s`, `500ms`, `2m`, or seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let usage = || format!("{text:?} is no duration: use 10s, 500ms or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| usage())?;
    let seconds = match unit {
        "s" | "" => number,
        "ms" => number / 1e3,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(usage()),
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero()).ok_or_else(usage)
}

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.trim_end_matches('%').parse().map_err(|_| format!("{text:?} is no percentage"))?;
    if (0.0..=100.0).contains(&value) { Ok(value) } else { Err(format!("{text:?}: use 0 to 100")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_and_percentages_are_read() {
        for (text, milliseconds) in [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1.5", 1500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "s", "0s", "-1s", "5 days"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!((percent("0.5"), percent("100%")), (Ok(0.5), Ok(100.0)));
        assert!(percent("101").is_err());
    }

    #[test]
    fn options_that_need_others_say_so() {
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace());
        assert!(parse("pktgen send eth0 --search").is_err());
        assert!(parse("pktgen send eth0 --receive self --search --src 10.0.0.1 --dst 10.0.0.2").is_ok());
        assert!(parse("pktgen send eth0 --strict").is_err());
        assert!(parse("pktgen send eth0 --repeat 2").is_err());
    }
}
