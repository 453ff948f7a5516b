//! From the tokens to the filter: operators, parentheses, and what a value inherits from the words before it.
//!
//! `and` and `or` bind equally and to the left, `not` binds tightest, and a bare value takes the words of the value before
//! it (`port 80 or 443`), all as tcpdump has it. The words themselves are in `words`.

use super::lex::{self, Token, What};
use super::words::{self, Head};
use super::{Filter, FilterError, MAX_DEPTH, Name, Step, Test};

/// Parses a filter.
pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
    // First, so that where a test stands is said of the text that is kept.
    let text = text.trim();
    let tokens = lex::tokens(text)?;
    let mut parser = Parser { text, tokens: &tokens, steps: Vec::new(), depth: 0 };
    if !parser.tokens.is_empty() {
        parser.expression(None)?;
    }
    if let Some(token) = parser.tokens.first() {
        return Err(parser.error(
            token.at,
            match token.what {
                What::Close => "a `)` without its `(`".to_owned(),
                _ => "expected `and`, `or` or the end here".to_owned(),
            },
        ));
    }
    Ok(Filter { text: text.into(), steps: parser.steps })
}

pub(super) struct Parser<'a> {
    text: &'a str,
    /// Those to come.
    tokens: &'a [Token<'a>],
    steps: Vec<Step<Name>>,
    depth: u32,
}

impl<'a> Parser<'a> {
    /// Operands and operators up to a `)` or the end. `before` is what a value at the beginning inherits; what one behind
    /// the expression inherits is returned.
    fn expression(&mut self, before: Option<Head>) -> Result<Option<Head>, FilterError> {
        let mut head = self.operand(before)?;
        while let Some(operator) = self.operator() {
            head = self.operand(head)?;
            self.steps.push(operator);
        }
        Ok(head)
    }

    fn operator(&mut self) -> Option<Step<Name>> {
        let step = match self.tokens.first()?.what {
            What::And => Step::And,
            What::Or => Step::Or,
            _ => return None,
        };
        self.skip(1);
        Some(step)
    }

    /// A test, a value that inherits its words, or an expression in parentheses; with the `not`s before it.
    fn operand(&mut self, before: Option<Head>) -> Result<Option<Head>, FilterError> {
        let negated = self.nots();
        let token = self.expect("a test")?;
        let head = match token.what {
            What::Open => {
                self.within(token, |parser| parser.expression(before).map(drop))?;
                before
            }
            What::Word(word) => match words::single(word) {
                Some(test) => {
                    self.skip(1);
                    self.steps.push(Step::Test(token.at, test));
                    None
                }
                None => self.headed(before, token, word)?,
            },
            _ => return Err(self.misplaced(token)),
        };
        if negated {
            self.steps.push(Step::Not);
        }
        Ok(head)
    }

    /// A test of words and a value, or of a value alone.
    fn headed(
        &mut self,
        before: Option<Head>,
        token: Token<'a>,
        word: &str,
    ) -> Result<Option<Head>, FilterError> {
        if words::is_size(word) {
            self.skip(1);
            let number = self.expect("a number of bytes")?;
            let What::Word(value) = number.what else { return Err(self.misplaced(number)) };
            let test = words::size(word, value).map_err(|message| self.error(number.at, message))?;
            self.skip(1);
            self.steps.push(Step::Test(token.at, test));
            return Ok(None);
        }
        let ahead: Vec<What<'_>> = self.tokens.iter().take(words::LONGEST).map(|token| token.what).collect();
        match words::head(&ahead) {
            Some((Head::Bare(test), _)) => {
                self.skip(1);
                self.steps.push(Step::Test(token.at, test.into()));
                Ok(None)
            }
            Some((head, length)) => {
                self.skip(length);
                self.value(head)?;
                Ok(Some(head))
            }
            None => {
                let head = before.ok_or_else(|| self.error(token.at, words::unknown(word)))?;
                self.test(head, token, word)?;
                Ok(Some(head))
            }
        }
    }

    /// The value after its words, or several in parentheses.
    fn value(&mut self, head: Head) -> Result<(), FilterError> {
        let negated = self.nots();
        let token = self.expect(head.wants())?;
        match token.what {
            What::Open => self.within(token, |parser| {
                parser.value(head)?;
                while let Some(operator) = parser.operator() {
                    parser.value(head)?;
                    parser.steps.push(operator);
                }
                Ok(())
            })?,
            What::Word(word) => self.test(head, token, word)?,
            _ => return Err(self.misplaced(token)),
        }
        if negated {
            self.steps.push(Step::Not);
        }
        Ok(())
    }

    fn test(&mut self, head: Head, token: Token<'a>, word: &str) -> Result<(), FilterError> {
        let test: Test<Name> = head.test(word).map_err(|message| self.error(token.at, message))?;
        self.skip(1);
        self.steps.push(Step::Test(token.at, test));
        Ok(())
    }

    fn within(
        &mut self,
        open: Token<'a>,
        inner: impl FnOnce(&mut Self) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        if self.depth == MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} parentheses open at once: write it with fewer");
            return Err(self.error(open.at, message));
        }
        self.depth += 1;
        self.skip(1);
        inner(self)?;
        match self.tokens.first() {
            Some(Token { what: What::Close, .. }) => self.skip(1),
            Some(token) => return Err(self.error(token.at, "expected `and`, `or` or `)` here".to_owned())),
            None => return Err(self.error(open.at, "this `(` is not closed".to_owned())),
        }
        self.depth -= 1;
        Ok(())
    }

    /// Takes the `not`s; whether they are odd in number.
    fn nots(&mut self) -> bool {
        let count = self.tokens.iter().take_while(|token| token.what == What::Not).count();
        self.skip(count);
        count % 2 == 1
    }

    fn skip(&mut self, count: usize) {
        self.tokens = self.tokens.get(count..).unwrap_or_default();
    }

    /// The next token, which is not taken.
    fn expect(&self, what: &str) -> Result<Token<'a>, FilterError> {
        self.tokens.first().copied().ok_or_else(|| {
            let end = u32::try_from(self.text.trim_end().chars().count()).unwrap_or(u32::MAX);
            self.error(end, format!("the filter ends where {what} is missing"))
        })
    }

    fn misplaced(&self, token: Token<'a>) -> FilterError {
        let what = match token.what {
            What::And => "`and` has nothing before it to join",
            What::Or => "`or` has nothing before it to join",
            What::Close => "expected something before this `)`",
            What::Open | What::Not | What::Word(_) => "expected a value here",
        };
        self.error(token.at, what.to_owned())
    }

    fn error(&self, at: u32, message: String) -> FilterError {
        FilterError::new(self.text, at, message)
    }
}
