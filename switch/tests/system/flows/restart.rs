//! Flows outlive the switch: killed under the traffic of many connections, it goes on with all of them.
//!
//! The rules that let the connections begin are gone before the kill, so nothing but the state file carries them on.
//! `ESPALIER_LIVE_CONNECTIONS` runs it with another number of them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use espalier_api::flows::FlowState;
use espalier_api::snapshot::OnRuleChange;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;

use super::{all_in, count, log_of, scenario, seen, without};
use crate::site::{PATIENCE, POD_A, Site, growth, wait_for};
use crate::traffic::{connection, converses};

mod crowd;

use crowd::Crowd;

/// Two descriptors each; some systems allow a process no more than 20,000.
const CONNECTIONS: usize = 9500;
const PORT: u16 = 8080;

/// TCP comes in to [`PORT`], and to those above by another rule; it may not go out, or it would begin flows of its own.
fn rules() -> espalier_lab::Scenario {
    scenario(&[
        "IpProtocol: tcp, FromPort: 8080, ToPort: 8080",
        "IpProtocol: tcp, FromPort: 8081, ToPort: 8199",
        "IsEgress: true, IpProtocol: udp, FromPort: 0, ToPort: 65535",
    ])
}

#[test]
fn killed_under_the_traffic_of_many_connections_it_resets_none() {
    let connections =
        std::env::var("ESPALIER_LIVE_CONNECTIONS").map_or(CONNECTIONS, |text| text.parse().unwrap());
    allow_descriptors(2 * connections as u64 + 100);
    let mut site = Site::up(rules());
    let crowd = Crowd::connect(&site, "far", "t/a", &format!("{POD_A}:{PORT}"), connections).start();
    without_rules(&mut site);
    assert!(
        wait_for_all(|| crowd.slowest() >= 3),
        "{} exchanges, the slowest connection has {}; resets: {}; {:?}",
        crowd.exchanges(),
        crowd.slowest(),
        crowd.resets(),
        site.status()
    );
    let wanted = connections as u64;
    let established = |site: &Site| count(site, &json!({"port": PORT, "state": "established"})).flows;
    assert_eq!(established(&site), wanted);
    wait_until_written(&site);

    let before = (crowd.exchanges(), site.pod("t/a").counters.ingress_dropped);
    let killed = Instant::now();
    site.end(Signal::KILL);
    site.start_switch_again(&[]);
    let answers = killed.elapsed();
    site.apply_snapshot();
    let applied = killed.elapsed();
    assert_eq!(established(&site), wanted, "restored\n{}", log_of(&site));
    let round = crowd.slowest() + 1;
    let all_go_on = wait_for_all(|| crowd.resets() > 0 || crowd.slowest() > round);
    let all = killed.elapsed();
    let still = established(&site);
    let report = crowd.stop();
    let dropped = growth(&Default::default(), &site.pod("t/a").counters.ingress_dropped);
    println!(
        "{connections} connections, {} exchanges before the kill: the switch answers after {} ms, enforces after {} ms; \
         nothing was exchanged for {} ms; every connection had gone on after {} ms; resets: {}; dropped before {:?}, \
         since {dropped:?}\n{}",
        before.0,
        answers.as_millis(),
        applied.as_millis(),
        report.longest_pause.as_millis(),
        all.as_millis(),
        report.resets,
        before.1,
        restored_line(&site)
    );
    assert_eq!(report.resets, 0);
    assert!(all_go_on, "the slowest connection stands at {} of {round}", report.slowest);
    assert_eq!(still, wanted);
    assert_eq!(dropped.get("denied-ingress"), None, "packets were judged before the flows were back");
    site.assert_balanced();
}

/// Thousands of connections take their time where other tests run beside.
fn wait_for_all(holds: impl FnMut() -> bool) -> bool {
    espalier_lab::wait_for(4 * PATIENCE, holds)
}

/// Each connection has two ends here.
fn allow_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let fits = limit.maximum.is_none_or(|maximum| wanted <= maximum);
    assert!(
        fits,
        "{wanted} descriptors are wanted and {limit:?} allowed: raise the hard limit or ask for less"
    );
    setrlimit(Resource::Nofile, Rlimit { current: limit.current.map(|now| now.max(wanted)), ..limit })
        .unwrap();
}

fn without_rules(site: &mut Site) {
    site.change(|snapshot| {
        without(snapshot, "sgr-0-4");
        without(snapshot, "sgr-0-6");
    });
}

/// A crash may lose the flows of the last second.
fn wait_until_written(site: &Site) {
    let file = state_file(site);
    assert!(wait_for(|| file.exists()));
    std::thread::sleep(Duration::from_millis(1500));
}

fn state_file(site: &Site) -> PathBuf {
    site.control().socket().with_extension("flows")
}

fn restored_line(site: &Site) -> String {
    let log = log_of(site);
    log.lines().find(|line| line.contains("flows of the earlier switch")).unwrap_or_default().to_owned()
}

#[test]
fn what_was_sent_in_vain_is_sent_again() {
    let mut site = Site::up(rules());
    let (far, a) = (site.namespace("far").unwrap(), site.namespace("t/a").unwrap());
    let (mut near, mut other) = connection(far, a, &format!("{POD_A}:{PORT}")).unwrap();
    assert!(converses(&mut near, &mut other));
    without_rules(&mut site);
    wait_until_written(&site);
    site.end(Signal::KILL);
    near.write_all(b"hello").unwrap();
    other.write_all(b"hello").unwrap();
    site.start_switch_again(&[]);
    site.apply_snapshot();
    for end in [&mut near, &mut other] {
        let mut received = [0; 5];
        std::io::Read::read_exact(end, &mut received).unwrap();
        assert_eq!(&received, b"hello");
    }
    assert!(converses(&mut near, &mut other));
    assert!(all_in(&site, PORT, FlowState::Established), "{:?}", seen(&site, PORT));
    site.assert_balanced();
}

