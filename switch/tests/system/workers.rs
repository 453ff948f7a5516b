//! Several workers: pods on different ones, packets handed over between them, pods that move while they are used, and a
//! restart with another number. Run with four workers, and where the whole suite runs with two, with two.

use std::process::Command;
use std::time::{Duration, Instant};

use espalier_api::control::{Status, WorkerState};
use espalier_lab::Scenario;
use espalier_lab::netns::NetNs;
use rustix::process::Signal;

use crate::flows::{WAYS, at, marked};
use crate::live::{ONLY_UDP, TCP, scenario};
use crate::process::watched_ports;
use crate::site::{FAR, OPEN, POD_A, POD_B, Site, WORKERS, is_at_rest, wait_for};
use crate::traffic::{Running, answers, carries, connection, converses, steady, transfer, udp, udp_echo};

mod moves;

/// Workers here, and queues of the trunk.
const SEVERAL: u16 = if WORKERS == 1 { 4 } else { 2 };

/// [`OPEN`], enforced by several workers.
fn several(mtu: Option<u32>) -> Site {
    let workers = SEVERAL.to_string();
    let scenario = Scenario::parse(OPEN).unwrap();
    let site = Site::with_queues(scenario, mtu, SEVERAL, &["--workers", &workers]);
    site.apply_snapshot();
    assert_ne!(site.pod("t/a").worker, site.pod("t/b").worker, "the least loaded worker is chosen");
    site
}

/// Nothing is under way, and what some workers handed out others took.
#[track_caller]
fn assert_handed_over(site: &Site) -> Status {
    let status = site.assert_balanced();
    let (out, taken) = (status.counters.handed_out, status.counters.handed_in);
    assert!(out > 0 && out == taken, "{out} handed out, {taken} taken");
    assert!(status.workers.iter().all(|worker| worker.state == WorkerState::Running), "{:?}", status.workers);
    assert_eq!(status.problems, Vec::<String>::new());
    status
}

#[test]
fn busy_ports_leave_epoll_and_idle_ones_wait_there() {
    let mut site = Site::with_queues(Scenario::parse(OPEN).unwrap(), None, 1, &["--workers", "1"]);
    site.apply_snapshot();
    let process = site.switch_process().unwrap().id();
    assert!(wait_for(|| watched_ports(process) == 3), "the trunk and two pods");
    // Pod a's port only receives, the trunk's only sends, but for a few errors.
    let noise = flood(site.namespace("t/a").unwrap(), &format!("{FAR}:9"), 4096);
    assert!(wait_for(|| watched_ports(process) == 1), "{} are watched", watched_ports(process));
    noise.stop();
    assert!(wait_for(|| watched_ports(process) == 3), "{} are watched", watched_ports(process));
    let to = format!("{POD_B}:7");
    let _echo = udp_echo(site.namespace("t/b").unwrap(), &to);
    assert!(answers(site.namespace("far").unwrap(), "0.0.0.0:0", &to, b"after"));
    site.assert_balanced();
}

#[test]
fn each_worker_has_queues_and_all_carry_traffic() {
    let site = several(None);
    let status = site.status();
    assert_eq!(status.trunk.unwrap().queues, usize::from(SEVERAL));
    let served: Vec<_> = status.workers.iter().map(|worker| worker.trunk_queues.clone()).collect();
    assert_eq!(served, (0..u32::from(SEVERAL)).map(|queue| vec![queue]).collect::<Vec<_>>());
    // Ports differ, so the VPC's end spreads the flows: what comes on a queue whose worker is not pod a's is handed over.
    let to = format!("{POD_A}:7");
    let _echo = udp_echo(site.namespace("t/a").unwrap(), &to);
    for _ in 0..16 * SEVERAL {
        assert!(answers(site.namespace("far").unwrap(), "0.0.0.0:0", &to, b"spread"));
    }
    let status = assert_handed_over(&site);
    for worker in &status.workers {
        assert!(worker.counters.rx > 0, "no flow came to worker {}", worker.worker);
    }
}

#[test]
fn all_kinds_of_packets_cross_between_workers() {
    all_kinds(several(None));
}

#[test]
fn jumbo_packets_cross_between_workers() {
    all_kinds(several(Some(9001)));
}

/// TCP, UDP whole and in fragments, and ICMP, in both families, in every direction.
fn all_kinds(site: Site) {
    for (index, (from, to, address)) in WAYS.into_iter().enumerate() {
        let (from, to) = (site.namespace(from).unwrap(), site.namespace(to).unwrap());
        let port = 8100 + index as u16;
        let (near, far) = connection(from, to, &at(address, port)).unwrap();
        transfer(near, far, 3_000_000);
        let (near, far) = connection(from, to, &at(address, port + 100)).unwrap();
        transfer(far, near, 3_000_000);
        let _echo = udp_echo(to, &at(address, port));
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        for length in [0, 100, 1472, 30_000] {
            let datagram = marked(length, index);
            assert!(echoes(from, any, &at(address, port), &datagram), "{length} bytes to {address}");
        }
        let ping =
            from.output(Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "20", address])).unwrap();
        assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
    }
    let status = assert_handed_over(&site);
    assert!(is_at_rest(&status.frames), "{:?}", status.frames);
}

