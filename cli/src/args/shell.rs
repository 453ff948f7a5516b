//! The command lines of `espalier completions` and `espalier man`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const COMPLETIONS: &str =
    "Names of pods and groups are asked of the running switch; where none answers there are none.

Examples:
  source <(espalier completions bash)
  espalier completions bash > /etc/bash_completion.d/espalier
  espalier completions zsh > \"${fpath[1]}/_espalier\"
  espalier completions fish > ~/.config/fish/completions/espalier.fish";

pub(super) const MAN: &str = "Examples:
  espalier man | man -l -
  espalier man --dir /usr/local/share/man/man1";

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Shells that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write one page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
