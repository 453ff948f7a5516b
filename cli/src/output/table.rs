//! Tables of `Output`: columns two spaces apart, as wide as their words where the terminal has the room.
//!
//! On a terminal long cells wrap at its width; into a pipe nothing wraps. A word (an id, an address) is broken only where
//! the words of a row do not fit side by side, the longest ones first.

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width, presets};

/// Spaces between columns.
const COLUMN_GAP: u16 = 2;
/// Words are not broken into pieces shorter than this, however narrow the terminal.
const SHORTEST_PIECE: u16 = 8;

/// A column of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    heading: &'static str,
    shown: Shown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Always,
    IfItFits,
    Wide,
}

/// A column that is always shown.
pub(crate) const fn column(heading: &'static str) -> Column {
    Column { heading, shown: Shown::Always }
}

/// A column that is left out where the terminal is too narrow for it.
pub(crate) const fn if_it_fits(heading: &'static str) -> Column {
    Column { heading, shown: Shown::IfItFits }
}

/// A column that only `-o wide` shows.
pub(crate) const fn wide(heading: &'static str) -> Column {
    Column { heading, shown: Shown::Wide }
}

/// The columns with their rows; `all` of them, or those of a table that is not wide.
pub(super) fn list<const N: usize>(
    columns: [Column; N],
    rows: impl IntoIterator<Item = [Cell; N]>,
    all: bool,
) -> Table {
    let rows: Vec<[Cell; N]> = rows.into_iter().collect();
    let mut words = columns.map(|column| longest_word(column.heading));
    for row in &rows {
        for (longest, cell) in words.iter_mut().zip(row) {
            *longest = longest_word(&cell.content()).max(*longest);
        }
    }
    let mut table = plain();
    let width = table.width();
    let shown = choose(&columns, &words, width, all);
    let keep = |(shown, cell)| bool::then_some(shown, cell);
    let headings = columns.map(|column| Cell::new(column.heading));
    table.set_header(shown.into_iter().zip(headings).filter_map(keep));
    table.add_rows(
        rows.into_iter().map(|row| shown.into_iter().zip(row).filter_map(keep).collect::<Vec<_>>()),
    );
    let words = picked(&words, &shown);
    // Whoever asks for all columns on a narrow terminal can put them side by side with `less -S`.
    if all && width.is_some_and(|width| !fits(&words, u16::MAX, width)) {
        table.set_content_arrangement(ContentArrangement::Disabled);
    } else {
        keep_words_whole(&mut table, &words);
    }
    table
}

/// Which columns are shown.
fn choose<const N: usize>(
    columns: &[Column; N],
    words: &[u16; N],
    width: Option<u16>,
    all: bool,
) -> [bool; N] {
    let roomy = columns.map(|column| all || column.shown != Shown::Wide);
    if all || width.is_none_or(|width| fits(&picked(words, &roomy), u16::MAX, width)) {
        return roomy;
    }
    columns.map(|column| column.shown == Shown::Always)
}

fn picked<const N: usize>(words: &[u16; N], shown: &[bool; N]) -> Vec<u16> {
    words.iter().zip(shown).filter(|(_, shown)| **shown).map(|(word, _)| *word).collect()
}

/// A table without headings and constraints.
pub(super) fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// The table as text, coloured where it is seen.
pub(super) fn render(table: &mut Table, colour: bool) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, COLUMN_GAP));
    }
    if colour {
        table.enforce_styling();
    }
    table.trim_fmt()
}

/// An id or an address that is broken across lines cannot be copied: columns are at least as wide as their words.
fn keep_words_whole(table: &mut Table, words: &[u16]) {
    let cap = table.width().map_or(u16::MAX, |width| longest_that_fits(words, width));
    for (column, longest) in table.column_iter_mut().zip(words) {
        let width = Width::Fixed(longest.min(&cap).saturating_add(COLUMN_GAP));
        column.set_constraint(ColumnConstraint::LowerBoundary(width));
    }
}

/// The length up to which words can stay whole so that a row of the longest ones fits into `width`.
fn longest_that_fits(words: &[u16], width: u16) -> u16 {
    let longest = words.iter().copied().max().unwrap_or_default();
    (SHORTEST_PIECE..=longest).rev().find(|cap| fits(words, *cap, width)).unwrap_or(SHORTEST_PIECE)
}

/// Whether words of `cap` letters at most have room side by side.
fn fits(words: &[u16], cap: u16, width: u16) -> bool {
    let row: u32 = words.iter().map(|word| u32::from(*word.min(&cap)) + u32::from(COLUMN_GAP)).sum();
    row <= u32::from(width.saturating_add(COLUMN_GAP))
}

/// Length of the longest word; ids, addresses and headings are ASCII.
fn longest_word(text: &str) -> u16 {
    let longest = text.split_whitespace().map(str::len).max().unwrap_or(0);
    u16::try_from(longest).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_where_they_fit_and_the_longest_are_broken_first() {
        assert_eq!(longest_that_fits(&[10, 20, 39], 80), 39);
        assert_eq!(longest_that_fits(&[10, 20, 39], 64), 30);
        assert_eq!(longest_that_fits(&[40, 40, 4], 48), 20);
        assert_eq!(longest_that_fits(&[40, 40, 40], 10), SHORTEST_PIECE);
        assert_eq!(longest_that_fits(&[], 80), SHORTEST_PIECE);
    }

    #[test]
    fn a_wide_column_is_shown_on_wish() {
        let rows = || [["a", "b"].map(Cell::new)];
        let text = |all| render(&mut list([column("ONE"), wide("TWO")], rows(), all), false);
        assert_eq!(text(false), "ONE\na");
        assert_eq!(text(true), "ONE  TWO\na    b");
    }

    #[test]
    fn a_column_is_left_out_where_it_does_not_fit() {
        let columns = [column("A"), if_it_fits("B"), wide("C")];
        let shown = |width, all| choose(&columns, &[10, 10, 10], width, all);
        assert_eq!(shown(None, false), [true, true, false]);
        assert_eq!(shown(Some(22), false), [true, true, false]);
        assert_eq!(shown(Some(21), false), [true, false, false]);
        assert_eq!(shown(Some(21), true), [true; 3]);
    }
}
