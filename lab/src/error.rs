//! What can go wrong with a lab, with the fix in the message.

use std::io;

use espalier_api::InputError;

use crate::netns::NetNsError;

/// Why a lab could not be made, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The scenario, a name or the snapshot is wrong.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A network namespace or something in it.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// A lab of that name is there.
    #[error(
        "lab {name} exists already: remove it with `espalier lab down --name {name}`, or give this one another --name"
    )]
    Exists {
        /// The lab.
        name: String,
    },
    /// No lab of that name is there.
    #[error("there is no lab {name}: `espalier lab list` shows what is up, `espalier lab up` makes one")]
    NotFound {
        /// The lab.
        name: String,
    },
    /// A program that the lab starts is missing.
    #[error(
        "cannot find {program}: build it (`cargo build --workspace --bins`), put it on PATH, or set {variable}"
    )]
    ProgramMissing {
        /// Name of the program.
        program: &'static str,
        /// Environment variable that names it.
        variable: &'static str,
    },
    /// A program of the lab ended or never answered.
    #[error("{program} {what}; its log {log} ends with:\n{tail}")]
    Program {
        /// Name of the program.
        program: &'static str,
        /// What it did.
        what: String,
        /// Path of the log.
        log: String,
        /// Last lines of the log.
        tail: String,
    },
    /// The switch refused a request.
    #[error("the switch refused {request}: {error}")]
    Refused {
        /// Method and path.
        request: String,
        /// What it said.
        error: InputError,
    },
    /// The control socket did not work.
    #[error("control socket {socket}: {what}")]
    Control {
        /// Path of the socket.
        socket: String,
        /// What went wrong.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A tool said something that makes no sense.
    #[error("unexpected: {0}")]
    Unexpected(String),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; what was made has been removed")]
    Interrupted,
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}
