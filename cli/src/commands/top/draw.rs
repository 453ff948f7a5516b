//! Draws the screen of `top` from its state: a heading, the panels, and the keys.
//!
//! Small screens have the panels one above the other, with most room for the one that has the focus; wide ones have the
//! pods on the left and the others beside them.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row as TableRow, Table, TableState, Wrap};

use super::panel::{Column, Panel, Row};
use super::view::View;
use crate::output::{duration, short};

/// Screens at least so wide have panels side by side.
const WIDE: u16 = 130;
/// Lines of a panel that does not have the focus: title, headings, three rows.
const SMALL: u16 = 5;
/// Columns between those of a table.
const GAP: u16 = 1;
/// Width of the help.
const HELP_WIDTH: u16 = 68;

const KEYS: &str = "q quit  p pause  s sort  / filter  tab next panel  enter zoom  ? help";
const HELP: &[(&str, &str)] = &[
    ("q, Ctrl-C", "quit"),
    ("p, space", "pause: the screen stays as it is"),
    ("tab, arrows", "next panel, the one before"),
    ("up, down", "move the cursor; page up and down, home and end too"),
    ("enter", "the panel on the whole screen, and back"),
    ("s", "sort by the next column (marked with *)"),
    ("/", "show rows that contain a text; esc shows all"),
    ("", ""),
    ("FROM, TO", "packets and bits a second from and to the pod"),
    ("DROP/s", "packets dropped a second, both directions"),
    ("MOSTLY", "the pod that most of a reason's drops concern"),
    ("FLOWS/s", "connections a second that a rule let begin"),
    ("PKT/BATCH", "packets a worker takes at a time, 64 at most"),
    ("LOAD %", "part of a worker's core that its packets take"),
];

/// The whole screen.
pub(super) fn screen(frame: &mut Frame<'_>, view: &View) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(heading(view), head);
    if view.alone {
        panel(frame, view, view.focus, body);
    } else if body.width >= WIDE {
        side_by_side(frame, view, body);
    } else {
        stacked(frame, view, body);
    }
    frame.render_widget(footer(view), foot);
    if view.help {
        help(frame, body);
    }
}

fn stacked(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let size = |panel| if view.focus == panel { Constraint::Fill(1) } else { Constraint::Length(SMALL) };
    let areas: [Rect; Panel::ALL.len()] = Layout::vertical(Panel::ALL.map(size)).areas(area);
    for (which, area) in Panel::ALL.into_iter().zip(areas) {
        panel(frame, view, which, area);
    }
}

fn side_by_side(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(54), Constraint::Fill(1)]).spacing(2).areas(area);
    panel(frame, view, Panel::Pods, left);
    let others = [Panel::Drops, Panel::Rules, Panel::Workers];
    let areas: [Rect; 3] = Layout::vertical(others.map(|_| Constraint::Fill(1))).areas(right);
    for (which, area) in others.into_iter().zip(areas) {
        panel(frame, view, which, area);
    }
}

/// What is known of the whole switch, and what is wrong.
fn heading(view: &View) -> Text<'static> {
    let Some(rates) = &view.rates else {
        return Text::from(vec![
            Line::from("espalier top: the first rates come after one interval"),
            trouble(view),
        ]);
    };
    let total = &rates.total;
    let generation = rates.generation.map_or_else(|| "none".to_owned(), |generation| generation.to_string());
    let state = if view.paused { "  PAUSED" } else { "" };
    let first = format!(
        "espalier-switch {}  up {}  generation {generation}  {} pods  {} flows  every {} s",
        rates.version,
        duration(rates.uptime_seconds),
        rates.pods.len(),
        rates.flows,
        view.interval.as_secs_f64(),
    );
    let first = Line::from(vec![
        Span::styled(first, Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(state, alarm(view)),
    ]);
    if view.trouble.is_some() || !rates.problems.is_empty() {
        return Text::from(vec![first, trouble(view)]);
    }
    let second = format!(
        "{} pps received = {} forwarded + {} dropped + {} consumed",
        short(total.received),
        short(total.forwarded),
        short(total.dropped),
        short(total.consumed),
    );
    Text::from(vec![first, Line::from(second)])
}

