//! One pod floods SYNs: its neighbour's connection and its own go on, the switch does not grow, the books balance.
//!
//! The rates are of a machine that does all of it at once, sender, receiver and switch: they are printed, not judged.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use espalier_lab::netns::NetNs;
use etherparse::PacketBuilder;
use serde_json::json;
use smoltcp::phy::{Device as _, Medium, RawSocket, TxToken as _};

use super::{IN, OUT, count, scenario};
use crate::frames::{IPV4, ethernet};
use crate::process::resident_kib;
use crate::site::{FAR, POD_A, Site, wait_for};
use crate::traffic::{Pattern, Running, connection, converses};

const WINDOW: Duration = Duration::from_secs(3);
/// Half-open connections of one pod, as the switch shares out the table it has by default.
const MOST_HALF_OPEN: u64 = 262_144 / 16;
const MOST_GROWTH_KIB: i64 = 8192;

/// SYNs from ever new ports: to the host, which refuses them, and in turn to an address that does not answer.
struct Flood {
    frame: [Vec<u8>; 2],
    /// Where the TCP header begins.
    tcp: usize,
}

impl Flood {
    fn new(mac: [u8; 6]) -> Self {
        let source: Ipv4Addr = POD_A.parse().unwrap();
        let frame = [FAR, "10.9.9.9"].map(|to| {
            let to: Ipv4Addr = to.parse().unwrap();
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv4(source.octets(), to.octets(), 64).tcp(0, 0, 1, 64240).syn();
            builder.write(&mut packet, &[]).unwrap();
            ethernet([2, 0, 0, 0, 0, 9], mac, IPV4, &packet)
        });
        Self { frame, tcp: 14 + 20 }
    }

    /// Fills in the ports of the n-th SYN and its checksum (RFC 1624: what goes in comes off).
    fn nth(&mut self, n: u32) -> &[u8] {
        let (ports, checksum) = (self.tcp..self.tcp + 4, self.tcp + 16..self.tcp + 18);
        let frame = &mut self.frame[n as usize % 2];
        let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let old: u32 = frame[ports.clone()].chunks(2).map(|each| 0xffff - word(each)).sum();
        let new = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
        let mut sum = 0xffff - word(&frame[checksum.clone()]) + old + new.chunks(2).map(word).sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[ports].copy_from_slice(&new);
        frame[checksum].copy_from_slice(&(0xffff - sum as u16).to_be_bytes());
        frame
    }

    /// Sends for that long; how many.
    fn run(&mut self, pod: &NetNs, from: u32, time: Duration) -> u32 {
        let send = || {
            let mut socket = RawSocket::new("eth0", Medium::Ethernet).unwrap();
            let end = Instant::now() + time;
            let mut n = from;
            while Instant::now() < end {
                for _ in 0..64 {
                    let frame = self.nth(n);
                    let token = socket.transmit(smoltcp::time::Instant::ZERO).unwrap();
                    token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
                    n = n.wrapping_add(1);
                }
            }
            n - from
        };
        pod.run(send).unwrap()
    }
}

#[test]
fn one_pods_syns_hurt_neither_its_neighbour_nor_its_own_connections() {
    let site = Site::up(scenario(&[OUT, IN]));
    let (a, b, far) =
        (site.namespace("t/a").unwrap(), site.namespace("t/b").unwrap(), site.namespace("far").unwrap());
    let (mut own, mut own_far) = connection(a, far, &format!("{FAR}:8001")).unwrap();
    assert!(converses(&mut own, &mut own_far));
    let (other, other_far) = connection(b, far, &format!("{FAR}:8002")).unwrap();
    let stream = Stream::start(other, other_far);
    let mut flood = Flood::new(site.pod("t/a").pod_mac.unwrap().octets());
    let pid = site.status().pid;

    let quiet = over(&stream.bytes, || thread::sleep(WINDOW));
    let warm_up = flood.run(a, 0, Duration::from_secs(1));
    let resident = resident_kib(pid);
    let mut sent = 0;
    let flooded = over(&stream.bytes, || sent = flood.run(a, warm_up, WINDOW));
    let grown = resident_kib(pid) - resident;
    let flows = count(&site, &json!({"pod": "t/a"}));
    let rate = f64::from(sent) / WINDOW.as_secs_f64();
    println!(
        "flood of {sent} SYNs ({rate:.0}/s): the neighbour's goodput {quiet:.1} MB/s before, {flooded:.1} MB/s meanwhile \
         (ratio {:.3}); resident memory {resident} KiB, grown by {grown} KiB; flows of the flooding pod {:?}",
        flooded / quiet,
        flows.by_state
    );
    assert!(sent > 20_000, "that was no flood: {sent}");
    assert!(flooded > 0.0, "the neighbour's connection stood still");
    assert!(grown <= MOST_GROWTH_KIB, "resident memory grew by {grown} KiB");
    // Counted in stretches: while flows come and go, one may be counted twice.
    let half_open = || {
        let states = ["syn-sent", "syn-received", "picked-up"];
        states.map(|state| count(&site, &json!({"pod": "t/a", "state": state})).flows).iter().sum::<u64>()
    };
    assert!(wait_for(|| half_open() <= MOST_HALF_OPEN), "{}", half_open());
    for _ in 0..20 {
        assert!(converses(&mut own, &mut own_far), "the flooding pod's own connection must live");
    }
    let carried = stream.stop();
    assert!(carried > 0);
    let status = site.assert_balanced();
    println!("{} bytes of the neighbour's stream checked; dropped {:?}", carried, status.counters.dropped);
}

/// A stream that goes on until stopped, each of its bytes checked.
struct Stream {
    bytes: Arc<AtomicU64>,
    sender: Running<u64>,
    receiver: Running<u64>,
}

impl Stream {
    fn start(mut from: TcpStream, mut to: TcpStream) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&bytes);
        let sender = Running::start(move |stop| {
            let (mut pattern, mut buffer, mut sent) = (Pattern::new(), vec![0; 1 << 16], 0);
            while !stop.load(Ordering::Relaxed) {
                pattern.fill(&mut buffer);
                from.write_all(&buffer).unwrap();
                sent += buffer.len() as u64;
            }
            sent
        });
        // Ends with the stream, which the sender closes.
        let receiver = Running::start(move |_| {
            let (mut pattern, mut expected, mut received) =
                (Pattern::new(), vec![0; 1 << 16], vec![0; 1 << 16]);
            loop {
                match to.read_exact(&mut received) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                    Err(error) => panic!("the neighbour's stream broke: {error}"),
                }
                pattern.fill(&mut expected);
                assert!(expected == received, "the neighbour's stream is corrupt");
                told.fetch_add(received.len() as u64, Ordering::Relaxed);
            }
            told.load(Ordering::Relaxed)
        });
        Self { bytes, sender, receiver }
    }

    /// Ends it; nothing may be lost on the way.
    fn stop(self) -> u64 {
        let sent = self.sender.stop();
        assert_eq!(self.receiver.stop(), sent, "bytes of the neighbour's stream are missing");
        sent
    }
}

/// MB/s that went through meanwhile.
fn over(bytes: &Arc<AtomicU64>, work: impl FnOnce()) -> f64 {
    let (before, since) = (bytes.load(Ordering::Relaxed), Instant::now());
    work();
    let carried = bytes.load(Ordering::Relaxed) - before;
    carried as f64 / since.elapsed().as_secs_f64() / 1e6
}
