//! `espalier man`: the manual pages, made from the same words as `--help`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use espalier_api::InputError;
use jiff::Timestamp;

use crate::args::{Cli, ManArgs};
use crate::error::CliError;
use crate::output::Output;

pub(super) fn run(args: &ManArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    match &args.dir {
        None => out.text(&page(&root)?)?,
        Some(dir) => {
            let written = write(&root, dir)?;
            out.line(format!("{written} pages written into {}", dir.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The page of one command, dated today.
fn page(command: &Command) -> Result<String, CliError> {
    let man = Man::new(command.clone())
        .manual("Espalier")
        .source(format!("espalier {}", env!("CARGO_PKG_VERSION")))
        .date(Timestamp::now().strftime("%Y-%m-%d").to_string());
    let mut text = Vec::new();
    man.render(&mut text)?;
    // Line breaks around an empty line, which is one already: manual page checkers complain of them.
    Ok(String::from_utf8_lossy(&text).replace(".br\n\n.br\n", "\n"))
}

/// Writes the pages of a command and of all below it; returns how many.
fn write(command: &Command, dir: &Path) -> Result<usize, CliError> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = dir.join(format!("{name}.1"));
    let refuse = |error| InputError::new("--dir", format!("{}: {error}", path.display()));
    fs::write(&path, page(command)?).map_err(refuse)?;
    command.get_subcommands().try_fold(1, |written, below| Ok(written + write(below, dir)?))
}
