//! `--help` of every command shows an example and its defaults; bad usage is told apart from bad luck.

use crate::support::{run, squeezed};

/// Every command with what `--help` prints of it, the program itself first, those below a command after it.
pub(crate) fn helps() -> Vec<(Vec<String>, String)> {
    let mut waiting = vec![vec![]];
    let mut helps = Vec::new();
    while let Some(path) = waiting.pop() {
        let help = run(path.iter().map(String::as_str).chain(["--help"]));
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{path:?}");
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let below = commands(&names).into_iter().rev();
        waiting.extend(below.map(|name| [path.as_slice(), &[name]].concat()));
        helps.push((path, help.stdout));
    }
    helps
}

/// Names of the commands, as the help of `path` lists them.
fn commands(path: &[&str]) -> Vec<String> {
    let help = run(path.iter().copied().chain(["--help"])).stdout;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_shows_an_example() {
    let helps = helps();
    assert!(helps.len() >= 20, "only {} commands were found", helps.len());
    for (path, help) in helps {
        assert!(help.contains("Examples:\n  "), "{path:?} has no example:\n{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{path:?}:\n{help}");
    }
}

#[test]
fn the_defaults_are_shown() {
    let help = squeezed(&run(["status", "--help"]).stdout);
    assert!(help.contains("[default: /run/espalier/switch.sock]"), "{help}");
    assert!(help.contains("[env: ESPALIER_SOCKET"), "{help}");
    assert!(help.contains("[default: 30]"), "{help}");
}

#[test]
fn bad_usage_exits_2_and_says_what_is_wanted() {
    let packet = ["--egress", "--remote", "10.0.0.1"];
    let explain = |more: &[&'static str]| [&["explain", "shop/web-0"], &packet[..], more].concat();
    for (args, wanted) in [
        (vec![], "Usage:"),
        (vec!["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (vec!["apply"], "<FILE>"),
        (vec!["rules", "web-0"], "expected namespace/name"),
        (vec!["groups", "web"], "expected sg-"),
        (vec!["status", "--timeout", "0"], "0 is not in 1..=3600"),
        (explain(&["--protocol", "tpc", "--port", "1"]), "expected tcp, udp, icmp, icmpv6 or a number"),
        (explain(&["--protocol", "tcp", "--port", "65536"]), "65536 is not in 0..=65535"),
        (explain(&["--protocol", "tcp", "--port", "1", "--ingress"]), "cannot be used with"),
        (explain(&[]), "--protocol"),
        (vec!["explain", "--queries", "q", "shop/web-0"], "cannot be used with"),
    ] {
        let run = run(&args);
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
        assert!(run.stderr.contains(wanted), "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
    }
}
