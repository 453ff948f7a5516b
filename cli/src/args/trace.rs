//! Arguments of `espalier trace`.

use std::net::IpAddr;

use clap::Args;
use espalier_api::trace::{DEFAULT_SOURCE_PORT, TcpFlags};
use espalier_api::{PodName, QueryProtocol};

use super::DirectionArg;

pub(crate) const HELP: &str = "Without --live a packet is made and taken through a copy of the running tables at the \
worker that owns the pod: what the flow table and the security groups say, and where the packet would go. Nothing leaves \
the node, nothing is counted. The exit code is the answer: 0 it would be sent on, 1 it would be dropped.
With --live the same is shown of real packets that fit a filter, until --count of them were shown, --duration has passed \
or Ctrl-C. The filter has tcpdump's words, and pod, ingress, egress, drop, forward, reason, rule and group.

Examples:
  espalier trace shop/web-0 --egress --protocol tcp --remote 10.0.2.20 --port 5432
  espalier trace shop/web-0 --dir ingress --proto udp --remote 10.0.9.9 --source-port 53 --port 40000
  espalier trace shop/web-0 --ingress --protocol icmp --remote 10.0.9.9 --icmp-type 8 --json
  espalier trace --live 'pod shop/web-0 and drop' -n 5
  espalier trace --live 'host 10.0.2.20 and port 5432' --json";

/// Arguments of `trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The pod
    #[arg(value_name = "NAMESPACE/NAME", required_unless_present = "live", conflicts_with = "live")]
    pub(crate) pod: Option<PodName>,
    /// Towards the pod or from it
    #[arg(long, visible_alias = "dir", value_enum, conflicts_with_all = ["live", "ingress", "egress"],
          required_unless_present_any = ["live", "ingress", "egress"])]
    pub(crate) direction: Option<DirectionArg>,
    /// Short for --direction ingress
    #[arg(long, conflicts_with_all = ["live", "egress"])]
    pub(crate) ingress: bool,
    /// Short for --direction egress
    #[arg(long, conflicts_with = "live")]
    pub(crate) egress: bool,
    /// tcp, udp, icmp, icmpv6 or an IP protocol number
    #[arg(long, visible_alias = "proto", required_unless_present = "live", conflicts_with = "live")]
    pub(crate) protocol: Option<QueryProtocol>,
    /// Address of the other end
    #[arg(long, value_name = "IP", required_unless_present = "live", conflicts_with = "live")]
    pub(crate) remote: Option<IpAddr>,
    /// Address of the pod's end [default: its first of the other end's family]
    #[arg(long, value_name = "IP", conflicts_with = "live")]
    pub(crate) local: Option<IpAddr>,
    /// Destination port (TCP, UDP)
    #[arg(long, conflicts_with = "live")]
    pub(crate) port: Option<u16>,
    #[arg(long, value_name = "PORT", conflicts_with = "live",
          help = format!("Source port (TCP, UDP) [default: {DEFAULT_SOURCE_PORT}]"))]
    pub(crate) source_port: Option<u16>,
    /// Flags of TCP, separated by commas [default: syn]
    #[arg(long, value_name = "FLAGS", conflicts_with = "live")]
    pub(crate) tcp_flags: Option<TcpFlags>,
    /// ICMP type
    #[arg(long, value_name = "TYPE", conflicts_with = "live")]
    pub(crate) icmp_type: Option<u8>,
    /// ICMP code [default: 0]
    #[arg(long, value_name = "CODE", conflicts_with = "live", requires = "icmp_type")]
    pub(crate) icmp_code: Option<u8>,
    /// Bytes of payload
    #[arg(long, value_name = "BYTES", conflicts_with = "live", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(0..=9000))]
    pub(crate) payload: u16,
    /// Show real packets that fit this filter; '' fits all
    #[arg(long, value_name = "FILTER", num_args = 1..)]
    pub(crate) live: Option<Vec<String>>,
    /// With --live: end after so many packets
    #[arg(long, short = 'n', value_name = "N", requires = "live", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// With --live: end after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "live", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) duration: Option<u64>,
    /// Print JSON; with --live one object a line
    #[arg(long)]
    pub(crate) json: bool,
}
