//! What `top` shows and how keys change it; nothing here draws or asks.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Polled;
use super::panel::{Panel, Row, sort};
use super::rates::Rates;
use super::sample::Sample;

/// Rows that a page key moves by.
const PAGE: usize = 10;

/// State of the screen.
pub(super) struct View {
    pub(super) interval: Duration,
    /// Whether colour is seen.
    pub(super) colour: bool,
    pub(super) focus: Panel,
    /// Whether the panel with the focus has the whole screen.
    pub(super) alone: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// Whether keys go into the filter.
    pub(super) typing: bool,
    /// Why the last question to the switch has no answer.
    pub(super) trouble: Option<String>,
    pub(super) rates: Option<Rates>,
    before: Option<Sample>,
    lists: [List; Panel::ALL.len()],
    over: bool,
}

/// How one panel's rows are chosen.
#[derive(Debug, Clone, Default)]
struct List {
    order: usize,
    selected: usize,
    filter: String,
}

impl View {
    pub(super) fn new(interval: Duration, colour: bool) -> Self {
        Self {
            interval,
            colour,
            focus: Panel::Pods,
            alone: false,
            paused: false,
            help: false,
            typing: false,
            trouble: None,
            rates: None,
            before: None,
            lists: Panel::ALL.map(|panel| List { order: panel.first_order(), ..List::default() }),
            over: false,
        }
    }

    /// Takes in an answer of the switch, or that there was none. While paused the screen keeps what it has.
    pub(super) fn take(&mut self, polled: Polled) {
        let sample = match polled {
            Ok(sample) => sample,
            Err(error) => {
                self.trouble = Some(error.to_string());
                return;
            }
        };
        self.trouble = None;
        if let (Some(before), false) = (&self.before, self.paused) {
            self.rates = Some(Rates::between(before, &sample));
        }
        self.before = Some(sample);
        self.keep_selections();
    }

    /// Whether the user has seen enough.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The rows of a panel that fit its filter, in its order.
    pub(super) fn rows(&self, panel: Panel) -> Vec<Row> {
        let Some(rates) = &self.rates else { return Vec::new() };
        let list = self.list(panel);
        let mut rows = panel.rows(rates);
        rows.retain(|row| row.cells.iter().any(|value| value.text().contains(&list.filter)));
        sort(&mut rows, list.order);
        rows
    }

    /// The column that a panel is sorted by.
    pub(super) fn order(&self, panel: Panel) -> usize {
        self.list(panel).order
    }

    /// The row that the cursor is on.
    pub(super) fn selected(&self, panel: Panel) -> usize {
        self.list(panel).selected
    }

    /// What a panel's rows must contain.
    pub(super) fn filter(&self, panel: Panel) -> &str {
        &self.list(panel).filter
    }

    /// Does what a key means.
    pub(super) fn press(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.over |= matches!(key.code, KeyCode::Char('c' | 'd'));
        } else if self.typing {
            self.type_filter(key.code);
        } else if self.help {
            self.help = false;
            self.over |= key.code == KeyCode::Char('q');
        } else {
            self.command(key.code);
        }
        self.keep_selections();
    }

    fn command(&mut self, key: KeyCode) {
        let selected = self.list(self.focus).selected;
        match key {
            KeyCode::Char('q') => self.over = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => self.next_order(),
            KeyCode::Tab | KeyCode::Right => self.next_panel(1),
            KeyCode::BackTab | KeyCode::Left => self.next_panel(Panel::ALL.len() - 1),
            KeyCode::Enter => self.alone = !self.alone,
            KeyCode::Esc => {
                self.alone = false;
                self.list_mut().filter.clear();
            }
            KeyCode::Up => self.list_mut().selected = selected.saturating_sub(1),
            KeyCode::Down => self.list_mut().selected = selected + 1,
            KeyCode::PageUp => self.list_mut().selected = selected.saturating_sub(PAGE),
            KeyCode::PageDown => self.list_mut().selected = selected + PAGE,
            KeyCode::Home => self.list_mut().selected = 0,
            KeyCode::End => self.list_mut().selected = usize::MAX,
            _ => {}
        }
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.list_mut().filter.clear();
            }
            KeyCode::Backspace => {
                self.list_mut().filter.pop();
            }
            KeyCode::Char(character) => self.list_mut().filter.push(character),
            _ => {}
        }
    }

    fn next_order(&mut self) {
        let columns = self.focus.columns().len();
        let list = self.list_mut();
        list.order = (list.order + 1) % columns;
    }

    fn next_panel(&mut self, by: usize) {
        let now = Panel::ALL.iter().position(|panel| *panel == self.focus).unwrap_or_default();
        self.focus = Panel::ALL[(now + by) % Panel::ALL.len()];
    }

    /// No cursor may be below the last row.
    fn keep_selections(&mut self) {
        for panel in Panel::ALL {
            let last = self.rows(panel).len().saturating_sub(1);
            let list = &mut self.lists[panel as usize];
            list.selected = list.selected.min(last);
        }
    }

    fn list(&self, panel: Panel) -> &List {
        &self.lists[panel as usize]
    }

    fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.focus as usize]
    }
}
