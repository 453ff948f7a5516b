//! Pods that move from worker to worker while they are used: nothing is lost, nothing comes out of order.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use espalier_api::PodName;
use espalier_lab::netns::NetNs;
use serde_json::json;

use super::{SEVERAL, assert_handed_over, several};
use crate::flows::{at, count};
use crate::site::{FAR, POD_A, POD_B, Site, is_at_rest, wait_for};
use crate::traffic::{Running, answers, connection, converses, steady, transfer, udp, udp_echo};

const MOVES: usize = 50;
/// Bytes a stream carries during the moves, and how often a stream is begun.
const STREAM: usize = 40_000_000;

/// Datagrams with their number, at a steady pace that every queue on the way can take.
fn numbered(from: &NetNs, to: &str) -> Running<u64> {
    let socket = udp(from, "0.0.0.0:0", Duration::from_secs(1));
    socket.connect(to).unwrap();
    Running::start(move |stop| {
        let mut sent: u64 = 0;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..4 {
                socket.send(&sent.to_be_bytes()).unwrap();
                sent += 1;
            }
            thread::sleep(Duration::from_millis(2));
        }
        sent
    })
}

/// Counts what comes, and what comes out of order.
fn listener(at_: &NetNs, local: &str) -> Running<(u64, u64)> {
    let socket = udp(at_, local, Duration::from_millis(50));
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    Running::start(move |stop| {
        let (mut came, mut disordered, mut next) = (0, 0, 0);
        let mut buffer = [0; 16];
        let mut last = Instant::now();
        // After the end, what is still under way is waited for.
        while !stop.load(Ordering::Relaxed) || last.elapsed() < Duration::from_secs(1) {
            let Ok(8) = socket.recv(&mut buffer) else { continue };
            let number = u64::from_be_bytes(buffer[..8].try_into().unwrap());
            disordered += u64::from(number < next);
            next = number + 1;
            came += 1;
            last = Instant::now();
        }
        (came, disordered)
    })
}

/// Moves both pods around while `used` holds; how often.
fn move_about(site: &Site, mut used: impl FnMut() -> bool) -> usize {
    let workers = usize::from(SEVERAL);
    let pods: [PodName; 2] = ["t/a", "t/b"].map(|pod| pod.parse().unwrap());
    let mut moved = 0;
    while moved < MOVES || used() {
        let pod = &pods[moved % 2];
        let from = site.pod(pod.as_str()).worker;
        let to = (from + 1 + moved / 2 % (workers - 1)) % workers;
        let reply = site.control().move_pod(pod, to).unwrap();
        assert_eq!((reply.from, reply.to, reply.flows_lost), (from, to, 0), "{reply:?}");
        assert_eq!(site.pod(pod.as_str()).worker, to);
        moved += 1;
        assert!(moved < 100 * MOVES, "the traffic does not end");
    }
    moved
}

#[test]
fn numbered_datagrams_all_arrive_in_order_through_fifty_moves() {
    let site = several(None);
    let (a, b, far) =
        (site.namespace("t/a").unwrap(), site.namespace("t/b").unwrap(), site.namespace("far").unwrap());
    let ways =
        [(far, a, format!("{POD_A}:9001")), (a, far, format!("{FAR}:9002")), (a, b, format!("{POD_B}:9003"))];
    for (from, to, address) in &ways {
        // The neighbours on the way are known before anything counts.
        let _echo = udp_echo(to, address);
        assert!(answers(from, "0.0.0.0:0", address, b"first"));
    }
    let running: Vec<_> = ways
        .iter()
        .map(|(from, to, address)| (listener(to, address), numbered(from, address), address))
        .collect();
    move_about(&site, || false);
    for (listener, sender, address) in running {
        let sent = sender.stop();
        let (came, disordered) = listener.stop();
        assert!(sent > 100, "{sent} to {address}");
        assert_eq!((came, disordered), (sent, 0), "to {address}");
    }
    let status = assert_handed_over(&site);
    let dropped = &status.counters.dropped;
    for reason in ["move-queue-full", "handover-ring-full", "not-home", "port-down", "denied-ingress"] {
        assert_eq!(dropped.get(reason), None, "{dropped:?}");
    }
}

