//! The command line of `espalier flows`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use espalier_api::filter::{Filter, FilterError};
use espalier_api::flows::{FlowFilter, FlowState};
use espalier_api::{Address, PodName, QueryProtocol, RuleId};

use super::FormatArgs;

pub(super) const HELP: &str =
    "The arrow shows who sent the first packet. With -o wide IN and OUT are packets to and from the pod.

Examples:
  espalier flows --pod shop/web-0
  espalier flows -o wide
  espalier flows --remote 10.0.2.0/24 --state established --json
  espalier flows --filter 'dst port 80 or 443 and not net 10.0.0.0/8'
  espalier flows --watch 2
  espalier flows count --rule sgr-0123456789abcdef0
  espalier flows drop --pod shop/web-0 --port 5432";

/// Arguments of `flows`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct FlowsArgs {
    /// Something else than listing.
    #[command(subcommand)]
    pub(crate) command: Option<FlowsCommand>,
    /// The listing.
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

/// What can be done with flows besides listing them.
#[derive(Debug, Subcommand)]
pub(crate) enum FlowsCommand {
    /// Count the flows that fit, by state and by pod
    #[command(after_help = "Examples:
  espalier flows count
  espalier flows count --state syn-sent --json")]
    Count(CountArgs),
    /// End the flows that fit; their next packets are judged by the rules in force now
    #[command(after_help = "Exit codes: 0 dropped, 1 the question was answered with no.

Examples:
  espalier flows drop --rule sgr-0123456789abcdef0
  espalier flows drop --pod shop/web-0 --remote 10.0.2.20 --yes")]
    Drop(DropArgs),
}

/// Arguments of the listing.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Show at most this many [default: 1000 in the table, all in JSON]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Show them again every so often, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) watch: Option<u64>,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of `flows count`.
#[derive(Debug, Args)]
pub(crate) struct CountArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of `flows drop`.
#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Drop every flow of every pod
    #[arg(long, conflicts_with_all = ["pod", "remote", "port", "protocol", "state", "rule", "filter"],
          required_unless_present_any = ["pod", "remote", "port", "protocol", "state", "rule", "filter"])]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which flows are meant: those that fit every flag given.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Flows of this pod
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<PodName>,
    /// Flows whose far end is in this address or prefix
    #[arg(long, value_name = "IP|CIDR")]
    remote: Option<Address>,
    /// Flows with this port at either end
    #[arg(long)]
    port: Option<u16>,
    /// Flows of this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long)]
    protocol: Option<QueryProtocol>,
    /// Flows in this state
    #[arg(long, value_parser = states())]
    state: Option<FlowState>,
    /// Flows that this rule allowed
    #[arg(long, value_name = "RULE-ID")]
    rule: Option<RuleId>,
    /// Flows that fit an expression in the words of `espalier capture`
    #[arg(long, value_name = "EXPRESSION", value_parser = expression)]
    filter: Option<Filter>,
}

impl FilterArgs {
    /// The filter in the words of the control socket.
    pub(crate) fn filter(&self) -> FlowFilter {
        FlowFilter {
            pod: self.pod.clone(),
            remote: self.remote,
            port: self.port,
            protocol: self.protocol,
            state: self.state,
            rule: self.rule.clone(),
            filter: self.filter.clone().unwrap_or_default(),
        }
    }
}

/// A filter; a mistake in it is shown with a caret under the character.
pub(super) fn expression(text: &str) -> Result<Filter, String> {
    text.parse().map_err(|error: FilterError| error.pointed())
}

/// The states by name, listed in `--help`.
fn states() -> impl TypedValueParser<Value = FlowState> {
    PossibleValuesParser::new(FlowState::ALL.iter().map(|state| state.label()))
        .try_map(|label| label.parse::<FlowState>())
}
