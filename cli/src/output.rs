//! Standard output: aligned tables for people, JSON for programs, colour only where somebody sees it.
//!
//! Every command writes through [`Output`]. Writes are buffered and their errors returned, so that a closed pipe ends
//! a command quietly; colour follows the terminal, `NO_COLOR` and `CLICOLOR_FORCE`.

use std::io::{self, BufWriter, StdoutLock, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, Table};
use serde::Serialize;

use crate::args::Format;
use crate::error::CliError;

mod table;

pub(crate) use table::{Column, column, if_it_fits, wide};

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 16;

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

    /// `value` where `format` is one for programs; returns whether it is.
    pub(crate) fn data<T: Serialize + ?Sized>(
        &mut self,
        format: Format,
        value: &T,
    ) -> Result<bool, CliError> {
        match format {
            Format::Table | Format::Wide => return Ok(false),
            Format::Json => self.json(value)?,
            Format::Yaml => self.yaml(value)?,
        }
        Ok(true)
    }

    /// `value` as YAML.
    pub(crate) fn yaml<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CliError> {
        let text = serde_saphyr::to_string(&value).map_err(|error| CliError::Yaml(error.to_string()))?;
        self.text(&text)
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
        headings: [&'static str; N],
        rows: impl IntoIterator<Item = [Cell; N]>,
    ) -> Result<(), CliError> {
        self.list(headings.map(column), rows, Format::Table)
    }

    /// A table of which `-o wide` has more columns.
    pub(crate) fn list<const N: usize>(
        &mut self,
        columns: [Column; N],
        rows: impl IntoIterator<Item = [Cell; N]>,
        format: Format,
    ) -> Result<(), CliError> {
        let mut table = table::list(columns, rows, format == Format::Wide);
        self.print(&mut table)
    }

    /// A table whose columns are known only when it is printed.
    pub(crate) fn rows(
        &mut self,
        headings: impl IntoIterator<Item = &'static str>,
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Result<(), CliError> {
        let mut table = table::plain();
        table.set_header(headings).add_rows(rows);
        self.print(&mut table)
    }

    /// Names and what they stand for, one pair a line.
    pub(crate) fn fields(
        &mut self,
        fields: impl IntoIterator<Item = (String, Cell)>,
    ) -> Result<(), CliError> {
        let mut table = table::plain();
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
        let text = table::render(table, self.colour);
        self.line(text)
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

/// A rate in four characters or so: `0.5`, `12`, `999`, `1.2k`, `35M`.
pub(crate) fn short(number: f64) -> String {
    let (mut scaled, mut unit) = (number, "");
    for larger in ["k", "M", "G", "T"] {
        if scaled < 999.5 {
            break;
        }
        (scaled, unit) = (scaled / 1000.0, larger);
    }
    let digits = usize::from((0.05..9.95).contains(&scaled));
    format!("{scaled:.digits$}{unit}")
}

/// Items side by side, or a dash where there are none.
pub(crate) fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// The first `most` items, and how many more there are.
pub(crate) fn first_few<T: ToString>(items: &[T], most: usize) -> String {
    let named = listed(items.iter().take(most).map(T::to_string));
    match items.len().saturating_sub(most) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
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
    fn a_rate_is_short() {
        let cases = [
            (0.0, "0"),
            (0.04, "0"),
            (0.5, "0.5"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12k"),
            (1_250_000.0, "1.2M"),
            (3e13, "30T"),
        ];
        for (number, text) in cases {
            assert_eq!(short(number), text, "{number}");
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
        assert_eq!(first_few(&[1, 2], 2), "1, 2");
        assert_eq!(first_few(&[1, 2, 3], 2), "1, 2 and 1 more");
    }
}
