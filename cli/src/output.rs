//! Standard output: aligned tables for people, JSON for programs, colour only where somebody sees it.
//!
//! Every command writes through [`Output`]. Writes are buffered and their errors returned, so that a closed pipe ends
//! a command quietly; colour follows the terminal, `NO_COLOR` and `CLICOLOR_FORCE`.

use std::io::{self, BufWriter, StdoutLock, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use crate::error::CliError;

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 16;
/// Spaces between columns.
const COLUMN_GAP: u16 = 2;
/// Longer words are broken where the terminal is too narrow; an EC2 id (21 with its comma) is not.
const LONGEST_WORD: u16 = 24;

/// Where a command's answer goes.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    colour: bool,
}

/// What a piece of text says about the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Bad,
    /// A label.
    Quiet,
}

impl Output {
    /// Standard output, locked until the process ends.
    pub(crate) fn stdout() -> Self {
        let colour = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        Self { out: BufWriter::with_capacity(BUFFER, io::stdout().lock()), colour }
    }

    /// One line.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<(), CliError> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Text that has its line ends.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    /// Whether colour is seen.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// `value` as indented JSON.
    pub(crate) fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CliError> {
        serde_json::to_writer_pretty(&mut self.out, value)?;
        self.line("")
    }

    /// `value` as JSON on one line.
    pub(crate) fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CliError> {
        self.json_bare(value)?;
        self.line("")
    }

    /// `value` as JSON without a line end.
    pub(crate) fn json_bare<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CliError> {
        Ok(serde_json::to_writer(&mut self.out, value)?)
    }

    /// A table under its headings; nothing but the headings where it has no rows.
    pub(crate) fn table<const N: usize>(
        &mut self,
        headings: [&str; N],
        rows: impl IntoIterator<Item = [Cell; N]>,
    ) -> Result<(), CliError> {
        let mut table = plain_table();
        table.set_header(headings.map(Cell::new));
        let mut words = headings.map(longest_word);
        for row in rows {
            for (longest, cell) in words.iter_mut().zip(&row) {
                *longest = longest_word(&cell.content()).max(*longest);
            }
            table.add_row(row);
        }
        keep_words_whole(&mut table, &words);
        self.print(&mut table)
    }

    /// Names and what they stand for, one pair a line.
    pub(crate) fn fields(
        &mut self,
        fields: impl IntoIterator<Item = (String, Cell)>,
    ) -> Result<(), CliError> {
        let mut table = plain_table();
        for (name, value) in fields {
            table.add_row([self.cell(name, Tone::Quiet), value]);
        }
        self.print(&mut table)
    }

    /// A cell that shows its tone where colour is seen.
    pub(crate) fn cell(&self, text: impl ToString, tone: Tone) -> Cell {
        let cell = Cell::new(text);
        if !self.colour {
            return cell;
        }
        match tone {
            Tone::Good => cell.fg(comfy_table::Color::Green),
            Tone::Bad => cell.fg(comfy_table::Color::Red),
            Tone::Quiet => cell.add_attribute(comfy_table::Attribute::Dim),
        }
    }

    /// Text that shows its tone where colour is seen.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Quiet => Style::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }

    /// Writes what is buffered.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.out.flush()?)
    }

    fn print(&mut self, table: &mut Table) -> Result<(), CliError> {
        for column in table.column_iter_mut() {
            column.set_padding((0, COLUMN_GAP));
        }
        if self.colour {
            table.enforce_styling();
        }
        self.line(table.trim_fmt())
    }
}

/// Says on standard error what deserves a look but stops nothing.
pub(crate) fn warn(text: &dyn std::fmt::Display) {
    complain("warning:", AnsiColor::Yellow, text);
}

/// Says on standard error what went wrong.
pub(crate) fn fail(text: &dyn std::fmt::Display) {
    complain("error:", AnsiColor::Red, text);
}

/// Where standard error is closed too, the exit code has to do.
fn complain(label: &str, colour: AnsiColor, text: &dyn std::fmt::Display) {
    let style = colour.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{style}{label}{style:#} {text}");
}

/// Columns apart by two spaces. On a terminal long cells wrap at its width; into a pipe nothing wraps.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// An id or an address that is broken across lines cannot be copied: columns are at least as wide as their words.
fn keep_words_whole(table: &mut Table, words: &[u16]) {
    for (column, longest) in table.column_iter_mut().zip(words) {
        let width = Width::Fixed(longest.min(&LONGEST_WORD).saturating_add(COLUMN_GAP));
        column.set_constraint(ColumnConstraint::LowerBoundary(width));
    }
}

/// Length of the longest word; ids, addresses and headings are ASCII.
fn longest_word(text: &str) -> u16 {
    let longest = text.split_whitespace().map(str::len).max().unwrap_or(0);
    u16::try_from(longest).unwrap_or(u16::MAX)
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Items side by side, or a dash where there are none.
pub(crate) fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// Seconds as the two largest units that are not zero (`3h 12m`).
pub(crate) fn duration(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, length)| seconds >= *length) else { return "0s".to_owned() };
    let (name, length) = units[first];
    let head = format!("{}{name}", seconds / length);
    match units.get(first + 1) {
        Some((next, next_length)) if seconds % length / next_length > 0 => {
            format!("{head} {}{next}", seconds % length / next_length)
        }
        _ => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_threes() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_duration_has_two_units_at_most() {
        let cases =
            [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m 1s"), (11_520, "3h 12m"), (90_000, "1d 1h")];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn an_empty_list_is_a_dash() {
        assert_eq!(listed::<&str>([]), "-");
        assert_eq!(listed([1, 2]), "1, 2");
    }
}