/// Whether a datagram of any length comes back.
fn echoes(from: &NetNs, local: &str, to: &str, datagram: &[u8]) -> bool {
    let socket = udp(from, local, Duration::from_millis(500));
    let mut buffer = vec![0; 1 << 16];
    wait_for(|| {
        let _ = socket.send_to(datagram, to);
        socket.recv_from(&mut buffer).is_ok_and(|(length, _)| buffer[..length] == *datagram)
    })
}

#[test]
fn more_workers_than_queues_are_refused_with_the_way_out() {
    let site = Site::with_queues(Scenario::parse(OPEN).unwrap(), None, 1, &["--workers", "2"]);
    let error = site.control().apply(&site.snapshot).unwrap_err().to_string();
    for word in ["trunk.interface", "1 queues", "2 workers", "ethtool -L trunk0", "--workers 1"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert_eq!((site.status().generation, site.status().workers.len()), (None, 0));
    site.namespace("node").unwrap().ip("link show trunk0").unwrap();
}

#[test]
fn fewer_workers_than_queues_serve_them_all() {
    let site = Site::with_queues(Scenario::parse(OPEN).unwrap(), None, 3, &["--workers", "2"]);
    site.apply_snapshot();
    let served: Vec<_> = site.status().workers.iter().map(|worker| worker.trunk_queues.clone()).collect();
    assert_eq!(served, [vec![0, 2], vec![1]]);
    let to = format!("{POD_A}:7");
    let _echo = udp_echo(site.namespace("t/a").unwrap(), &to);
    for _ in 0..24 {
        assert!(answers(site.namespace("far").unwrap(), "0.0.0.0:0", &to, b"spread"));
    }
    assert_handed_over(&site);
    assert_eq!(site.status().steering["trunk-no-socket-drop"], 0);
}

#[test]
fn connections_go_on_over_restarts_with_another_number_of_workers() {
    let mut site = Site::with_queues(scenario(ONLY_UDP), None, 2, &["--workers", "1"]);
    site.apply_snapshot();
    let (far, a) = (site.namespace("far").unwrap(), site.namespace("t/a").unwrap());
    let mut ends: Vec<_> = (0..8).map(|_| connection(far, a, TCP).unwrap()).collect();
    for (near, far) in &mut ends {
        assert!(converses(near, far));
    }
    for workers in ["2", "1"] {
        site.end(Signal::TERM);
        site.start_switch_again(&["--workers", workers]);
        site.apply_snapshot();
        assert_eq!(site.status().workers.len().to_string(), workers);
        for (near, far) in &mut ends {
            assert!(carries(far, near), "the pod's side must go on first: no rule lets it begin TCP");
            assert!(converses(near, far));
        }
        site.assert_balanced();
    }
}

/// A pod that sends bursts a ring cannot take. Not without end: the kernel's backlog is shared with other tests.
fn flood(namespace: &NetNs, to: &str, burst: usize) -> Running<u64> {
    let socket = udp(namespace, "0.0.0.0:0", Duration::from_secs(1));
    socket.connect(to).unwrap();
    Running::start(move |stop| {
        let mut sent = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            for _ in 0..burst {
                sent += u64::from(socket.send(&[0; 1000]).is_ok());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        sent
    })
}

#[test]
fn a_pod_that_floods_the_trunk_does_not_starve_another() {
    let site =
        Site::with_queues(Scenario::parse(OPEN).unwrap(), None, 1, &["--workers", "1", "--ring", "64"]);
    site.apply_snapshot();
    let to = format!("{FAR}:7");
    let _echo = udp_echo(site.namespace("far").unwrap(), &to);
    let quiet = steady(site.namespace("t/b").unwrap(), "0.0.0.0:0", &to);
    // Nobody listens: what comes back are errors, which are few.
    let noise = flood(site.namespace("t/a").unwrap(), &format!("{FAR}:9"), 256);
    let until = Instant::now() + Duration::from_secs(2);
    assert!(wait_for(|| Instant::now() > until && site.pod("t/a").counters.rx > 5_000));
    let sent = noise.stop();
    let quiet = quiet.stop();
    assert!(sent > 5_000, "no flood: {sent}");
    assert!(quiet.sent > 50 && quiet.answered == quiet.sent, "{quiet:?} beside {sent}");
    let status = site.assert_balanced();
    assert!(is_at_rest(&status.frames), "{:?}", status.frames);
    let b = site.pod("t/b").counters;
    assert!(!b.egress_dropped.contains_key("transmit-ring-full"), "{b:?}");
}

#[test]
fn a_pod_without_a_worker_of_its_own_is_told_its_home() {
    let site = several(None);
    let homes = [site.pod("t/a").worker, site.pod("t/b").worker];
    for (worker, status) in site.status().workers.iter().enumerate() {
        assert_eq!(status.pods, homes.iter().filter(|home| **home == worker).count());
    }
    let _echo = udp_echo(site.namespace("t/b").unwrap(), &format!("{POD_B}:7"));
    assert!(answers(site.namespace("t/a").unwrap(), "0.0.0.0:0", &format!("{POD_B}:7"), b"between"));
    let status = assert_handed_over(&site);
    let [a, b] = homes.map(|home| &status.workers[home].counters);
    assert!(a.handed_out > 0 && b.handed_in > 0 && b.handed_out > 0 && a.handed_in > 0, "{a:?} {b:?}");
}
