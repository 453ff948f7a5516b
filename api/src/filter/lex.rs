//! Cuts a filter into words and symbols, each with the character it stands at.

use super::{FilterError, MAX_CHARACTERS};

/// A word or symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// Its first character.
    pub(super) at: u32,
    pub(super) what: What<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What<'a> {
    Open,
    Close,
    Not,
    And,
    Or,
    Word(&'a str),
}

/// The tokens of `text`.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, FilterError> {
    if text.len() > MAX_CHARACTERS {
        let message = format!("longer than {MAX_CHARACTERS} characters, the most a filter may have");
        return Err(FilterError::new("", 0, message));
    }
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().zip(0_u32..).peekable();
    while let Some(((start, first), at)) = rest.next() {
        let what = match first {
            '(' => What::Open,
            ')' => What::Close,
            '!' => What::Not,
            '&' | '|' => {
                if rest.next_if(|((_, second), _)| *second == first).is_none() {
                    let message = format!("a single `{first}`: write `{first}{first}`");
                    return Err(FilterError::new(text, at, message));
                }
                if first == '&' { What::And } else { What::Or }
            }
            space if space.is_whitespace() => continue,
            _ => {
                let mut end = start + first.len_utf8();
                while let Some(((at, c), _)) = rest.next_if(|((_, c), _)| !ends_word(*c)) {
                    end = at + c.len_utf8();
                }
                word(text.get(start..end).unwrap_or_default())
            }
        };
        tokens.push(Token { at, what });
    }
    Ok(tokens)
}

fn word(word: &str) -> What<'_> {
    match word {
        "not" => What::Not,
        "and" => What::And,
        "or" => What::Or,
        _ => What::Word(word),
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '!' | '&' | '|')
}