#[test]
fn streams_go_on_through_fifty_moves() {
    let site = several(None);
    let (a, b, far) =
        (site.namespace("t/a").unwrap(), site.namespace("t/b").unwrap(), site.namespace("far").unwrap());
    let streams: Vec<_> = [(far, a, at(POD_A, 8080)), (a, far, at(FAR, 8081)), (a, b, at(POD_B, 8082))]
        .into_iter()
        .map(|(from, to, address)| {
            let (near, accepted) = connection(from, to, &address).unwrap();
            thread::spawn(move || transfer(near, accepted, STREAM))
        })
        .collect();
    let to = format!("{POD_A}:7");
    let echo = udp_echo(a, &to);
    let asked = steady(far, "0.0.0.0:0", &to);
    let moves = move_about(&site, || streams.iter().any(|stream| !stream.is_finished()));
    streams.into_iter().for_each(|stream| stream.join().unwrap());
    let asked = asked.stop();
    // Streams that fill every queue lose packets to full ones, moves or not. What was lost has been counted.
    let status = site.status();
    let dropped: u64 = status.counters.dropped.values().sum();
    let by_kernel: u64 = site.control().pods().unwrap().iter().map(|pod| pod.kernel.rx_dropped).sum();
    println!("{moves} moves, {asked:?}, {:?}, {by_kernel} lost on receive", status.counters.dropped);
    assert!(asked.sent > 10 && asked.sent - asked.answered <= dropped + by_kernel, "{asked:?}");
    drop(echo);
    let status = assert_handed_over(&site);
    assert!(is_at_rest(&status.frames), "{:?}", status.frames);
}

#[test]
fn a_pod_takes_its_flows_and_counters_along() {
    let site = several(None);
    let far = site.namespace("far").unwrap();
    let a = site.namespace("t/a").unwrap();
    let mut ends: Vec<_> = (0..100).map(|_| connection(far, a, &at(POD_A, 8300)).unwrap()).collect();
    ends.iter_mut().for_each(|(near, far)| assert!(converses(near, far)));
    let flows = || count(&site, &json!({"pod": "t/a", "port": 8300})).flows;
    let (before, counters) = (flows(), site.assert_balanced());
    let rx = site.pod("t/a").counters.rx;
    let pod = "t/a".parse().unwrap();
    let to = (site.pod("t/a").worker + 1) % usize::from(SEVERAL);
    let moved = site.control().move_pod(&pod, to).unwrap();
    assert!(moved.flows >= before && moved.flows_lost == 0, "{before} {moved:?}");
    assert_eq!((flows(), site.pod("t/a").worker), (before, to));
    assert!(site.pod("t/a").counters.rx >= rx);
    let of_worker = |worker: usize| site.status().workers[worker].flows;
    assert!(of_worker(to) >= before as usize);
    ends.iter_mut().for_each(|(near, far)| assert!(converses(near, far)));
    assert_eq!(site.control().move_pod(&pod, to).unwrap().flows, 0, "it is there already");
    assert!(site.assert_balanced().counters.rx > counters.counters.rx);
    for (bad, word) in [("t/a", "there is no worker 99"), ("t/nosuch", "not in the enforced snapshot")] {
        let worker = if bad == "t/a" { 99 } else { 0 };
        let error = site.control().move_pod(&bad.parse().unwrap(), worker).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn load_is_evened_out() {
    let site = several(None);
    let [pod_a, pod_b]: [PodName; 2] = ["t/a", "t/b"].map(|pod| pod.parse().unwrap());
    let home = site.pod("t/a").worker;
    site.control().move_pod(&pod_b, home).unwrap();
    let to = format!("{FAR}:7");
    let _echo = udp_echo(site.namespace("far").unwrap(), &to);
    let traffic = ["t/a", "t/b"].map(|pod| steady(site.namespace(pod).unwrap(), "0.0.0.0:0", &to));
    let evened = wait_for(|| {
        let moved = site.control().rebalance(Duration::from_millis(500)).unwrap();
        moved.iter().any(|moved| [&pod_a, &pod_b].contains(&&moved.pod))
            || site.pod("t/a").worker != site.pod("t/b").worker
    });
    assert!(evened && site.pod("t/a").worker != site.pod("t/b").worker);
    for flow in traffic {
        let flow = flow.stop();
        assert_eq!(flow.sent, flow.answered);
    }
    site.assert_balanced();
}
