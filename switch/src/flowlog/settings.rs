//! The settings of flow logs: `--flow-log` and what begins with it.
//!
//! A part of the switch's `Config`; the names and values are those of EC2's `CreateFlowLogs` where it has them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::field::Format;

/// Where flow logs go, and what is in them.
#[derive(Debug, Clone, Args)]
pub struct FlowLogSettings {
    /// Write VPC flow log records to this file, `-` for standard output [default: none]
    #[arg(long = "flow-log", value_name = "FILE|-")]
    pub file: Option<PathBuf>,

    /// The fields of a record: `default` (version 2), `json` (all, one object a line), or a list as EC2 has it
    /// (`'${interface-id} ${srcaddr} ${espalier-rule}'`)
    #[arg(long = "flow-log-format", value_name = "default|json|FIELDS", default_value = "default")]
    pub format: Format,

    /// Seconds that a record sums up: 60 or 600 as in EC2, or fewer
    #[arg(long = "flow-log-interval", value_name = "SECONDS", default_value_t = 60, value_parser = interval)]
    pub interval: u32,

    /// Which traffic is logged
    #[arg(long = "flow-log-traffic", value_enum, value_name = "WHICH", default_value_t = Traffic::All)]
    pub traffic: Traffic,

    /// Records held in memory at most, once for the present interval and once on the way to the file; what finds no room
    /// is counted, and said with a SKIPDATA record
    #[arg(long = "flow-log-records", value_name = "N", default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub records: u32,

    /// Size at which the file is put aside as FILE.1, in MiB; 0 for never
    #[arg(long = "flow-log-max-size", value_name = "MIB", default_value_t = 100)]
    pub max_size_mib: u32,

    /// Age at which the file is put aside, in seconds; 0 for never
    #[arg(long = "flow-log-max-age", value_name = "SECONDS", default_value_t = 0)]
    pub max_age: u32,

    /// Files that are kept beside the one that is written
    #[arg(long = "flow-log-keep", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=999))]
    pub keep: u16,

    /// What records say for `account-id`
    #[arg(long = "flow-log-account-id", value_name = "ID", value_parser = word)]
    pub account_id: Option<String>,

    /// What records say for `instance-id`
    #[arg(long = "flow-log-instance-id", value_name = "ID", value_parser = word)]
    pub instance_id: Option<String>,

    /// What records say for `region`
    #[arg(long = "flow-log-region", value_name = "REGION", value_parser = word)]
    pub region: Option<String>,

    /// What records say for `az-id`
    #[arg(long = "flow-log-az-id", value_name = "ID", value_parser = word)]
    pub az_id: Option<String>,
}

/// Which traffic is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Traffic {
    /// All that security groups judge.
    All,
    /// What they let pass.
    Accept,
    /// What they do not.
    Reject,
}

fn interval(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(seconds) if (1..=60).contains(&seconds) || seconds == 600 => Ok(seconds),
        _ => Err("expected 60 or 600, or fewer than 60".into()),
    }
}

/// A value that cannot be taken for two fields.
fn word(text: &str) -> Result<String, String> {
    match text.chars().all(|c| c.is_ascii_graphic()) && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => Err("expected printable ASCII characters without spaces".into()),
    }
}

impl FlowLogSettings {
    /// The size at which a file is put aside.
    pub(super) fn max_bytes(&self) -> u64 {
        u64::from(self.max_size_mib) << 20
    }
}
