//! The one error for bad input: which file, which field, what is wrong and how to mend it.
//!
//! Made by parsing and validation in this crate and sent over the control socket; the CLI prints it and exits 2.

use serde::{Deserialize, Serialize};

/// Input that was refused, whole: nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputError {
    /// The file the input came from, where it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Path of the offending field (`pods[2].vlan`), or empty where the whole document is meant.
    pub field: String,
    /// What is wrong with which value, and what would be accepted.
    pub message: String,
}

impl InputError {
    /// A refusal of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: None, field: field.into(), message: message.into() }
    }

    /// The same refusal, naming the file it was found in (unless a nearer file is named already).
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file.get_or_insert_with(|| file.into());
        self
    }

    pub(crate) fn from_path_error<E: std::fmt::Display>(error: serde_path_to_error::Error<E>) -> Self {
        // `?` stands for a key that was not read to its end, and `.` for the document.
        let path = error.path().to_string();
        let field = path.trim_end_matches('?').trim_end_matches('.');
        Self::new(field, shortened(&error.into_inner().to_string()))
    }
}

/// The parser quotes the offending value whole, which in a foreign file is the file: its ends say what it is.
fn shortened(message: &str) -> String {
    const END: usize = 120;
    let length = message.chars().count();
    if length <= 2 * END {
        return message.to_owned();
    }
    let start = message.chars().take(END).chain(['…']);
    start.chain(message.chars().skip(length - END)).collect()
}

impl std::error::Error for InputError {}

impl std::fmt::Display for InputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