/// Why there is no answer, or the switch's own first problem.
fn trouble(view: &View) -> Line<'static> {
    let problem = view.rates.as_ref().and_then(|rates| rates.problems.first());
    let text = view.trouble.as_ref().or(problem).cloned().unwrap_or_default();
    Line::styled(text, alarm(view))
}

fn footer(view: &View) -> Line<'static> {
    let filter = view.filter(view.focus);
    if view.typing {
        return Line::from(format!(
            "show {} with: {filter}_   (enter keeps, esc shows all)",
            view.focus.title()
        ));
    }
    if filter.is_empty() {
        Line::from(KEYS)
    } else {
        Line::from(format!("filter {filter:?}  esc all  {KEYS}"))
    }
}

fn panel(frame: &mut Frame<'_>, view: &View, panel: Panel, area: Rect) {
    let rows = view.rows(panel);
    let focus = view.focus == panel;
    let mut block = Block::new().borders(Borders::TOP).title(title(view, panel, rows.len()));
    if focus {
        block = block.title_style(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED));
    }
    let columns = panel.columns();
    let shown = shown(columns, &rows, area.width);
    let widths: Vec<u16> = shown.iter().map(|index| width(columns, &rows, *index)).collect();
    let order = view.order(panel);
    let headings = shown.iter().map(|index| {
        let column = columns[*index];
        let mark = if *index == order { "*" } else { "" };
        aligned(format!("{mark}{}", column.heading), column)
    });
    let header = TableRow::new(headings).style(Style::new().add_modifier(Modifier::DIM));
    let body = rows.iter().map(|row| {
        let cells =
            shown.iter().filter_map(|index| Some(aligned(row.cells.get(*index)?.text(), columns[*index])));
        TableRow::new(cells).style(if row.alarming { alarm(view) } else { Style::new() })
    });
    let table = Table::new(body, sizes(&shown, &widths, columns))
        .header(header)
        .column_spacing(GAP)
        .block(block)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state =
        TableState::new().with_selected((focus && !rows.is_empty()).then(|| view.selected(panel)));
    frame.render_stateful_widget(table, area, &mut state);
}

fn title(view: &View, panel: Panel, rows: usize) -> String {
    match view.filter(panel) {
        "" => format!(" {} {rows} ", panel.title()),
        filter => format!(" {} {rows} with {filter:?} ", panel.title()),
    }
}

/// The columns for which there is room: spare ones go first.
fn shown(columns: &[Column], rows: &[Row], room: u16) -> Vec<usize> {
    let all: Vec<usize> = (0..columns.len()).collect();
    let needed: u16 = all.iter().map(|index| width(columns, rows, *index) + GAP).sum();
    if needed <= room + GAP { all } else { all.into_iter().filter(|index| !columns[*index].spare).collect() }
}

/// The first names give way where the room is short; numbers never do.
fn sizes(shown: &[usize], widths: &[u16], columns: &[Column]) -> Vec<Constraint> {
    let size = |(index, width): (&usize, &u16)| match columns[*index].numeric {
        true => Constraint::Length(*width),
        false => Constraint::Max(*width),
    };
    shown.iter().zip(widths).map(size).collect()
}

fn width(columns: &[Column], rows: &[Row], index: usize) -> u16 {
    // One more than the heading, for the mark of the order.
    let heading = columns[index].heading.chars().count() + 1;
    let cells = rows.iter().filter_map(|row| Some(row.cells.get(index)?.text().chars().count()));
    let longest = cells.chain([heading]).max().unwrap_or(heading);
    u16::try_from(longest).unwrap_or(u16::MAX)
}

fn aligned(text: String, column: Column) -> Cell<'static> {
    let alignment = if column.numeric { Alignment::Right } else { Alignment::Left };
    Cell::from(Text::from(text).alignment(alignment))
}

