//! Arguments of `espalier shadow`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::FormatArgs;

pub(crate) const HELP: &str = "A shadow is a snapshot that is judged beside the enforced one on live traffic, and enforced \
nowhere. Its report lists what it would decide otherwise. It costs packets nothing; it is forgotten when the switch ends.

Examples:
  espalier shadow set tomorrow.yaml
  espalier shadow report
  espalier shadow report --json | jq '.changes[] | select(.change == \"allow-to-deny\")'
  espalier shadow clear";

/// Arguments of `shadow`.
#[derive(Debug, Args)]
pub(crate) struct ShadowArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ShadowCommand,
}

/// What to do with the shadow.
#[derive(Debug, Subcommand)]
pub(crate) enum ShadowCommand {
    /// Judge this snapshot beside the enforced one from now on; a report of an earlier one is forgotten
    #[command(after_help = "Examples:
  espalier shadow set tomorrow.yaml
  generate-snapshot | espalier shadow set -")]
    Set {
        /// Snapshot file, YAML or JSON; - reads standard input
        file: PathBuf,
        /// How to print the answer.
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the traffic that the shadow would decide otherwise
    #[command(after_help = "Exit codes: 0 nothing so far, 1 something.

Examples:
  espalier shadow report
  espalier shadow report -o wide
  espalier shadow report --json | jq '.changes[] | select(.change == \"allow-to-deny\")'")]
    Report(FormatArgs),
    /// Judge nothing beside the enforced snapshot any more
    #[command(after_help = "Examples:
  espalier shadow clear")]
    Clear(FormatArgs),
}
