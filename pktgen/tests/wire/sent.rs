//! What is sent arrives: every kind of frame, through both engines, at the rate asked for.

use crate::site::{Site, until};

const MIX: &str = "--src 10.0.0.0/24,fd00::/120 --dst 10.1.0.1,fd01::1 --vlan 101-104 --flows 500 --protocol \
                   udp:7,tcp:2,icmp:1 --max-loss 0 --strict";
const PLAIN: &str = "--src 10.0.0.1 --dst 10.1.0.1 --max-loss 0 --strict";

#[test]
fn every_frame_of_a_mix_arrives_once_and_in_order() {
    let site = Site::new(1500);
    for engine in ["af-xdp", "kernel"] {
        let said = site.run(&format!(
            "send RED --receive BLUE --engine {engine} {MIX} --size imix --count 6000 --rate 10kpps"
        ));
        said.assert_all_came(6000);
        assert_eq!(said.number("/flows"), 500);
        assert!(said.number("/received/latency_ns/p50") >= said.number("/received/latency_ns/min"));
    }
    site.assert_clean();
}

#[test]
fn the_interface_counts_the_same_frames() {
    let site = Site::new(1500);
    let before = sent_by_interface(&site);
    let said = site.run(&format!("send RED --receive BLUE {PLAIN} --size 128 --count 3000 --rate 10kpps"));
    said.assert_all_came(3000);
    assert_eq!(said.number("/sent/bytes"), 3000 * 128);
    assert_eq!(sent_by_interface(&site) - before, 3000);
}

/// Packets sent by red's interface. Its bytes are no witness: a veth counts them without the Ethernet header while
/// there is a program at its peer.
fn sent_by_interface(site: &Site) -> u64 {
    let table = site.red.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

#[test]
fn generic_mode_takes_in_the_same_frames() {
    let site = Site::new(1500);
    let said = site
        .run(&format!("send RED --receive BLUE {MIX} --size imix --count 2000 --rate 5kpps --xdp generic"));
    said.assert_all_came(2000);
}

#[test]
fn every_queue_is_taken_in() {
    let site = Site::with_queues(1500, 2);
    for queue in [0, 1] {
        let said = site.run(&format!(
            "send RED --receive BLUE {PLAIN} --size 100 --count 1000 --rate 5kpps --queue {queue}"
        ));
        said.assert_all_came(1000);
    }
}

#[test]
fn an_interrupted_run_reports_what_it_did() {
    let site = Site::new(1500);
    for engine in ["af-xdp", "kernel"] {
        let running = site.start_at_blue(&format!(
            "send RED --receive BLUE --engine {engine} {PLAIN} --rate 2kpps --duration 60s"
        ));
        running.interrupt();
        let said = running.finish();
        said.assert_all_came(said.number("/sent/frames"));
        assert!(said.float("/sent/seconds") < 60.0);
        until("the program to be gone", || site.is_clean());
    }
}

#[test]
fn an_interface_that_goes_down_ends_the_run() {
    let site = Site::new(1500);
    let running = site.start_at_blue(&format!("send RED --receive BLUE {PLAIN} --rate 1kpps --duration 60s"));
    site.red.ip("link set eth0 down").unwrap();
    let said = running.finish();
    assert_eq!(said.code, 2, "{}", said.json);
    assert!(said.error.contains("eth0"), "{}", said.error);
    site.assert_clean();
}

#[test]
fn jumbo_frames_leave_in_several_segments() {
    let site = Site::new(9001);
    let said = site.run(&format!("send RED --receive BLUE {PLAIN} --size 9000 --count 500 --rate 2kpps"));
    said.assert_all_came(500);
}

#[test]
fn as_fast_as_it_goes_the_account_still_balances() {
    let site = Site::new(1500);
    for engine in ["af-xdp", "kernel"] {
        let line = format!(
            "send RED --receive BLUE --engine {engine} --src 10.0.0.1 --dst 10.1.0.1 --duration 300ms"
        );
        let said = site.run(&line);
        let [frames, unique, lost, duplicates, reordered, late] = said.account("/received");
        assert_eq!((said.code, duplicates, reordered, late), (0, 0, 0, 0), "{} {}", said.json, said.error);
        assert_eq!((frames, unique + lost), (unique, said.number("/sent/frames")));
        assert!(unique > 0);
    }
}

#[test]
fn a_rate_is_not_exceeded() {
    let site = Site::new(1500);
    for engine in ["af-xdp", "kernel"] {
        for rate in ["2kpps", "1024kbps"] {
            // At 64 bytes both are 2000 frames a second; a pause makes up for one millisecond only.
            let said = site
                .run(&format!("send RED --receive BLUE --engine {engine} {PLAIN} --count 600 --rate {rate}"));
            said.assert_all_came(600);
            let seconds = said.float("/sent/seconds");
            assert!(seconds >= 599.0 / 2000.0 - 0.002, "600 frames at {rate} in {seconds} s");
        }
    }
}

#[test]
fn without_a_receiver_frames_go_to_whoever_is_there() {
    let site = Site::new(1500);
    let sink = site.start_at_blue("sink BLUE --count 2000 --duration 60s --strict");
    let said = site.run(
        "send RED --dst-mac 02:00:00:00:00:02 --src 10.0.0.1 --dst 10.1.0.1 --size 100 --flows 7 --count 2000 --rate 5kpps",
    );
    assert_eq!((said.code, said.number("/sent/frames")), (0, 2000), "{}", said.error);
    assert!(said.json.get("received").is_none());
    let sink = sink.finish();
    assert_eq!(sink.code, 0, "{} {}", sink.json, sink.error);
    assert_eq!(sink.account("/runs/0"), [2000, 2000, 0, 0, 0, 0]);
    assert_eq!(sink.json["runs"].as_array().unwrap().len(), 1);
    site.assert_clean();
}

#[test]
fn the_same_seed_sends_the_same_frames() {
    let site = Site::new(1500);
    let bytes = |seed: u32| {
        let line =
            format!("send RED --receive BLUE {MIX} --size imix --count 700 --rate 10kpps --seed {seed}");
        site.run(&line).number("/sent/bytes")
    };
    let first = bytes(1);
    assert_eq!(first, bytes(1));
    // 700 of 1500 entries in another order: the sum is another one.
    assert_ne!(first, bytes(2));
}
