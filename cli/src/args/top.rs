//! The command line of `espalier top`.

use std::time::Duration;

use clap::Args;

use super::FormatArgs;

pub(super) const HELP: &str = "Keys are shown at the bottom; ? lists them all. Without a terminal use --once.

Examples:
  espalier top
  espalier top --interval 0.5
  espalier top --once
  espalier top --json | jq '.drops[] | select(.perSecond > 0)'
  kubectl exec -it -n kube-system ds/espalier -c switch -- espalier top";

/// Bounds of the interval: shorter ones would mostly measure the questions.
const SHORTEST: f64 = 0.2;
const LONGEST: f64 = 3600.0;

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Seconds between two looks, 0.2 to 3600
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Print the rates of one interval and end; --json and -o yaml do so too
    #[arg(long)]
    pub(crate) once: bool,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (SHORTEST..=LONGEST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("must be {SHORTEST} to {LONGEST} seconds"))
    }
}
