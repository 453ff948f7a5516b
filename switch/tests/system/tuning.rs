//! `--pod-tuning` as the kernel sees it: each knob at both ends of the veth, at attach, at detach, after ends of all kinds.

use std::fs;
use std::process::Command;

use espalier_api::control::PodTuning;
use espalier_lab::Scenario;
use rustix::process::Signal;

use crate::site::{FAR, OPEN, POD_A, SWITCH, Site, wait_for};
use crate::traffic::{answers, udp_echo};

const ALL: &str = "gro,threaded-napi,qdisc,no-tx-checksum";

/// What can be tuned at a pod's veth.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ends {
    gro: bool,
    host_tso: bool,
    threaded: String,
    qdisc: String,
    tx_checksum: bool,
}

#[test]
fn every_knob_is_turned_at_attach_and_back_at_detach_and_at_the_end() {
    let (mut site, before) = tuned(ALL);
    assert_eq!(before, untouched());
    let kind = kind_of_queue(&site);
    let tuned = Ends {
        gro: true,
        host_tso: false,
        threaded: "1".to_owned(),
        qdisc: kind.clone(),
        tx_checksum: false,
    };
    assert_eq!([ends(&site, 0), ends(&site, 1)], [tuned.clone(), tuned.clone()]);
    let names = ["gro", "threaded-napi", &format!("qdisc {kind}"), "no-tx-checksum"].map(str::to_owned);
    assert_eq!(site.pod("t/a").tuning, PodTuning { applied: names.to_vec(), untuned: None });
    carries(&site);

    site.change(|snapshot| drop(snapshot.pods.pop()));
    assert_eq!([ends(&site, 0), ends(&site, 1)], [tuned.clone(), before.clone()]);
    assert_eq!(site.end(Signal::TERM).code(), Some(0));
    assert_eq!(ends(&site, 0), before);
    assert!(!record(&site).exists());
}

#[test]
fn each_knob_alone_turns_nothing_else() {
    let kind = kind_of_queue(&tuned("qdisc").0);
    let changed = |change: fn(&mut Ends)| {
        let mut ends = untouched();
        change(&mut ends);
        ends
    };
    let with_gro = |ends: &mut Ends| (ends.gro, ends.host_tso) = (true, false);
    let mut threaded = changed(with_gro);
    threaded.threaded = "1".to_owned();
    for (setting, wanted) in [
        ("gro", changed(with_gro)),
        ("gro,threaded-napi", threaded),
        ("qdisc", Ends { qdisc: kind.clone(), ..untouched() }),
        ("no-tx-checksum", changed(|ends| ends.tx_checksum = false)),
        ("off", untouched()),
    ] {
        let (mut site, _) = tuned(setting);
        assert_eq!(ends(&site, 0), wanted, "{setting}");
        assert_eq!(record(&site).exists(), setting != "off");
        carries(&site);
        assert_eq!(site.end(Signal::TERM).code(), Some(0));
        assert_eq!(ends(&site, 0), untouched(), "{setting}");
    }
}

#[test]
fn after_a_kill_the_pods_own_values_are_still_known() {
    let (mut site, before) = tuned(ALL);
    let tuned = ends(&site, 0);
    site.end(Signal::KILL);
    assert_eq!(ends(&site, 0), tuned);

    site.start_switch_again(&["--pod-tuning", ALL]);
    site.apply_snapshot();
    assert_eq!(ends(&site, 0), tuned);
    assert_eq!(site.end(Signal::TERM).code(), Some(0));
    assert_eq!(ends(&site, 0), before);
}

#[test]
fn after_a_kill_a_switch_that_tunes_nothing_and_unpin_put_all_back() {
    let (mut site, before) = tuned(ALL);
    site.end(Signal::KILL);
    site.start_switch_again(&["--pod-tuning", "off"]);
    assert!(wait_for(|| ends(&site, 0) == before && ends(&site, 1) == before));
    site.end(Signal::TERM);

    site.start_switch_again(&["--pod-tuning", ALL]);
    site.apply_snapshot();
    site.end(Signal::KILL);
    assert_ne!(ends(&site, 0), before);
    let socket = site.control().socket();
    let mut unpin = Command::new(SWITCH);
    unpin.arg("--socket").arg(socket).arg("--pin-dir").arg(socket.with_file_name("bpf")).arg("--unpin");
    let output = site.namespace("node").unwrap().output(&mut unpin).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(ends(&site, 0), before);
}

#[test]
fn a_pod_without_a_namespace_runs_untuned_and_is_a_problem_only_where_tuning_was_asked_for() {
    for (setting, warnings) in [("qdisc", 2), ("auto", 0)] {
        let site = plain(setting);
        let applied = site.control().apply(&site.snapshot).unwrap();
        assert_eq!(applied.warnings.len(), warnings, "{:?}", applied.warnings);
        assert!(
            applied.warnings.iter().all(|warning| warning.contains("not tuned") && warning.contains("netns"))
        );
        assert_eq!(site.status().problems.len(), warnings);
        assert!(site.pod("t/a").tuning.untuned.unwrap().contains("netns"));
        assert_eq!(ends(&site, 0), untouched());
        carries(&site);
    }
}

