//! Loss, duplicates, reordering and damage are counted exactly: captures made here hold known numbers of each.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use espalier_pktgen::frame::{Headers, Protocol};
use espalier_pktgen::stamp::{Run, STAMP_LEN, Stamp};
use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::site::{Said, Site};

/// Frames of one run, a millisecond apart, as a capture.
struct Capture {
    folder: tempfile::TempDir,
    frames: Vec<Vec<u8>>,
}

impl Capture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), frames: Vec::new() }
    }

    fn add(&mut self, flow: u32, sequence: u64) {
        let headers = Headers {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            vlan: (flow == 1).then_some(7),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            protocol: Protocol::Udp,
            source_port: 1000 + flow as u16,
            destination_port: 9,
            tcp_syn: false,
        };
        let mut frame = headers.build(100).unwrap();
        let at = usize::from(headers.bytes());
        let stamp = Stamp { run: Run(5), flow, sequence, time: espalier_pktgen::clock::now() };
        frame[at..at + STAMP_LEN].copy_from_slice(&stamp.to_bytes());
        self.frames.push(frame);
    }

    fn damage(&mut self, at: usize) {
        self.frames.last_mut().unwrap()[at] ^= 0x10;
    }

    fn write(&self) -> PathBuf {
        let path = self.folder.path().join("frames.pcap");
        let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
        for (at, frame) in (0..).zip(&self.frames) {
            let time = Duration::from_secs(1_000_000) + Duration::from_millis(at);
            writer.write_packet(&PcapPacket::new(time, frame.len() as u32, frame)).unwrap();
        }
        path
    }
}

fn numbers(said: &Said, pointer: &str, names: [&str; 3]) -> [u64; 3] {
    names.map(|name| said.number(&format!("{pointer}/{name}")))
}

#[test]
fn injected_loss_duplicates_and_reordering_are_found_exactly() {
    let site = Site::new(1500);
    let mut capture = Capture::new();
    // Of 0 to 99 in two flows: 10 and 11 are lost, 20 comes three times, 31 of flow 1 comes after 33 of flow 1, and 40
    // of flow 0 after 41 of flow 1, which is no reordering within a flow.
    let mut order: Vec<u64> = (0..100).filter(|n| ![10, 11, 31, 40].contains(n)).collect();
    let place = |order: &[u64], n| order.iter().position(|have| *have == n).unwrap() + 1;
    order.insert(place(&order, 33), 31);
    order.insert(place(&order, 41), 40);
    order.insert(place(&order, 20), 20);
    order.push(20);
    order.into_iter().for_each(|sequence| capture.add(u32::from(sequence % 2 == 1), sequence));
    let path = capture.write();
    let said = site.run_with("send RED --receive BLUE", &path);
    assert_eq!(said.code, 0, "{} {}", said.json, said.error);
    assert_eq!(numbers(&said, "", ["sent/frames", "arrived", "missing"]), [100, 100, 0]);
    assert_eq!(said.account("/runs/0"), [100, 98, 2, 2, 1, 0]);
    assert_eq!(said.number("/runs/0/run"), 5);
    let strict = site.run_with("send RED --receive BLUE --strict", &path);
    assert_eq!((strict.code, strict.account("/runs/0")), (1, [100, 98, 2, 2, 1, 0]));
}

#[test]
fn damaged_and_foreign_frames_are_told_apart() {
    let site = Site::new(1500);
    let mut capture = Capture::new();
    (0..10).for_each(|sequence| capture.add(0, sequence));
    capture.add(0, 10);
    capture.damage(14 + 20 + 8 + 10);
    capture.add(0, 11);
    capture.damage(14 + 10);
    capture.frames.push(vec![0xff; 60]);
    let said = site.run_with("send RED --receive BLUE --rate 1kpps --repeat 2", &capture.write());
    assert_eq!(said.code, 0, "{} {}", said.json, said.error);
    // The second pass is all duplicates.
    assert_eq!(said.account("/runs/0"), [20, 10, 0, 10, 0, 0]);
    assert_eq!(numbers(&said, "/others", ["corrupt", "bad_header", "foreign"]), [2, 2, 2]);
    assert_eq!(said.number("/others/foreign_bytes"), 120);
}

#[test]
fn a_replay_keeps_the_pace_of_its_capture() {
    let site = Site::new(1500);
    let mut capture = Capture::new();
    (0..200).for_each(|sequence| capture.add(0, sequence));
    let path = capture.write();
    let own = site.run_with("send RED --receive BLUE --strict --max-loss 0", &path);
    assert_eq!((own.code, own.number("/arrived")), (0, 200), "{} {}", own.json, own.error);
    assert!(own.float("/sent/seconds") >= 0.199, "200 frames a millisecond apart take 199 ms");
    let fast = site.run_with("send RED --receive BLUE --rate max --strict --max-loss 0", &path);
    assert_eq!((fast.code, fast.account("/runs/0")), (0, [200, 200, 0, 0, 0, 0]));
}

#[test]
fn a_sink_told_to_be_strict_fails_on_a_gap_and_an_interrupted_one_still_reports() {
    let site = Site::new(1500);
    let mut capture = Capture::new();
    [0, 1, 3].into_iter().for_each(|sequence| capture.add(0, sequence));
    let path = capture.write();
    let sink = site.start_at_blue("sink BLUE --count 3 --strict --duration 60s");
    assert_eq!(site.run_with("send RED", &path).code, 0);
    let sink = sink.finish();
    assert_eq!((sink.code, sink.account("/runs/0")), (1, [3, 3, 1, 0, 0, 0]), "{}", sink.error);

    let sink = site.start_at_blue("sink BLUE");
    assert_eq!(site.run_with("send RED", &path).code, 0);
    sink.interrupt();
    let sink = sink.finish();
    assert_eq!((sink.code, sink.account("/runs/0")), (0, [3, 3, 1, 0, 0, 0]), "{}", sink.error);
    site.assert_clean();
}
