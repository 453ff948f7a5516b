//! The command line of `espalier lab`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use espalier_lab::{DEFAULT_NAME, DEFAULT_SCENARIO, LabName};

pub(super) const HELP: &str = "The switch is found through ESPALIER_SWITCH, beside this program, or on PATH.

Examples:
  espalier lab run
  espalier lab run stars --json
  espalier lab up rds && espalier lab exec shop/web-0 -- ping -c 3 10.0.2.20; espalier lab down";

/// Arguments of `lab`.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: LabCommand,
}

/// The commands of the lab.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Make a lab, run the scenario's probes, say what passed, and remove the lab
    #[command(after_help = "Exit codes: 0 every probe came out as expected, 1 one did not.

Examples:
  espalier lab run
  espalier lab run rules-tour --json
  espalier lab run ./mine.yaml --keep
  espalier lab run rds --mtu 9001 -- --pod-tuning no-tx-checksum")]
    Run(RunArgs),
    /// Make a lab and leave it up
    #[command(after_help = "Examples:
  espalier lab up
  espalier lab up dual-stack --name second")]
    Up(MakeArgs),
    /// Run a command inside a lab, where a pod, a host, the node or the VPC is
    #[command(after_help = "The exit code is the command's.

Examples:
  espalier lab exec shop/web-0 -- ping -c 3 10.0.2.20
  espalier lab exec node -- ip -brief link
  espalier lab exec vpc -- tcpdump -nei any")]
    Exec(ExecArgs),
    /// Remove a lab and everything it made, also what a killed run left behind
    #[command(after_help = "Examples:
  espalier lab down
  espalier lab down --name second")]
    Down(NameFlag),
    /// List the labs that are up and the scenarios that are shipped
    #[command(after_help = "Examples:
  espalier lab list
  espalier lab list --json")]
    List(super::FormatArgs),
}

/// How a lab is made.
#[derive(Debug, Args)]
pub(crate) struct MakeArgs {
    /// A shipped scenario, or a scenario file
    #[arg(default_value = DEFAULT_SCENARIO)]
    pub(crate) scenario: String,
    /// Which lab.
    #[command(flatten)]
    pub(crate) lab: NameFlag,
    /// MTU of the VPC [default: the scenario's, else 1500]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=9001))]
    pub(crate) mtu: Option<u32>,
    /// The switch program
    #[arg(long, value_name = "PATH")]
    pub(crate) switch: Option<PathBuf>,
    /// What the switch logs, into /run/espalier/lab/NAME/switch.log
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// Further flags for the switch
    #[arg(last = true, value_name = "SWITCH FLAGS")]
    pub(crate) switch_flags: Vec<OsString>,
}

/// Arguments of `lab run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// How.
    #[command(flatten)]
    pub(crate) make: MakeArgs,
    /// Leave the lab up afterwards
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `lab exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// A pod (namespace/name), a host, `node` or `vpc`
    #[arg(value_name = "NAME")]
    pub(crate) place: String,
    /// Which lab.
    #[command(flatten)]
    pub(crate) lab: NameFlag,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// `--name` alone.
#[derive(Debug, Args)]
pub(crate) struct NameFlag {
    /// Name of the lab, prefix of everything it makes
    #[arg(long, value_name = "LAB", default_value = DEFAULT_NAME)]
    pub(crate) name: LabName,
}
