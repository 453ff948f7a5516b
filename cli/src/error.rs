//! Why a command did not do what it was asked, and the exit code that says so.
//!
//! Every command returns [`CliError`]; `main` prints it as one `error:` line and exits with [`CliError::exit_code`].

use std::io;

use espalier_api::InputError;
use espalier_lab::LabError;
use thiserror::Error;

use crate::client::ClientError;

/// What a shell reports of a program ended by Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    /// A file, a query or an argument was refused.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The switch cannot be reached, refused, or is not understood.
    #[error(transparent)]
    Switch(#[from] ClientError),
    /// The lab could not be made, used or removed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Standard output is gone.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// A reply or an answer has no JSON form.
    #[error("JSON: {0}")]
    Json(serde_json::Error),
    /// A reply has no YAML form.
    #[error("YAML: {0}")]
    Yaml(String),
}

impl CliError {
    /// Exit code of the process: 2 bad usage or input, 3 cannot reach the switch, 0 for a reader that has seen
    /// enough (`| head`).
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) | Self::Switch(ClientError::Refused(_)) => 2,
            Self::Switch(_) | Self::Lab(LabError::Control { .. } | LabError::Program { .. }) => 3,
            Self::Lab(LabError::Interrupted) => INTERRUPTED,
            Self::Lab(_) => 2,
            Self::Output(_) if self.is_closed_pipe() => 0,
            Self::Output(_) | Self::Json(_) | Self::Yaml(_) => 2,
        }
    }

    /// Whether the reader of standard output went away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(kind) => Self::Output(kind.into()),
            None => Self::Json(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure_also_through_serde() {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(CliError::from(gone()).exit_code(), 0);
        assert_eq!(CliError::from(serde_json::Error::io(gone())).exit_code(), 0);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(CliError::from(serde_json::Error::io(full)).exit_code(), 2);
    }
}
