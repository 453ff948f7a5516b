//! A filter that was refused: what is wrong, and at which character.
//!
//! [`FilterError`]'s `Display` is one line, for replies and logs; [`FilterError::pointed`] adds the text with a caret.

use std::fmt;

use crate::InputError;

/// A filter that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FilterError {
    text: Box<str>,
    at: u32,
    message: String,
}

/// Characters shown on each side of the caret.
const AROUND: usize = 60;

impl FilterError {
    pub(super) fn new(text: &str, at: u32, message: String) -> Self {
        Self { text: text.into(), at, message }
    }

    /// The character it is about, counted from 0; the filter's length if something is missing at its end.
    pub fn at(&self) -> usize {
        self.at as usize
    }

    /// What is wrong, and the fix.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Three lines: what is wrong, the filter (of a long one, the part in question), and a caret under the character.
    pub fn pointed(&self) -> String {
        let from = self.at().saturating_sub(AROUND);
        let shown = self.text.chars().skip(from).take(2 * AROUND);
        let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{self}\n  {shown}\n  {:width$}^", "", width = self.at() - from)
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "character {}: {}", self.at + 1, self.message)
    }
}

impl From<FilterError> for InputError {
    fn from(error: FilterError) -> Self {
        Self::new("filter", error.to_string())
    }
}
