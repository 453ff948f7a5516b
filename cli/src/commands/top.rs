//! `espalier top`: pods, drops, rules and workers by their rates, live or once.
//!
//! A thread of its own asks the switch, so that a slow answer never holds up a key, and another one reads keys, because
//! reading from a terminal that has gone may never return. The terminal is put back on every way out: a key, a signal, an
//! error, a panic.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::Duration;

use espalier_api::InputError;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args::{Format, Global, TopArgs};
use crate::client::ClientError;
use crate::error::CliError;
use crate::output::Output;

mod draw;
mod panel;
mod rates;
mod sample;
mod view;

use rates::Rates;
use sample::Sample;
use view::View;

/// How often keys, signals and answers are looked for.
const TICK: Duration = Duration::from_millis(50);

/// An answer of the switch, or why there is none.
type Polled = Result<Sample, ClientError>;

pub(super) fn run(global: &Global, args: &TopArgs, out: &mut Output) -> Result<ExitCode, CliError> {
    let format = args.format.format();
    if args.once || matches!(format, Format::Json | Format::Yaml) {
        return once(global, args, format, out);
    }
    check_terminal()?;
    let first = Sample::take(global)?;
    let mut view = View::new(args.interval, out.colour());
    view.take(Ok(first));
    let signal = catch_signals()?;
    let samples = poll(global.clone(), args.interval);
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal, &mut view, (&samples, &keys()), &signal);
    ratatui::try_restore()?;
    ended
}

/// The rates of one interval, printed.
fn once(global: &Global, args: &TopArgs, format: Format, out: &mut Output) -> Result<ExitCode, CliError> {
    let before = Sample::take(global)?;
    thread::sleep(args.interval);
    let after = Sample::take(global)?;
    let rates = Rates::between(&before, &after);
    if !out.data(format, &rates)? {
        panel::print(&rates, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The screen needs a terminal that can be drawn on.
fn check_terminal() -> Result<(), InputError> {
    let refuse = |field: &str, what: &str| {
        Err(InputError::new(
            field,
            format!("{what}: `espalier top --once` prints the rates of one interval, --json for programs"),
        ))
    };
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let what =
            "the screen needs one, and standard input or output is none (`kubectl exec -it` gives both)";
        return refuse("terminal", what);
    }
    match std::env::var("TERM") {
        Ok(term) if !term.is_empty() && term != "dumb" => Ok(()),
        Ok(term) if term == "dumb" => refuse("TERM", "dumb: this terminal cannot be drawn on"),
        _ => refuse("TERM", "not set: set it, for example to xterm"),
    }
}

/// The number of the last signal that asked the program to end, 0 before.
fn catch_signals() -> io::Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGINT, SIGTERM, SIGHUP] {
        let told = usize::try_from(number).unwrap_or_default();
        signal_hook::flag::register_usize(number, Arc::clone(&signal), told)?;
    }
    Ok(signal)
}

/// Asks the switch again and again; ends when nobody listens any more.
fn poll(global: Global, interval: Duration) -> Receiver<Polled> {
    let (samples, listener) = mpsc::sync_channel(1);
    thread::spawn(move || {
        loop {
            thread::sleep(interval);
            if samples.send(Sample::take(&global)).is_err() {
                return;
            }
        }
    });
    listener
}

/// What is pressed, and that the size has changed; an error is the last of it.
fn keys() -> Receiver<io::Result<Event>> {
    let (events, listener) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let event = event::read();
            let last = event.is_err();
            if events.send(event).is_err() || last {
                return;
            }
        }
    });
    listener
}

fn show(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    (samples, keys): (&Receiver<Polled>, &Receiver<io::Result<Event>>),
    signal: &AtomicUsize,
) -> Result<ExitCode, CliError> {
    let mut stale = true;
    loop {
        if stale {
            terminal.draw(|frame| draw::screen(frame, view))?;
        }
        let event = keys.recv_timeout(TICK);
        stale = event.is_ok();
        match event {
            Ok(event) => {
                if let Event::Key(key) = event?
                    && key.kind != KeyEventKind::Release
                {
                    view.press(key);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the terminal gives no keys any more").into());
            }
        }
        match samples.try_recv() {
            Ok(polled) => {
                view.take(polled);
                stale = true;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return Err(io::Error::other("nothing asks the switch any more").into());
            }
        }
        match signal.load(Ordering::Relaxed) {
            0 if view.is_over() => return Ok(ExitCode::SUCCESS),
            0 => {}
            number => return Ok(ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))),
        }
    }
}