fn alarm(view: &View) -> Style {
    if view.colour { Style::new().fg(Color::Red) } else { Style::new().add_modifier(Modifier::BOLD) }
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let height = u16::try_from(HELP.len() + 2).unwrap_or(u16::MAX);
    let area = area.centered(Constraint::Max(HELP_WIDTH), Constraint::Max(height));
    let lines: Vec<Line<'_>> =
        HELP.iter().map(|(key, what)| Line::from(format!("{key:<12} {what}"))).collect();
    let block = Block::bordered().title(" keys and columns ");
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), area);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::super::sample::made::{Reading, sample};
    use super::*;

    fn view() -> View {
        let start = Instant::now();
        let mut view = View::new(Duration::from_secs(1), false);
        let first = Reading { pid: 1, after: Duration::ZERO, rx: 0, denied: 0 };
        view.take(Ok(sample(start, first)));
        view.take(Ok(sample(
            start,
            Reading { after: Duration::from_secs(1), rx: 12_000, denied: 30, ..first },
        )));
        view
    }

    fn press(view: &mut View, keys: &[KeyCode]) {
        keys.iter().for_each(|key| view.press(KeyEvent::from(*key)));
    }

    fn lines(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect::<String>();
        buffer.content().chunks(usize::from(width)).map(|row| line(row).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_screen_of_80_by_24_has_every_panel_and_the_keys() {
        let lines = lines(&view(), 80, 24);
        assert!(
            lines[0].starts_with("espalier-switch 0.1.0  up 1m 40s  generation 7  2 pods  3 flows"),
            "{lines:#?}"
        );
        assert_eq!(lines[1], "12k pps received = 12k forwarded + 30 dropped + 0 consumed");
        assert!(lines[2].contains(" pods 2 "), "{lines:#?}");
        // The busiest first.
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&lines[4]), "shop/web-0 12k 9.6M 0 0 30 30 0");
        assert!(lines[5].starts_with("shop/db-0"));
        let shown = lines.join("\n");
        assert!(shown.contains(" drops 1 ") && shown.contains(" workers 1 "), "{shown}");
        assert!(shown.contains(" rules 2 ") && shown.contains("egress tcp/5432 10.0.0.0/8"), "{shown}");
        assert!(shown.contains("denied-egress") && shown.contains("running"), "{shown}");
        assert_eq!(lines[23], KEYS);
    }

    #[test]
    fn a_wide_screen_has_the_panels_side_by_side() {
        let lines = lines(&view(), 160, 50);
        assert!(lines[2].contains(" pods 2 ") && lines[2].contains(" drops 1 "), "{lines:#?}");
    }

    #[test]
    fn small_screens_are_drawn_without_a_panic() {
        for (width, height) in [(1, 1), (10, 3), (40, 8), (79, 5), (300, 2)] {
            let mut view = view();
            lines(&view, width, height);
            press(&mut view, &[KeyCode::Char('?')]);
            lines(&view, width, height);
        }
    }

    #[test]
    fn rows_can_be_sorted_and_filtered() {
        let mut view = view();
        press(&mut view, &[KeyCode::Char('s'); 7]);
        assert!(lines(&view, 80, 24)[4].starts_with("shop/db-0"), "sorted by name");
        press(&mut view, &[KeyCode::Char('/'), KeyCode::Char('w'), KeyCode::Char('e'), KeyCode::Char('x')]);
        assert!(lines(&view, 80, 24)[23].starts_with("show pods with: wex_"));
        press(&mut view, &[KeyCode::Backspace, KeyCode::Enter]);
        let shown = lines(&view, 80, 24);
        assert!(shown[2].contains("pods 1 with \"we\"") && shown[4].starts_with("shop/web-0"), "{shown:#?}");
        press(&mut view, &[KeyCode::Esc]);
        assert!(lines(&view, 80, 24)[2].contains("pods 2"));
    }

    #[test]
    fn a_panel_can_have_the_whole_screen() {
        let mut view = view();
        press(&mut view, &[KeyCode::Tab, KeyCode::Enter]);
        let shown = lines(&view, 80, 24).join("\n");
        assert!(shown.contains("denied-egress") && !shown.contains("workers"), "{shown}");
    }

    #[test]
    fn a_paused_screen_stays_and_says_so() {
        let (mut view, start) = (view(), Instant::now());
        press(&mut view, &[KeyCode::Char('p')]);
        let later = Reading { pid: 1, after: Duration::from_secs(9), rx: 99_999, denied: 30 };
        view.take(Ok(sample(start, later)));
        let shown = lines(&view, 100, 24);
        assert!(shown[0].ends_with("PAUSED") && shown[1].starts_with("12k pps"), "{shown:#?}");
    }
}
