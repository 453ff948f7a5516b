//! The command line of `espalier rules`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use espalier_api::PodName;

use super::FormatArgs;

pub(super) const HELP: &str = "Examples:
  espalier rules shop/web-0
  espalier rules shop/web-0 -o wide
  espalier rules shop/web-0 --snapshot node.yaml --json
  espalier rules unused --since 24h
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
    /// List the rules in force that let nothing pass for some time
    #[command(
        after_help = "Counts begin with the switch: of one that has run for less than the time asked for, nobody \
can say more. Such rules, and those that came later, are marked.

Examples:
  espalier rules unused
  espalier rules unused --since 7d --json
  espalier rules unused --since 30d --exit-code"
    )]
    Unused(UnusedArgs),
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

/// Arguments of `rules unused`.
#[derive(Debug, Args)]
pub(crate) struct UnusedArgs {
    /// How long a rule must have let nothing pass: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = seconds)]
    pub(crate) since: u64,
    /// Exit with 1 if there are any
    #[arg(long)]
    pub(crate) exit_code: bool,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Seconds in `90s`, `30m`, `24h` or `7d`.
fn seconds(text: &str) -> Result<u64, String> {
    let bad = || "expected a number and s, m, h or d, such as 30m or 24h".to_owned();
    let at = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(at);
    let each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    number.parse::<u32>().map(|number| u64::from(number) * each).map_err(|_| bad())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(["90s", "30m", "24h", "7d"].map(seconds), [Ok(90), Ok(1800), Ok(86_400), Ok(604_800)]);
        assert!(["", "24", "h", "1.5h", "-1h", "24 h", "1w"].iter().all(|text| seconds(text).is_err()));
    }
}
