//! Completions as bash has them, manual pages as mandoc reads them, and names that were nearly right.

use std::process::{Command, Stdio};

use crate::lab::Name;
use crate::support::{ESPALIER, data, espalier, run};

/// What bash offers for the last of these words.
fn completed(words: &[&str], socket: &str) -> Vec<String> {
    let script = r#"
        PATH="$(dirname "$1"):$PATH"; source <("$1" completions bash); shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_espalier espalier "${COMP_WORDS[COMP_CWORD]}" ""
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash", ESPALIER, "espalier"]).args(words).env("ESPALIER_SOCKET", socket);
    let output = bash.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn bash_completes_commands_flags_and_names_of_the_switch() {
    let name = Name::new();
    assert_eq!(name.lab(&["up"]).code, 0);
    let socket = format!("{}/switch.sock", name.folder());
    assert_eq!(completed(&["stat"], &socket), ["status"]);
    assert_eq!(completed(&["flows", "co"], &socket), ["count"]);
    assert_eq!(completed(&["status", "--output", "y"], &socket), ["yaml"]);
    assert_eq!(completed(&["rules", "orders/"], &socket), ["orders/api", "orders/report"]);
    assert_eq!(completed(&["flows", "--pod", "orders/r"], &socket), ["orders/report"]);
    assert_eq!(completed(&["groups", "sg-o"], &socket), ["sg-orders"]);
    assert!(!completed(&["rules", "orders/"], "/nonexistent").contains(&"orders/api".to_owned()));
}

#[test]
fn every_shell_gets_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let run = run(["completions", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{shell}");
        assert!(run.stdout.contains("ESPALIER_COMPLETE"), "{shell}: {}", run.stdout);
    }
    assert_eq!(run(["completions", "tcsh"]).code, 2);
}

#[test]
fn manual_pages_are_complete_and_without_fault() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let written = run(["man", "--dir", dir]);
    assert_eq!((written.code, written.stderr.as_str()), (0, ""));
    for page in ["espalier.1", "espalier-pods-move.1", "espalier-top.1"] {
        let path = folder.path().join(page);
        let output =
            Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("Examples:"), "{page}");
    }
    let page = run(["man"]).stdout;
    assert!(page.contains(".TH espalier 1"), "{page}");
    let nowhere = run(["man", "--dir", "/nonexistent"]);
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.stderr.starts_with("error: --dir: /nonexistent/espalier.1: "), "{}", nowhere.stderr);
}

#[test]
fn a_name_that_is_nearly_right_is_answered_with_the_right_one() {
    let snapshot = data("node.yaml").display().to_string();
    for (words, wanted) in [
        ("rules shop/wbe-0", "did you mean shop/web-0?"),
        ("groups sg-wbe", "did you mean sg-web?"),
        ("explain shop/db-1 --egress --protocol tcp --port 1 --remote 10.0.0.1", "did you mean shop/db-0?"),
        ("explain other/db-0 --egress --protocol tcp --port 1 --remote 10.0.0.1", "did you mean shop/db-0?"),
    ] {
        let refused = run(words.split(' ').chain(["--snapshot", &snapshot]));
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{words}");
        assert!(refused.stderr.trim_end().ends_with(wanted), "{words}: {}", refused.stderr);
    }
    let name = Name::new();
    assert_eq!(name.lab(&["up"]).code, 0);
    for words in
        ["pods orders/apo", "rules orders/apo", "flows --pod orders/apo", "pods move orders/apo --worker 0"]
    {
        let mut asked = espalier();
        asked.args(words.split(' ')).args(["--socket", &format!("{}/switch.sock", name.folder())]);
        let output = asked.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(said.trim_end().ends_with("did you mean orders/api?"), "{words}: {said}");
    }
}