#[test]
fn a_pods_own_settings_are_left_to_it() {
    let mut site = idle(ALL);
    let pod = site.namespace("t/a").unwrap();
    pod.tc("qdisc add dev eth0 root pfifo limit 77").unwrap();
    pod.offload("eth0", "tx off gro on").unwrap();
    site.apply_snapshot();
    assert_eq!((ends(&site, 0).qdisc.as_str(), ends(&site, 0).threaded.as_str()), ("pfifo", "1"));
    assert_eq!(site.end(Signal::TERM).code(), Some(0));
    let own = Ends { gro: true, tx_checksum: false, qdisc: "pfifo".to_owned(), ..untouched() };
    assert_eq!(ends(&site, 0), own);
}

#[test]
fn receiving_threads_stay_off_the_workers_cores() {
    let mut site = Site::with_queues(
        Scenario::parse(OPEN).unwrap(),
        None,
        1,
        &["--workers", "1", "--cores", "1", "--pod-tuning", "gro,threaded-napi"],
    );
    site.name_by_namespace();
    let before = threads();
    site.apply_snapshot();
    // Other tests attach pods at the same time: at least two of the new threads are ours, and they are pinned.
    let off_the_worker =
        |status: &str| !status.lines().any(|line| line.starts_with("Cpus_allowed_list:") && allows(line, 1));
    let ours = threads().into_iter().filter(|thread| !before.contains(thread));
    let pinned = ours.filter_map(|thread| fs::read_to_string(format!("/proc/{thread}/status")).ok());
    assert!(pinned.filter(|status| off_the_worker(status)).count() >= 2);
    carries(&site);
}

/// Whether a list of cores as the kernel writes it has this one.
fn allows(line: &str, core: u32) -> bool {
    let list = line.split_whitespace().nth(1).unwrap();
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        (first.parse().unwrap()..=last.parse().unwrap()).contains(&core)
    })
}

/// Kernel threads that receive for interfaces of this name, anybody's.
fn threads() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let receives = |id: &u32| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("napi/eth0-"))
    };
    ids.filter(receives).collect()
}

/// A lab with a switch of this setting. Its pods' veths are as a container runtime makes them, without the lab's queue.
fn plain(setting: &str) -> Site {
    let site = Site::idle(Scenario::parse(OPEN).unwrap(), None, &["--pod-tuning", setting]);
    for pod in ["t/a", "t/b"] {
        site.namespace(pod).unwrap().tc("qdisc del dev eth0 root").unwrap();
    }
    site
}

/// The same, and the snapshot names the pods' namespaces.
fn idle(setting: &str) -> Site {
    let mut site = plain(setting);
    site.name_by_namespace();
    site
}

/// The same with the pods attached, and how the first pod's veth was before.
fn tuned(setting: &str) -> (Site, Ends) {
    let site = idle(setting);
    let before = ends(&site, 0);
    site.apply_snapshot();
    (site, before)
}

/// A veth as the kernel makes it.
fn untouched() -> Ends {
    Ends {
        gro: false,
        host_tso: true,
        threaded: "0".to_owned(),
        qdisc: "noqueue".to_owned(),
        tx_checksum: true,
    }
}

fn ends(site: &Site, pod: usize) -> Ends {
    let name = &site.scenario().pods[pod].name;
    let (namespace, node) = (site.namespace(name.as_str()).unwrap(), site.namespace("node").unwrap());
    let feature = |namespace: &espalier_lab::netns::NetNs, interface: &str, feature: &str| {
        let output = namespace.output(Command::new("ethtool").args(["-k", interface])).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(feature)?.strip_prefix(": "));
        line.unwrap().starts_with("on")
    };
    let shown = namespace.ip_show("-o link show dev eth0").unwrap();
    Ends {
        gro: feature(namespace, "eth0", "generic-receive-offload"),
        host_tso: feature(node, &site.scenario().host_veth(pod), "tx-tcp-segmentation"),
        threaded: namespace.with_sysfs("cat /sys/class/net/eth0/threaded").unwrap(),
        qdisc: shown.split_whitespace().skip_while(|word| *word != "qdisc").nth(1).unwrap().to_owned(),
        tx_checksum: feature(namespace, "eth0", "tx-checksumming"),
    }
}

/// The queue that this kernel has.
fn kind_of_queue(site: &Site) -> String {
    let kind = ends(site, 0).qdisc;
    assert!(["fq_codel", "pfifo_fast"].contains(&kind.as_str()), "{kind}");
    kind
}

fn record(site: &Site) -> std::path::PathBuf {
    site.control().socket().with_extension("tuning")
}

/// Datagrams go both ways.
fn carries(site: &Site) {
    let (pod, far) = (site.namespace("t/a").unwrap(), site.namespace("far").unwrap());
    let _echo = [udp_echo(pod, &format!("{POD_A}:7")), udp_echo(far, &format!("{FAR}:7"))];
    assert!(answers(pod, "0.0.0.0:0", &format!("{FAR}:7"), b"out"));
    assert!(answers(far, "0.0.0.0:0", &format!("{POD_A}:7"), b"in"));
}
