//! The command line of `espalier`: every flag, its default and an example, as clap derives them.
//!
//! Parsed once by `main`; ids, addresses and protocols are checked here, so commands see valid values only.

mod capture;
mod flows;
mod format;
mod lab;
mod replay;
mod rules;
mod shadow;
mod shell;
mod top;
mod trace;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use espalier_api::{Direction, GroupId, PodName, QueryProtocol};

pub(crate) use capture::CaptureArgs;
pub(crate) use flows::{CountArgs, DropArgs, FlowsArgs, FlowsCommand, ListArgs};
pub(crate) use format::{Format, FormatArgs};
pub(crate) use lab::{ExecArgs, LabArgs, LabCommand, MakeArgs, RunArgs};
pub(crate) use replay::ReplayArgs;
pub(crate) use rules::{DiffArgs, LintArgs, RulesArgs, RulesCommand, ShowArgs, UnusedArgs};
pub(crate) use shadow::{ShadowArgs, ShadowCommand};
pub(crate) use shell::{CompletionsArgs, ManArgs, Shell};
pub(crate) use top::TopArgs;
pub(crate) use trace::TraceArgs;

/// Operate the Espalier switch: pods on branch ENIs, filtered by security groups.
#[derive(Debug, Parser)]
#[command(name = "espalier", version, max_term_width = 100, after_help = TOP)]
pub(crate) struct Cli {
    /// Which switch.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const TOP: &str = "Exit codes: 0 done, 1 the answer is no, 2 bad usage or input, 3 cannot reach the switch.

Examples:
  espalier status
  espalier apply node.yaml
  espalier explain shop/web-0 --egress --protocol tcp --remote 10.0.2.20 --port 5432";

/// Heading of the flags that every command has.
const CONNECTION: &str = "Connection";

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Control socket of the switch
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "PATH", env = "ESPALIER_SOCKET",
          default_value = espalier_api::control::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Socket of the node agent, asked by `status` and `pods` for what the switch does not know
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "PATH", env = "ESPALIER_AGENT_SOCKET",
          default_value = espalier_api::agent::DEFAULT_SOCKET)]
    pub(crate) agent_socket: PathBuf,
    /// Give up when the switch has not answered for this long
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send a snapshot to the switch and wait until every worker enforces it
    #[command(after_help = "Examples:
  espalier apply node.yaml
  espalier apply node.json --json
  generate-snapshot | espalier apply -")]
    Apply(ApplyArgs),
    /// Show the switch: generation, trunk, workers, and whether packets and frames balance
    #[command(after_help = "Examples:
  espalier status
  espalier status -o wide
  espalier status --json | jq .counters")]
    Status(FormatArgs),
    /// List the pods of this node, show one with its counters, or move pods between the switch's workers
    #[command(after_help = "Examples:
  espalier pods
  espalier pods -o wide
  espalier pods shop/web-0
  espalier pods move shop/web-0 --worker 1
  espalier pods rebalance
  espalier pods --json | jq '.[] | select(.state.state != \"up\")'")]
    Pods(PodsArgs),
    /// List the security groups in force, or show one with its rules
    #[command(after_help = "Examples:
  espalier groups
  espalier groups -o yaml
  espalier groups sg-0123456789abcdef0
  espalier groups --snapshot node.yaml")]
    Groups(GroupsArgs),
    /// List the rules in force for a pod with what they let pass, find unused ones, compare two snapshots, or look for
    /// mistakes
    #[command(after_help = rules::HELP)]
    Rules(RulesArgs),
    /// Tell whether a packet would pass, and which rule decides
    #[command(after_help = EXPLAIN)]
    Explain(ExplainArgs),
    /// Note packets with what the switch decided about them, in a file for tshark or a line each
    #[command(after_help = capture::HELP)]
    Capture(CaptureArgs),
    /// Take a capture's packets through a snapshot's rules, offline, and tell what would be decided otherwise
    #[command(after_help = replay::HELP)]
    Replay(ReplayArgs),
    /// Take a packet through the running tables and show every stage, or show real packets so
    #[command(after_help = trace::HELP)]
    Trace(TraceArgs),
    /// Judge another snapshot beside the enforced one on live traffic, and list what it would change
    #[command(after_help = shadow::HELP)]
    Shadow(ShadowArgs),
    /// List the flows the switch tracks, count them, or drop some
    #[command(after_help = flows::HELP)]
    Flows(FlowsArgs),
    /// Print the switch's metrics as text of OpenMetrics
    #[command(after_help = "Examples:
  espalier metrics
  espalier metrics | grep ^espalier_rule_packets_total")]
    Metrics,
    /// Watch pods, drops, rules and workers by their rates
    #[command(after_help = top::HELP)]
    Top(TopArgs),
    /// Make a VPC on this machine and watch the switch filter real traffic in it (needs root)
    #[command(after_help = lab::HELP)]
    Lab(LabArgs),
    /// Print what makes a shell complete commands, flags, and names of pods and groups
    #[command(after_help = shell::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write the pages of every command into a folder
    #[command(after_help = shell::MAN)]
    Man(ManArgs),
}

const EXPLAIN: &str = "Without --snapshot the running switch is asked. Of one question the exit code is the answer: \
0 allow, 1 deny; a deny names the rule that came nearest to an allow.
With --queries every line is a JSON object with pod, direction, protocol, remote and, where they apply, port, \
icmp_type and icmp_code; the answers come in the same order, and the exit code is 0 once all are answered. A bad \
line is refused before anything is answered.

