//! `espalier metrics`: the switch's metrics, as a scraper gets them.

use std::process::ExitCode;

use crate::args::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::output::Output;

pub(super) fn run(global: &Global, out: &mut Output) -> Result<ExitCode, CliError> {
    out.text(&Client::connect(global)?.text("/v1/metrics")?)?;
    Ok(ExitCode::SUCCESS)
}
