//! Arguments of `espalier replay`, which are those of `espalier-switch replay`.

use std::path::PathBuf;

use clap::Args;
use espalier_api::PodName;

pub(super) const HELP: &str =
    "The packets go through the switch's own code, offline, with the file's times, against the \
snapshot. A flow whose first packet is not in the capture is judged as if it began there; it is counted, not compared.
Exit codes: 0 every verdict is the recorded one (or none was recorded), 1 some differ, 2 bad input.

Examples:
  espalier replay web.pcapng --snapshot node.yaml --pod shop/web-0
  espalier replay web.pcapng --snapshot changed.yaml --pod shop/web-0 --json | jq .differing";

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A pcapng file of `espalier capture`, or a capture of the pod's interface by another program
    pub(crate) file: PathBuf,
    /// The snapshot to judge by
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: PathBuf,
    /// The pod whose packets are replayed
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) pod: PodName,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