#[test]
fn a_flow_whose_rule_went_meanwhile_is_not_revived_where_the_pod_revokes() {
    let mut site = Site::up(rules());
    site.change(|snapshot| snapshot.pods[0].on_rule_change = OnRuleChange::Revoke);
    let (far, a) = (site.namespace("far").unwrap(), site.namespace("t/a").unwrap());
    let (mut near, mut other) = connection(far, a, &format!("{POD_A}:{PORT}")).unwrap();
    let (mut kept, mut kept_other) = connection(far, a, &format!("{POD_A}:{}", PORT + 1)).unwrap();
    assert!(converses(&mut near, &mut other) && converses(&mut kept, &mut kept_other));
    wait_until_written(&site);
    site.end(Signal::KILL);
    site.start_switch_again(&[]);
    without_rules(&mut site);
    assert!(converses(&mut kept, &mut kept_other), "the rule of this one is still there");
    near.write_all(b"no more").unwrap();
    other.write_all(b"no more").unwrap();
    let dropped = || site.pod("t/a").counters;
    let refused = |reasons: &std::collections::BTreeMap<String, u64>| {
        let counts = ["flow-revoked", "denied-ingress", "denied-egress"]
            .map(|reason| reasons.get(reason).unwrap_or(&0));
        counts.into_iter().sum::<u64>() >= 2
    };
    assert!(
        wait_for(|| refused(&dropped().ingress_dropped) && refused(&dropped().egress_dropped)),
        "{:?}",
        dropped()
    );
    for end in [&mut near, &mut other] {
        end.set_nonblocking(true).unwrap();
        assert!(std::io::Read::read(end, &mut [0; 64]).is_err(), "bytes of a revoked connection arrived");
    }
    assert!(converses(&mut kept, &mut kept_other));
    site.assert_balanced();
}

/// Makes a state file unusable.
type Spoil = fn(&Path);

#[test]
fn an_unusable_state_file_is_warned_about_and_left_out() {
    let mut site = Site::up(rules());
    let spoil: [(&str, Spoil, &str); 5] = [
        (
            "truncated",
            |file| fs::File::options().write(true).open(file).unwrap().set_len(100_000).unwrap(),
            "bytes long",
        ),
        (
            "foreign",
            |file| {
                fs::write(file, "#!/bin/sh\necho no flows here, but a script of some length\n".repeat(99))
                    .unwrap()
            },
            "no flow state file",
        ),
        ("empty", |file| fs::write(file, "").unwrap(), "no flow state file"),
        ("its header damaged", |file| overwrite(file, 24, &[0xa5; 8]), "damaged"),
        ("of another release", |file| overwrite(file, 8, &[0xee; 4]), "version"),
    ];
    for (index, (what, spoil, wanted)) in spoil.into_iter().enumerate() {
        let (far, a) = (site.namespace("far").unwrap(), site.namespace("t/a").unwrap());
        let (mut near, mut other) =
            connection(far, a, &format!("{POD_A}:{}", PORT + 2 * index as u16)).unwrap();
        assert!(converses(&mut near, &mut other));
        wait_until_written(&site);
        site.end(Signal::KILL);
        spoil(&state_file(&site));
        site.start_switch_again(&[]);
        site.apply_snapshot();
        let log = log_of(&site);
        let warned = log.lines().any(|line| line.contains("WARN") && line.contains(wanted));
        assert!(warned, "{what}: no warning that says {wanted:?}\n{log}");
        assert_eq!(restored_line(&site), "", "{what}");
        let (far, a) = (site.namespace("far").unwrap(), site.namespace("t/a").unwrap());
        let (mut near, mut other) =
            connection(far, a, &format!("{POD_A}:{}", PORT + 2 * index as u16 + 1)).unwrap();
        assert!(converses(&mut near, &mut other), "{what}, round {index}");
    }
    site.assert_balanced();
}

#[test]
fn a_damaged_record_costs_its_own_flow_only() {
    let mut site = Site::up(rules());
    let (far, a) = (site.namespace("far").unwrap(), site.namespace("t/a").unwrap());
    let mut open: Vec<_> =
        (0..8).map(|index| connection(far, a, &format!("{POD_A}:{}", PORT + index)).unwrap()).collect();
    assert!(open.iter_mut().all(|(near, other)| converses(near, other)));
    wait_until_written(&site);
    site.end(Signal::KILL);
    let file = state_file(&site);
    let (at, record) = first_record(&file);
    overwrite(&file, at, &record.map(|byte| byte ^ 0x10));
    site.start_switch_again(&[]);
    site.apply_snapshot();
    let line = restored_line(&site);
    assert!(line.contains("restored=7") && line.contains("damaged=1"), "{line}");
    assert_eq!(count(&site, &json!({"pod": "t/a", "protocol": "tcp"})).flows, 7);
    site.assert_balanced();
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

/// The first record of an IPv4 flow that holds [`POD_A`], and its bytes from that address on.
fn first_record(file: &Path) -> (u64, [u8; 4]) {
    let octets = POD_A.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let bytes = fs::read(file).unwrap();
    let position = |octets: [u8; 4]| bytes.windows(4).position(|window| window == octets);
    let mut reversed = octets;
    reversed.reverse();
    let at = position(octets).or_else(|| position(reversed)).unwrap();
    (at as u64, bytes[at..at + 4].try_into().unwrap())
}