Examples:
  espalier explain shop/web-0 --egress --protocol tcp --remote 10.0.2.20 --port 5432
  espalier explain shop/web-0 --ingress --protocol icmp --remote 10.0.2.20 --icmp-type 8
  espalier explain --snapshot node.yaml --queries queries.ndjson --json";

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Snapshot file, YAML or JSON; - reads standard input
    pub(crate) file: PathBuf,
    /// Apply it although an agent feeds the switch: it holds until the agent's next change
    #[arg(long)]
    pub(crate) force: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `pods`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PodsArgs {
    /// Something else than listing.
    #[command(subcommand)]
    pub(crate) command: Option<PodsCommand>,
    /// Show this pod only
    #[arg(value_name = "NAMESPACE/NAME")]
    pub(crate) pod: Option<PodName>,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// What can be done with pods besides listing them.
#[derive(Debug, Subcommand)]
pub(crate) enum PodsCommand {
    /// Move a pod to another worker while its traffic goes on
    #[command(after_help = "Nothing is lost: its packets wait for some milliseconds, its flows go along.

Examples:
  espalier pods move shop/web-0 --worker 1")]
    Move(MoveArgs),
    /// Move the pods that even out the workers' packets
    #[command(after_help = "Examples:
  espalier pods rebalance
  espalier pods rebalance --interval 10 --json")]
    Rebalance(RebalanceArgs),
}

/// Arguments of `pods move`.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The pod
    #[arg(value_name = "NAMESPACE/NAME")]
    pub(crate) pod: PodName,
    /// Its new home: a number of `espalier status`
    #[arg(long, value_name = "N")]
    pub(crate) worker: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `pods rebalance`.
#[derive(Debug, Args)]
pub(crate) struct RebalanceArgs {
    /// How long packets are counted first
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) interval: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `groups`.
#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    /// Show this group only
    #[arg(value_name = "GROUP-ID")]
    pub(crate) group: Option<GroupId>,
    /// Read this snapshot file instead of asking the running switch
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The pod
    #[arg(value_name = "NAMESPACE/NAME", required_unless_present = "queries", conflicts_with = "queries")]
    pub(crate) pod: Option<PodName>,
    /// The packet.
    #[command(flatten)]
    pub(crate) packet: PacketArgs,
    /// Answer many questions, one JSON object a line; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: Option<PathBuf>,
    /// With --queries: look for the nearest rule of every deny as well, as a single question always does
    #[arg(long, requires = "queries")]
    pub(crate) nearest: bool,
    /// Ask this snapshot file instead of the running switch
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The packet `explain` is asked about.
#[derive(Debug, Args)]
pub(crate) struct PacketArgs {
    /// Towards the pod or from it
    #[arg(long, value_enum, required_unless_present_any = ["queries", "ingress", "egress"],
          conflicts_with_all = ["queries", "ingress", "egress"])]
    pub(crate) direction: Option<DirectionArg>,
    /// Short for --direction ingress
    #[arg(long, conflicts_with_all = ["queries", "egress"])]
    pub(crate) ingress: bool,
    /// Short for --direction egress
    #[arg(long, conflicts_with_all = ["queries"])]
    pub(crate) egress: bool,
    /// tcp, udp, icmp, icmpv6 or an IP protocol number
    #[arg(long, required_unless_present = "queries", conflicts_with = "queries")]
    pub(crate) protocol: Option<QueryProtocol>,
    /// Address of the other end
    #[arg(long, value_name = "IP", required_unless_present = "queries", conflicts_with = "queries")]
    pub(crate) remote: Option<IpAddr>,
    /// Destination port (TCP, UDP)
    #[arg(long, conflicts_with = "queries")]
    pub(crate) port: Option<u16>,
    /// ICMP type
    #[arg(long, value_name = "TYPE", conflicts_with = "queries")]
    pub(crate) icmp_type: Option<u8>,
    /// ICMP code [default: 0]
    #[arg(long, value_name = "CODE", conflicts_with = "queries", requires = "icmp_type")]
    pub(crate) icmp_code: Option<u8>,
}

impl PacketArgs {
    /// The direction, whichever way it was given; clap lets one of the three through.
    pub(crate) fn direction(&self) -> Direction {
        match self.direction {
            Some(DirectionArg::Ingress) => Direction::Ingress,
            None if self.ingress => Direction::Ingress,
            _ => Direction::Egress,
        }
    }
}

/// `ingress` or `egress`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DirectionArg {
    /// Towards the pod
    Ingress,
    /// From the pod
    Egress,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_direction_can_be_given_both_ways() {
        let direction = |flags: &[&str]| {
            let line = ["espalier", "explain", "a/b", "--protocol", "tcp", "--remote", "10.0.0.1"];
            let cli = Cli::try_parse_from(line.iter().chain(flags)).ok()?;
            let Command::Explain(args) = cli.command else { panic!("explain was asked") };
            Some(args.packet.direction())
        };
        assert_eq!(direction(&["--ingress"]), Some(Direction::Ingress));
        assert_eq!(direction(&["--egress"]), Some(Direction::Egress));
        assert_eq!(direction(&["--direction", "ingress"]), Some(Direction::Ingress));
        assert_eq!(direction(&["--direction", "egress"]), Some(Direction::Egress));
        assert_eq!(direction(&["--direction", "egress", "--ingress"]), None);
        assert_eq!(direction(&["--ingress", "--egress"]), None);
        assert_eq!(direction(&[]), None);
    }
}
