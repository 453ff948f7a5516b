//! How a list is shown: `-o table|wide|json|yaml`, or `--json` for short.
//!
//! Flattened into every command that shows a list; commands ask [`FormatArgs::format`] and hand it to `Output`.

use clap::{Args, ValueEnum};

/// How an answer is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns that fit into 80 where names are not long
    #[default]
    Table,
    /// The table with every column
    Wide,
    /// JSON, for programs
    Json,
    /// YAML
    Yaml,
}

/// Flags of every command that shows a list.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// How to print it
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    /// Short for --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl FormatArgs {
    /// The format, whichever way it was given.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}
