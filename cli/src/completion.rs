//! Completions for shells: commands and flags from the command line's own words, names from the running switch.
//!
//! A shell that has read [`script`] starts this program with `ESPALIER_COMPLETE` set for every completion; [`answer`] then
//! prints the candidates and ends the process. A switch that does not answer at once has no names.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use espalier_api::control::{GroupStatus, PodStatus};
use espalier_api::{InputError, control};
use serde::de::DeserializeOwned;

use crate::args::{Cli, Global, Shell};
use crate::client::Client;
use crate::error::CliError;

/// Set by the scripts, to the shell's name.
const VARIABLE: &str = "ESPALIER_COMPLETE";
/// The program's name, as people type it.
const PROGRAM: &str = "espalier";
/// Somebody waits for the tab key.
const SECONDS: u64 = 1;

/// Prints candidates and ends the process if a shell asks for them.
pub(crate) fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).bin(PROGRAM).complete();
}

/// What a shell has to read once.
pub(crate) fn script(shell: Shell) -> Result<String, CliError> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let completer =
        shells.completer(name).ok_or_else(|| InputError::new("shell", format!("{name} is not supported")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The command line with what completes its names.
fn command() -> Command {
    with_names(Cli::command())
}

fn with_names(command: Command) -> Command {
    command.mut_args(name_of).mut_subcommands(with_names)
}

/// An argument that stands for a pod or a group is completed by those of the switch.
fn name_of(arg: Arg) -> Arg {
    match arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str()) {
        Some("NAMESPACE/NAME") => arg.add(ArgValueCompleter::new(pods)),
        Some("GROUP-ID") => arg.add(ArgValueCompleter::new(groups)),
        _ => arg,
    }
}

fn pods(typed: &OsStr) -> Vec<CompletionCandidate> {
    let pods: Vec<PodStatus> = ask("/v1/pods");
    beginning(typed, pods.into_iter().map(|pod| pod.name.to_string()))
}

fn groups(typed: &OsStr) -> Vec<CompletionCandidate> {
    let groups: Vec<GroupStatus> = ask("/v1/groups");
    beginning(typed, groups.into_iter().map(|group| group.group_id.to_string()))
}

fn beginning(typed: &OsStr, names: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    names.filter(|name| name.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}

fn ask<T: DeserializeOwned>(path: &str) -> Vec<T> {
    let socket =
        std::env::var_os("ESPALIER_SOCKET").map_or_else(|| control::DEFAULT_SOCKET.into(), PathBuf::from);
    let global = Global { socket, agent_socket: PathBuf::new(), timeout: SECONDS };
    let asked = Client::connect(&global).and_then(|mut client| client.get(path));
    // A shell has no place for an error: no names.
    asked.unwrap_or_default()
}
