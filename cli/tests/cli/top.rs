//! `espalier top` in a real terminal (tmux) against a real switch: what is on the screen, keys, and every way out.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use espalier_lab::Lab;
use serde_json::Value;

use crate::lab::Name;
use crate::support::{ESPALIER, eventually, run};
use crate::terminal::on_a_terminal;

/// Datagrams that the rds scenario's rules deny.
const DENIED: u64 = 40;

/// A terminal of so many columns and lines; it and what runs in it go when this is dropped.
struct Screen {
    server: String,
}

impl Screen {
    /// Runs `top`, then says how it ended and whether the terminal echoes as before.
    fn top(socket: &str, columns: u16, lines: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = format!("espalier-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let screen = Self { server };
        let command = format!(
            "{ESPALIER} top --socket {socket} --interval 0.3; echo left with $?; stty -a | grep -ow -e '-\\?echo'; sleep 600"
        );
        let size = [columns, lines].map(|number| number.to_string());
        screen.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &size[0], "-y", &size[1], &command]);
        screen
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").arg("-L").arg(&self.server).args(arguments).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn shows(&self, wanted: &[&str]) {
        let mut text = String::new();
        let shown = espalier_lab::wait_for(std::time::Duration::from_secs(60), || {
            text = self.text();
            wanted.iter().all(|wanted| text.contains(wanted))
        });
        assert!(shown, "{wanted:?} not on the screen:\n{text}");
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Process id of `top`, the child of the shell.
    fn pid(&self) -> String {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap().trim().to_owned()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A test that failed already must not panic again on its way out.
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}

/// A lab whose pod `orders/report` has sent what no rule allows.
fn lab_with_drops() -> (Name, String) {
    let name = Name::new();
    assert_eq!(name.lab(&["up"]).code, 0);
    let lab = Lab::attach(&name.0.parse().unwrap()).unwrap();
    let send = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..DENIED).for_each(|_| assert_eq!(socket.send_to(b"x", "10.0.2.20:9").unwrap(), 1));
    };
    lab.namespace("orders/report").unwrap().run(send).unwrap();
    let socket = format!("{}/switch.sock", name.folder());
    eventually("the drops are counted", || {
        let once = run(["top", "--json", "--interval", "0.2", "--socket", &socket]);
        assert_eq!((once.code, once.stderr.as_str()), (0, ""));
        let rates: Value = serde_json::from_str(&once.stdout).unwrap();
        let drops = rates["drops"].as_array().unwrap();
        let denied = drops.iter().find(|drop| drop["reason"] == "denied-egress");
        denied.is_some_and(|denied| denied["total"] == DENIED && denied["mostBy"] == "orders/report")
    });
    (name, socket)
}

#[test]
fn top_shows_every_panel_takes_keys_and_leaves_the_terminal_as_it_was() {
    let (_name, socket) = lab_with_drops();
    let small = Screen::top(&socket, 80, 24);
    small.shows(&[
        "2 pods",
        "orders/api",
        "orders/report",
        "denied-egress",
        "sgr-report-to-cache",
        "running",
        "q quit  p pause  s sort",
    ]);
    assert!(small.text().lines().all(|line| line.chars().count() <= 80));
    small.press(&["/", "a", "p", "i", "Enter"]);
    small.shows(&["pods 1 with \"api\""]);
    // On its own: an escape with a letter right behind it is Alt and the letter.
    small.press(&["Escape"]);
    small.shows(&["pods 2"]);
    small.press(&["p"]);
    small.shows(&["PAUSED"]);
    small.press(&["p", "Tab", "Enter"]);
    eventually("the drops have the whole screen", || {
        let text = small.text();
        text.contains("MOSTLY") && !text.contains(" workers ") && !text.contains(" pods 2 ")
    });
    small.press(&["Enter"]);
    small.shows(&[" workers "]);
    small.press(&["?"]);
    small.shows(&["keys and columns"]);
    small.press(&["x"]);
    small.tmux(&["resize-window", "-x", "160", "-y", "50"]);
    small.shows(&["orders/report"]);
    eventually("the panels stand side by side", || {
        small.text().lines().any(|line| line.contains(" pods 2 ") && line.contains(" drops "))
    });
    small.press(&["q"]);
    small.shows(&["left with 0\necho"]);
    assert!(!small.text().contains("pods 2"), "the screen before is back:\n{}", small.text());
}

#[test]
fn a_signal_and_ctrl_c_put_the_terminal_back_too() {
    let (_name, socket) = lab_with_drops();
    let wide = Screen::top(&socket, 160, 50);
    wide.shows(&["orders/report", "denied-egress"]);
    let killed = Command::new("kill").args(["-TERM", &wide.pid()]).status().unwrap();
    assert!(killed.success());
    wide.shows(&["left with 143\necho"]);
    let other = Screen::top(&socket, 80, 24);
    other.shows(&["orders/report"]);
    other.press(&["C-c"]);
    other.shows(&["left with 0\necho"]);
}

#[test]
fn a_switch_that_goes_is_said_on_the_screen_and_its_numbers_stay() {
    let (name, socket) = lab_with_drops();
    let screen = Screen::top(&socket, 100, 30);
    screen.shows(&["orders/report"]);
    assert_eq!(name.lab(&["down"]).code, 0);
    screen.shows(&["no switch answers on this socket", "orders/report"]);
    screen.press(&["q"]);
    screen.shows(&["left with 0"]);
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let piped = run(["top", "--socket", "/nonexistent"]);
    assert_eq!((piped.code, piped.stdout.as_str()), (2, ""), "{piped:?}");
    assert!(piped.stderr.contains("`espalier top --once`"), "{piped:?}");
    let arguments = ["top", "--socket", "/nonexistent"].map(str::to_owned);
    let dumb = on_a_terminal(&arguments, 80, &[("TERM", "dumb")]);
    assert!(dumb.contains("TERM: dumb") && dumb.contains("--once"), "{dumb}");
    let absent = on_a_terminal(&arguments, 80, &[]);
    assert!(absent.contains("no switch answers on this socket"), "{absent}");
}

#[test]
fn top_ends_with_its_terminal() {
    let (_name, socket) = lab_with_drops();
    let screen = Screen::top(&socket, 80, 24);
    screen.shows(&["2 pods"]);
    let process = format!("/proc/{}", screen.pid());
    drop(screen);
    eventually("it has ended", || !std::path::Path::new(&process).exists());
}
