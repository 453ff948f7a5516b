//! Settings of a long-running program: flags, environment, and a file that `--config` names, in that order of weight.
//!
//! Used by `espalier-switch` and `espalier-agent`. The file is a YAML map named as the flags without the dashes; each
//! of its values is parsed as the flag is, and a refusal names the file, the field, the value and the fix.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Command, Parser};

use crate::InputError;

/// The flag that names the file.
const CONFIG: &str = "config";

/// The settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line, or the call for help.
    #[error(transparent)]
    Args(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] InputError),
}

/// Where metrics are served over TCP, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:9470, or none".to_owned()),
        }
    }
}

/// Reads the command line, the environment, and the file named by the flag `--config` (a `PathBuf`).
pub fn read<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, SettingsError> {
    let args: Vec<OsString> = args.into_iter().collect();
    // The file may have what the command line lacks.
    let lenient = C::command().mut_args(|arg| arg.required(false));
    let given = lenient.clone().try_get_matches_from(&args)?;
    let Some(path) = given.get_one::<PathBuf>(CONFIG) else { return Ok(C::try_parse_from(&args)?) };
    let program = args.first().cloned().unwrap_or_default();
    let settings = file_args(&lenient, path)?;
    for (field, setting) in &settings {
        let alone = lenient.clone().try_get_matches_from([&program, setting]);
        alone.map_err(|error| in_file(path, field, &error))?;
    }
    let all = std::iter::once(program).chain(settings.into_iter().map(|(_, arg)| arg));
    Ok(C::try_parse_from(all.chain(args.into_iter().skip(1)))?)
}

/// Starts the log that the setting `log` asks for: on stderr, coloured on a terminal unless `NO_COLOR` is set.
pub fn start_log(filter: &str) -> Result<(), InputError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| InputError::new("log", format!("{filter:?}: {error}")))?;
    let colours =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    Ok(())
}

/// The settings of a file as flags, with their names; without those that the environment sets.
fn file_args(command: &Command, path: &Path) -> Result<Vec<(String, OsString)>, InputError> {
    let refuse =
        |field: &str, message: String| InputError::new(field, message).in_file(path.display().to_string());
    let text =
        std::fs::read_to_string(path).map_err(|error| refuse("", format!("cannot be read: {error}")))?;
    let settings: serde_json::Map<String, serde_json::Value> = serde_saphyr::from_str(&text)
        .map_err(|error| refuse("", format!("is not a YAML map of settings: {error}")))?;
    let mut args = Vec::new();
    for (name, value) in settings {
        let known =
            command.get_arguments().find(|arg| long_names(arg).any(|long| long == name) && name != CONFIG);
        let Some(arg) = known else {
            let message = format!("is not a setting: `{} --help` lists them", command.get_name());
            return Err(refuse(&name, message));
        };
        let flag = match value {
            serde_json::Value::Bool(false) => continue,
            serde_json::Value::Bool(true) => format!("--{name}"),
            serde_json::Value::String(text) => format!("--{name}={text}"),
            serde_json::Value::Number(number) => format!("--{name}={number}"),
            _ => return Err(refuse(&name, "must be a string, a number or a truth value".into())),
        };
        if arg.get_env().is_none_or(|variable| std::env::var_os(variable).is_none()) {
            args.push((name, flag.into()));
        }
    }
    Ok(args)
}

/// A flag's name and its other names.
fn long_names(arg: &clap::Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default())
}

/// clap's message without its heading and hints.
fn in_file(path: &Path, field: &str, error: &clap::Error) -> InputError {
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    InputError::new(field, message).in_file(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Settings {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long)]
        needed: u8,
        #[arg(long, alias = "further", default_value_t = 7)]
        other: u8,
        #[arg(long)]
        flag: bool,
        #[arg(long, env = "PATH", default_value = "x")]
        path: String,
    }

    fn read_with(file: &str, args: &[&str]) -> Result<Settings, SettingsError> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let start = ["program", "--config", path.path().to_str().unwrap()];
        read(start.iter().chain(args).map(OsString::from))
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let settings =
            read_with("needed: 1\nfurther: 2\nflag: true\npath: from-file\n", &["--other", "3"]).unwrap();
        assert_eq!((settings.needed, settings.other, settings.flag), (1, 3, true));
        assert_eq!(settings.path, std::env::var("PATH").unwrap());
        assert!(settings.config.is_some());
        assert_eq!(read_with("needed: 1\n", &["--path", "flag"]).unwrap().path, "flag");
    }

    #[test]
    fn a_bad_file_is_refused_by_field_and_a_missing_setting_by_name() {
        for (text, field, wanted) in [
            ("needed: 300\n", "needed", "300"),
            ("neded: 1\n", "neded", "not a setting"),
            ("needed: [1]\n", "needed", "must be a string"),
            ("config: x\n", "config", "not a setting"),
            ("- 1\n", "", "YAML map"),
        ] {
            match read_with(text, &[]) {
                Err(SettingsError::File(error)) => {
                    assert_eq!(error.field, field, "{error}");
                    assert!(error.message.contains(wanted), "{error}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        let error = read_with("other: 1\n", &[]).unwrap_err().to_string();
        assert!(error.contains("--needed"), "{error}");
    }
}
