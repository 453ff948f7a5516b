//! Colour: on a terminal only, and never where `NO_COLOR` is set.

use std::process::Command;

use crate::support::{ESPALIER, Run, data, espalier};

const ESCAPE: char = '\u{1b}';

fn question() -> Vec<String> {
    let words = "explain shop/web-0 --egress --protocol tcp --port 1 --remote 10.0.0.1 --snapshot";
    words.split(' ').map(str::to_owned).chain([data("node.yaml").display().to_string()]).collect()
}

/// What a terminal of its own, this wide, shows (util-linux `script`).
pub(crate) fn on_a_terminal(arguments: &[String], columns: u16, variables: &[(&str, &str)]) -> String {
    let line = format!("stty cols {columns}; {ESPALIER} {}", arguments.join(" "));
    let mut command = Command::new("script");
    command.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_terminal_sees_colour_unless_no_color_is_set() {
    let coloured = on_a_terminal(&question(), 80, &[]);
    assert!(coloured.contains("deny") && coloured.contains(ESCAPE), "{coloured:?}");
    let plain = on_a_terminal(&question(), 80, &[("NO_COLOR", "1")]);
    assert!(plain.contains("deny") && !plain.contains(ESCAPE), "{plain:?}");
}

#[test]
fn a_pipe_sees_colour_only_when_it_is_forced() {
    let plain = Run::from(espalier().args(question()).output().unwrap());
    assert!(plain.stdout.starts_with("deny ") && !plain.stdout.contains(ESCAPE), "{plain:?}");
    let forced = Run::from(espalier().args(question()).env("CLICOLOR_FORCE", "1").output().unwrap());
    assert!(forced.stdout.contains(ESCAPE), "{forced:?}");
}
