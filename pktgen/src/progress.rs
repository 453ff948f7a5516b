//! A line on the terminal while a command runs: what went out, what came in, twice a second.
//!
//! Written to standard error, and only where that is a terminal: output for programs stays clean.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::Watch;
use crate::rate::scaled;
use crate::received::Shared;

const EVERY: Duration = Duration::from_millis(500);

/// The line's thread; it ends, and the line goes, when this is dropped.
#[derive(Debug)]
pub struct Progress {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the line is about.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The sender, if there is one here.
    pub sent: Option<Watch>,
    /// The receiver, if there is one here.
    pub received: Option<Arc<Shared>>,
}

impl Progress {
    /// Begins, unless `quiet` or standard error is no terminal.
    #[must_use]
    pub fn start(quiet: bool, shown: Shown) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self { end: None, thread: None };
        }
        let (end, ended) = channel();
        let begun = Instant::now();
        let work = move || {
            let (mut sent, mut received) = (0, 0);
            let mut then = begun;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(EVERY) {
                let seconds = then.elapsed().as_secs_f64();
                then = Instant::now();
                let mut line = format!("{:6.1} s", begun.elapsed().as_secs_f64());
                if let Some(watch) = &shown.sent {
                    line += &part("sent", watch.sent(), &mut sent, seconds);
                }
                if let Some(shared) = &shown.received {
                    line += &part("received", shared.lock().total(), &mut received, seconds);
                }
                // A terminal that is gone needs no line.
                let _ = write!(io::stderr(), "\r\x1b[K{line}");
            }
            let _ = write!(io::stderr(), "\r\x1b[K");
        };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(work).ok();
        Self { end: Some(end), thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A line that failed is no reason to fail.
            let _ = thread.join();
        }
    }
}

fn part(what: &str, total: u64, before: &mut u64, seconds: f64) -> String {
    let gain = total.saturating_sub(*before);
    *before = total;
    format!("   {what} {total} ({}pps)", scaled((gain as f64 / seconds).round()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_totals_and_the_rate_since_the_last() {
        let mut before = 1000;
        assert_eq!(part("sent", 51_000, &mut before, 0.5), "   sent 51000 (100kpps)");
        assert_eq!(before, 51_000);
        // Forgotten runs make totals smaller.
        assert_eq!(part("received", 0, &mut before, 0.5), "   received 0 (0pps)");
        drop(Progress::start(true, Shown::default()));
    }
}
