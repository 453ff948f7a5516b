//! The command line of `espalier rules`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use espalier_api::PodName;

use super::FormatArgs;

pub(super) const HELP: &str = "Examples:
  espalier rules shop/web-0
  espalier rules shop/web-0 -o wide
  espalier rules shop/web-0 --snapshot node.yaml --json
  espalier rules diff old.yaml new.yaml
  espalier rules lint node.yaml";

/// Arguments of `rules`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct RulesArgs {
    /// Something else than listing.
    #[command(subcommand)]
    pub(crate) command: Option<RulesCommand>,
    /// The listing.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// What can be done with rules besides listing them.
#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Say what opens and what closes between two snapshot files, exactly
    #[command(after_help = "Examples:
  espalier rules diff old.yaml new.yaml
  espalier rules diff old.yaml new.yaml --exit-code && espalier apply new.yaml")]
    Diff(DiffArgs),
    /// Look for rules without effect, ports open to the world, and dead references
    #[command(after_help = "Examples:
  espalier rules lint node.yaml
  espalier rules lint node.yaml --json --exit-code")]
    Lint(LintArgs),
}

/// Arguments of the listing.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The pod
    #[arg(value_name = "NAMESPACE/NAME", required = true)]
    pub(crate) pod: Option<PodName>,
    /// Read this snapshot file instead of asking the running switch
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of `rules diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Snapshot file, YAML or JSON
    pub(crate) old: PathBuf,
    /// Snapshot file, YAML or JSON
    pub(crate) new: PathBuf,
    /// Exit with 1 if anything opens or closes
    #[arg(long)]
    pub(crate) exit_code: bool,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Arguments of `rules lint`.
#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// Snapshot file, YAML or JSON; - reads standard input
    pub(crate) file: PathBuf,
    /// Exit with 1 if anything is found
    #[arg(long)]
    pub(crate) exit_code: bool,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}
