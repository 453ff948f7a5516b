//! What cannot be done is said, with the fix, and exit code 2.

use std::process::Command;

use crate::site::Site;

const ENDS: &str = "--src 10.0.0.1 --dst 10.1.0.1";

#[test]
fn bad_input_is_named_with_its_fix() {
    let site = Site::new(1500);
    for (line, words) in [
        (format!("send nosuch-{}:eth0 --receive BLUE {ENDS}", std::process::id()), "ip netns"),
        (format!("send RED --receive {}:eth7 {ENDS}", site.blue.name()), "no network interface \"eth7\""),
        (format!("send RED {ENDS}"), "--dst-mac is missing"),
        (format!("send RED --receive BLUE {ENDS} --size 64 --protocol tcp"), "use at least 72"),
        (format!("send RED --receive BLUE {ENDS} --size 1600"), "MTU is 1500"),
        (format!("send RED --receive BLUE {ENDS} --flows 100 --sport 5"), "--sport"),
        ("send RED --receive BLUE --src 10.0.0.1 --dst fd00::1".to_owned(), "no family in common"),
        (format!("send RED --receive BLUE {ENDS} --core 1023"), "cannot run on core 1023"),
        ("send RED --pcap /no/such/file".to_owned(), "/no/such/file"),
        ("send RED --pcap x --engine kernel".to_owned(), "af-xdp"),
        (format!("send RED --receive BLUE {ENDS} --rate fast"), "200kpps"),
        (format!("send RED --receive BLUE {ENDS} --vlan 5000"), "1 to 4094"),
        ("send RED --receive BLUE".to_owned(), "--src"),
        (format!("send RED {ENDS} --search"), "--receive"),
    ] {
        let said = site.run(&line);
        assert_eq!(said.code, 2, "{line}: {}", said.error);
        assert!(said.error.contains(words), "{line}: {}", said.error);
    }
    site.assert_clean();
}

#[test]
fn live_frames_that_nobody_takes_are_noticed() {
    let site = Site::new(1500);
    let said = site.run(&format!("send RED --engine kernel --dst-mac 02:00:00:00:00:02 {ENDS} --count 1000"));
    assert_eq!(said.code, 2, "{}", said.json);
    assert!(said.error.contains("gro on"), "{}", said.error);
}

#[test]
fn an_interface_with_a_program_is_left_as_it_is() {
    let site = Site::new(1500);
    let _sink = site.start_at_blue("sink BLUE --duration 60s");
    let said = site.run(&format!("send RED --receive BLUE {ENDS} --count 10"));
    assert_eq!(said.code, 2, "{}", said.json);
    assert!(said.error.contains("eth0"), "{}", said.error);
}

#[test]
fn help_shows_examples_and_exit_codes() {
    for command in ["send", "sink", "reflect"] {
        let output = Command::new(env!("CARGO_BIN_EXE_pktgen")).args([command, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && text.contains("Examples:") && text.contains("Exit codes:"),
            "{text}"
        );
        assert!(text.contains(&format!("pktgen {command} ")), "{text}");
    }
}
