//! Name of a lab: prefix of everything it makes on the machine.

use std::fmt;
use std::str::FromStr;

use espalier_api::InputError;

/// Name of the lab unless told otherwise.
pub const DEFAULT_NAME: &str = "lab";

/// A lab's name: 1 to 16 lower-case letters and digits, starting with a letter. No hyphen, for the names of the
/// namespaces of two labs must never meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabName(String);

impl LabName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LabName {
    fn default() -> Self {
        Self(DEFAULT_NAME.into())
    }
}

impl FromStr for LabName {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if plain && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 16 {
            return Ok(Self(text.into()));
        }
        Err(InputError::new(
            "name",
            format!(
                "{text:?} cannot name a lab: expected 1 to 16 lower-case letters and digits, a letter first"
            ),
        ))
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
