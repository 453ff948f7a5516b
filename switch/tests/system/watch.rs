//! Looking at packets of the running switch: injected ones change nothing and tell the truth, real ones are each shown once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};

use espalier_api::filter::Fate;
use espalier_api::trace::{StageName, Trace};
use espalier_api::watch::{WatchEvent, WatchedPacket};
use espalier_api::{Direction, Verdict};
use serde_json::{Value, json};

use crate::request::send;
use crate::site::{FAR, PATIENCE, POD_A, POD_B, Site, WORKERS, growth, wait_for};
use crate::traffic::{udp, udp_echo};

/// `POST` of JSON, for its reply.
fn post(site: &Site, path: &str, body: &Value) -> crate::request::Reply {
    let body = serde_json::to_vec(body).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n", body.len());
    send(site.control().socket(), &head, &body)
}

fn trace(site: &Site, question: &Value) -> Trace {
    let reply = post(site, "/v1/trace", question);
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_value(reply.body).unwrap()
}

/// Events as they come.
struct Watcher {
    packets: Receiver<WatchEvent>,
    stream: UnixStream,
}

impl Watcher {
    /// Every worker looks once this returns.
    fn start(site: &Site, filter: &str) -> Self {
        let body = serde_json::to_vec(&json!({"filter": filter, "stages": true})).unwrap();
        let mut stream = UnixStream::connect(site.control().socket()).unwrap();
        let head = format!("POST /v1/watch HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let (event, packets) = channel();
        std::thread::spawn(move || {
            // What begins otherwise is the reply's head, or the length of a chunk.
            let lines = reader.lines().map_while(Result::ok).filter(|line| line.starts_with('{'));
            for line in lines {
                if event.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        let begun = packets.recv_timeout(PATIENCE).unwrap();
        assert_eq!(begun, WatchEvent::Watching { workers: WORKERS.into() });
        Self { packets, stream }
    }

    fn take(&self, count: usize) -> Vec<WatchedPacket> {
        let next = || match self.packets.recv_timeout(PATIENCE).unwrap() {
            WatchEvent::Packet(packet) => *packet,
            other => panic!("{other:?}"),
        };
        (0..count).map(|_| next()).collect()
    }

    /// Waits until as many packets as that were shown or lost. How many were lost.
    fn account_for(&self, packets: u64) -> u64 {
        let (mut shown, mut lost) = (0, 0);
        while shown + lost < packets {
            match self.packets.recv_timeout(PATIENCE).unwrap() {
                WatchEvent::Packet(_) => shown += 1,
                WatchEvent::Lost(so_far) => lost = so_far,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(shown + lost, packets);
        lost
    }

    /// Nothing more comes after what everybody has been told.
    fn assert_quiet(&self) {
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(self.packets.try_iter().collect::<Vec<_>>(), []);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn names(trace: &Trace) -> Vec<StageName> {
    trace.stages.iter().map(|stage| stage.stage).collect()
}

#[test]
fn an_injected_packet_is_judged_as_a_real_one_and_leaves_no_trace() {
    let mut site = Site::open();
    let dropped = site.status().counters.dropped;
    let out = json!({"pod": "t/a", "direction": "egress", "protocol": "udp", "remote": FAR, "port": 9});
    let told = trace(&site, &out);
    assert_eq!((told.verdict, told.port.as_deref()), (Verdict::Allow, Some("trunk0")));
    use StageName::{Forward, Guard, Judge, Parse, Steer, Track};
    assert_eq!(names(&told), [Steer, Parse, Guard, Track, Judge, Forward]);
    assert_eq!(told.stages[4].rule.as_ref().unwrap().to_string(), "sgr-out4");
    assert!(told.packet.contains(&format!("{POD_A}:32768 > {FAR}:9")), "{}", told.packet);

    // What another pod of the node sends begins there, and meets both policies at both homes.
    let across =
        json!({"pod": "t/a", "direction": "ingress", "protocol": "tcp", "remote": POD_B, "port": 80});
    let told = trace(&site, &across);
    assert_eq!((told.verdict, &told.reason), (Verdict::Allow, &None));
    let judged: Vec<_> = told.stages.iter().filter(|stage| stage.stage == Judge).collect();
    assert_eq!(
        [judged[0].direction, judged[1].direction],
        [Some(Direction::Egress), Some(Direction::Ingress)]
    );
    assert_eq!([&judged[0].pod, &judged[1].pod].map(|pod| pod.as_ref().unwrap().to_string()), ["t/b", "t/a"]);
    assert_eq!(judged[0].worker != judged[1].worker, WORKERS == 2);

    site.change(|snapshot| {
        snapshot.security_groups[0]
            .rules
            .retain(|rule| rule.id.as_ref().is_some_and(|id| id.as_str() != "sgr-in4"));
    });
    let told = trace(&site, &across);
    assert_eq!((told.verdict, told.reason.as_deref()), (Verdict::Deny, Some("denied-ingress")));
    let last = told.stages.last().unwrap();
    assert!(!last.passed && last.decided.contains("no ingress rule of sg-open"), "{last:?}");

    let status = site.status();
    let mut dropped = growth(&dropped, &status.counters.dropped);
    // The pods' kernels send multicast of their own.
    dropped.remove("multicast");
    assert_eq!(dropped, BTreeMap::new());
    assert_eq!(status.workers.iter().map(|worker| worker.flows).sum::<usize>(), 0);

    // A flow that is there is found, and passes although its rule has gone.
    site.change(|snapshot| {
        snapshot.security_groups[0].rules.iter_mut().for_each(|rule| rule.description = None)
    });
    let server = format!("{FAR}:9");
    let _echo = udp_echo(site.namespace("far").unwrap(), &server);
    let socket = udp(site.namespace("t/a").unwrap(), "0.0.0.0:32768", PATIENCE);
    socket.send_to(b"?", &server).unwrap();
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1);
    let told = trace(&site, &out);
    assert_eq!(names(&told), [Steer, Parse, Guard, Track, Forward]);
    assert!(told.stages[3].read.contains("by sgr-out4"), "{:?}", told.stages[3]);
}

#[test]
fn a_question_that_no_packet_answers_is_refused_with_the_fix() {
    let site = Site::open();
    let with = |field: &str, value: Value| {
        let mut question =
            json!({"pod": "t/a", "direction": "egress", "protocol": "tcp", "remote": FAR, "port": 9});
        question[field] = value;
        question
    };
    for (question, field, wanted) in [
        (with("pod", json!("t/x")), "pod", "espalier pods"),
        (with("port", Value::Null), "port", "needs the destination port"),
        (with("protocol", json!("icmp")), "icmpType", "needs the type"),
        (with("remote", json!("fe80::1")), "remote", ""),
        (with("local", json!("2001:db8::1")), "local", "two families"),
        (with("tcpFlags", json!("sin")), "", "expected fin, syn"),
    ] {
        let reply = post(&site, "/v1/trace", &question);
        if field == "remote" {
            // The pod has an address of that family, too: the step decides.
            assert_eq!(reply.status, 200, "{reply:?}");
            continue;
        }
        assert_eq!((reply.status, reply.field()), (400, field), "{reply:?}");
        assert!(reply.message().contains(wanted), "{reply:?}");
    }
    for (filter, wanted) in
        [("pod t/x", "character 5"), ("reason tired", "denied-ingress"), ("udp or", "character 7")]
    {
        let reply = post(&site, "/v1/watch", &json!({ "filter": filter }));
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(reply.message().contains(wanted), "{reply:?}");
    }
}

#[test]
fn every_dropped_packet_is_shown_once_and_nothing_else() {
    const PACKETS: u64 = 300;
    let mut site = Site::open();
    site.change(|snapshot| {
        snapshot.security_groups[0]
            .rules
            .retain(|rule| rule.id.as_ref().is_some_and(|id| id.as_str() != "sgr-in4"));
    });
    let watcher = Watcher::start(&site, "drop and udp and pod t/a");
    let before = site.status().counters.dropped;
    let socket = udp(site.namespace("t/b").unwrap(), "0.0.0.0:4000", PATIENCE);
    for number in 0..PACKETS {
        socket.send_to(&number.to_be_bytes(), format!("{POD_A}:9")).unwrap();
        // Another pod's drop, and a packet that passes.
        socket.send_to(b"passes", format!("{FAR}:9")).unwrap();
        let counted =
            || growth(&before, &site.status().counters.dropped).get("denied-ingress") == Some(&(number + 1));
        if number % 32 == 31 {
            assert!(wait_for(counted), "{:?}", site.status().counters);
        }
    }
    let seen = watcher.take(PACKETS as usize);
    for (number, packet) in seen.iter().enumerate() {
        assert_eq!((packet.fate, packet.reason.as_deref()), (Fate::Drop, Some("denied-ingress")));
        assert_eq!(packet.data[42..50], (number as u64).to_be_bytes(), "in their order, whole");
        let legs = &packet.legs;
        let last = legs.last().unwrap();
        assert_eq!((last.pod.as_str(), last.passed, last.rule.is_none()), ("t/a", false, true));
        assert!(!packet.stages.is_empty());
        assert_eq!(packet.generation, site.snapshot.generation);
    }
    watcher.assert_quiet();
    let dropped = growth(&before, &site.status().counters.dropped);
    assert_eq!(dropped.get("denied-ingress"), Some(&PACKETS), "{dropped:?}");
    drop(watcher);
    site.assert_balanced();
}

#[test]
fn a_reader_that_does_not_read_loses_packets_and_slows_nobody() {
    let site = Site::open();
    let body = br#"{"filter": "udp"}"#;
    let mut lazy = UnixStream::connect(site.control().socket()).unwrap();
    let head = format!("POST /v1/watch HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n\r\n", body.len());
    lazy.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let attentive = Watcher::start(&site, "udp and port 9 and forward and src host 10.0.2.20");
    let server = format!("{FAR}:9");
    let _echo = udp_echo(site.namespace("far").unwrap(), &server);
    let socket = udp(site.namespace("t/a").unwrap(), "0.0.0.0:0", PATIENCE);
    // More than the lazy reader's taps and the socket's buffers hold, at 1,442 bytes each; every one is answered.
    const PACKETS: u64 = 6_000;
    let mut buffer = [0; 2000];
    for _ in 0..PACKETS {
        socket.send_to(&[7; 1400], &server).unwrap();
        assert_eq!(socket.recv(&mut buffer).unwrap(), 1400);
    }
    let missed = attentive.account_for(PACKETS);
    eprintln!("the attentive reader missed {missed} of {PACKETS}");
    drop(attentive);
    let mut reader = BufReader::new(lazy);
    let mut lost = 0;
    let mut line = String::new();
    reader.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    while lost == 0 {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the switch told of no loss");
        if line.starts_with('{')
            && let WatchEvent::Lost(packets) = serde_json::from_str(&line).unwrap()
        {
            lost = packets;
        }
    }
    drop(reader);
    let status = site.assert_balanced();
    assert_eq!(growth(&BTreeMap::new(), &status.counters.dropped).get("transmit-ring-full"), None);
}
