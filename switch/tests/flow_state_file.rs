//! The state file from outside: what survives a stop, a kill and damage, and how time counts across the gap.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use espalier_api::rule::Direction::{self, Egress, Ingress};
use espalier_switch::flow::state_file::{Clock, Layout, Loaded, RESTORED, StateFileError, StateWriter, load};
use espalier_switch::flow::tcp_flag::{ACK, FIN, SYN};
use espalier_switch::flow::{
    ChangePage, FlowConfig, FlowHandle, FlowKey, FlowRecord, FlowState, FlowTable, NewFlow, NotRestored, Now,
    Outcome, PacketFacts, PodSlot, Refused, Timeouts,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const POD: PodSlot = PodSlot(0);
/// What the process to be killed prints for each flow written; the test harness prints no such byte.
const MARK: u8 = 1;

fn config() -> FlowConfig {
    let mut config = FlowConfig::sized(256, 4, [1, 2]);
    config.timeouts = Timeouts::NITRO_V6;
    config
}

fn table() -> FlowTable {
    FlowTable::new(&config()).expect("the configuration is sound")
}

fn layout() -> Layout {
    let [ipv4, ipv6] = config().entries();
    Layout { pods: 4, ipv4, ipv6 }
}

fn at(seconds: u64) -> Clock {
    Clock { now: Now(1_000_000 + seconds * 1000), wall_ms: 1_700_000_000_000 + seconds * 1000 }
}

fn key(protocol: u8, port: u16) -> FlowKey {
    let (local, remote): (IpAddr, IpAddr) = match port % 2 {
        0 => (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        _ => (Ipv6Addr::from_bits(7).into(), Ipv6Addr::from_bits(u128::MAX).into()),
    };
    FlowKey::tcp_udp(POD, local, remote, protocol, 40_000, port)
}

fn packet(direction: Direction, tcp_flags: u8) -> PacketFacts {
    PacketFacts { direction, tcp_flags, bytes: 100 }
}

fn insert(table: &mut FlowTable, key: &FlowKey, flags: u8, clock: Clock) -> FlowHandle {
    let first = packet(Egress, flags);
    let flow =
        NewFlow { initiator: Egress, rule: 7, generation: 3, tracked: true, revoke_on_change: true, first };
    table.insert(key, &flow, clock.now).expect("there is room")
}

/// Writes all that changed.
fn save(table: &mut FlowTable, writer: &mut StateWriter, clock: Clock) {
    let mut page = ChangePage::with_room(10);
    loop {
        let more = table.take_changes(clock.now, &mut page);
        writer.write(&page).expect("the page is written");
        if !more {
            break;
        }
    }
    writer.heartbeat(clock).expect("the header is written");
}

fn writer(path: &Path) -> StateWriter {
    let mut writer = StateWriter::create(path, layout(), at(0)).expect("the file is made");
    writer.set_pod(POD, Some("eni-0123456789abcdef0")).expect("the identity fits");
    writer.publish().expect("the file is put in place");
    writer
}

/// The flows of the one pod, now in slot 2, by the order of the file.
fn read(path: &Path, clock: Clock) -> (Loaded, Vec<FlowRecord>) {
    let mut flows = Vec::new();
    let place = |identity: &str| (identity == "eni-0123456789abcdef0").then_some(PodSlot(2));
    let loaded = load(path, clock, place, |flow| flows.push(flow)).expect("the file is good");
    (loaded.expect("there is a file"), flows)
}

#[test]
fn flows_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut old, mut writer) = (table(), writer(&path));
    for port in 0..60 {
        let handle = insert(&mut old, &key(TCP, port), SYN, at(0));
        old.on_packet(handle, &packet(Ingress, SYN | ACK), at(1).now);
        old.on_packet(handle, &packet(Egress, ACK), at(1).now);
        if port == 10 {
            old.on_packet(handle, &packet(Ingress, FIN | ACK), at(1).now);
        }
        if port == 11 {
            old.remove(handle);
        }
    }
    save(&mut old, &mut writer, at(2));
    old.remove(old.find(&key(TCP, 12)).handle().unwrap());
    save(&mut old, &mut writer, at(3));

    let (loaded, flows) = read(&path, at(5));
    assert_eq!(loaded, Loaded { flows: 58, pod_gone: 0, damaged: 0, gap_ms: 2000 });
    let mut new = table();
    for flow in &flows {
        assert_eq!((flow.rule, flow.generation, flow.key.slot()), (7, RESTORED, PodSlot(2)));
        assert_eq!((flow.packets, flow.bytes[1], flow.initiator()), ([flow.packets[0], 2], 200, Egress));
        assert!(flow.revoke_on_change() && !flow.picked_up());
        new.restore(flow, at(5).now).unwrap();
    }
    for port in 0..60 {
        let found = new.find(&key(TCP, port).with_slot(PodSlot(2)));
        assert_eq!(found.handle().is_some(), ![11, 12].contains(&port), "{port}");
    }
    let half_closed = new.find(&key(TCP, 10).with_slot(PodSlot(2))).handle().unwrap();
    assert_eq!(new.state(half_closed), Some(FlowState::HalfClosed));
    assert!(new.needs_judgement(half_closed, 3), "revocable flows are judged again");
    assert_eq!(
        new.on_packet(half_closed, &packet(Egress, FIN | ACK), at(6).now),
        Outcome::Pass(FlowState::Closing),
        "the FIN of the other end was kept"
    );
}

#[test]
fn the_gap_counts_against_the_timeouts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut old, mut writer) = (table(), writer(&path));
    insert(&mut old, &key(UDP, 1), 0, at(0));
    let tcp = insert(&mut old, &key(TCP, 2), SYN, at(0));
    old.on_packet(tcp, &packet(Ingress, SYN | ACK), at(0).now);
    old.on_packet(tcp, &packet(Egress, ACK), at(0).now);
    save(&mut old, &mut writer, at(20));

    // Of 20 s of rest before the stop 16 are forgiven, because a busy flow is not written at each packet.
    let after = |gap: u64| {
        let (loaded, flows) = read(&path, at(20 + gap));
        assert_eq!((loaded.gap_ms, loaded.flows), (gap * 1000, 2));
        let mut new = table();
        flows.iter().map(|flow| new.restore(flow, at(20 + gap).now)).filter(Result::is_ok).count()
    };
    assert_eq!(after(0), 2);
    assert_eq!(after(26), 2);
    assert_eq!(after(27), 1, "UDP is over after 30 s");
    assert_eq!(after(345), 1);
    assert_eq!(after(347), 0, "TCP is over after 350 s");
    let (_, flows) = read(&path, at(47));
    assert_eq!(table().restore(&flows[1], at(47).now), Err(NotRestored::Over));
    let (loaded, _) = read(&path, Clock { now: Now(0), wall_ms: 5 });
    assert_eq!(loaded.gap_ms, 0, "a clock that was set back makes no gap");
}

#[test]
fn the_file_follows_flows_that_stay_in_their_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut table, mut writer) = (table(), writer(&path));
    let handle = insert(&mut table, &key(UDP, 0), 0, at(0));
    save(&mut table, &mut writer, at(0));
    let idle_after = |table: &mut FlowTable, writer: &mut StateWriter, seconds| {
        save(table, writer, at(seconds));
        read(&path, at(seconds)).1[0].idle_ms
    };
    table.on_packet(handle, &packet(Ingress, 0), at(29).now);
    assert_eq!(idle_after(&mut table, &mut writer, 40), 0, "a packet after a rest is written at once");
    for second in 40..100 {
        table.on_packet(handle, &packet(Ingress, 0), at(second).now);
        assert_eq!(idle_after(&mut table, &mut writer, second), 0, "a busy flow comes round in the refresh");
    }
}

#[test]
fn flows_of_a_pod_that_is_gone_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut old, mut writer) = (table(), writer(&path));
    insert(&mut old, &key(UDP, 1), 0, at(0));
    save(&mut old, &mut writer, at(0));
    let loaded = load(&path, at(0), |_| None, |_| unreachable!("no pod is here")).unwrap().unwrap();
    assert_eq!((loaded.flows, loaded.pod_gone), (0, 1));
    writer.set_pod(POD, Some("eni-another")).unwrap();
    let loaded = load(&path, at(0), |_| Some(POD), |_| unreachable!("not its flow")).unwrap().unwrap();
    assert_eq!((loaded.flows, loaded.damaged), (0, 1), "the slot's next pod does not get its flows");
    writer.set_pod(POD, None).unwrap();
    assert_eq!(load(&path, at(0), |_| Some(POD), |_| unreachable!("no pod")).unwrap().unwrap().flows, 0);
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let error = || load(&path, at(0), |_| Some(POD), |_| unreachable!("nothing may come out"));
    assert!(error().unwrap().is_none(), "no file is no error");

    let (mut old, mut writer) = (table(), writer(&path));
    insert(&mut old, &key(UDP, 1), 0, at(0));
    save(&mut old, &mut writer, at(0));
    let good = fs::read(&path).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        error().unwrap_err()
    };
    assert!(matches!(with(&|bytes| bytes.clear()), StateFileError::Foreign { .. }));
    assert!(matches!(with(&|bytes| bytes.truncate(47)), StateFileError::Foreign { .. }));
    assert!(matches!(with(&|bytes| bytes[0] = b'x'), StateFileError::Foreign { .. }));
    assert!(matches!(with(&|bytes| bytes[8] = 2), StateFileError::Version { found: 2, .. }));
    for at in 12..48 {
        assert!(matches!(with(&|bytes| bytes[at] ^= 1), StateFileError::Damaged { .. }), "byte {at}");
    }
    let shorter = with(&|bytes| bytes.truncate(good.len() - 1));
    assert!(matches!(shorter, StateFileError::Length { .. }));
    assert!(shorter.to_string().contains(path.to_str().unwrap()), "{shorter}");
    assert!(matches!(with(&|bytes| bytes.push(0)), StateFileError::Length { .. }));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(error().unwrap_err(), StateFileError::Io { action: "read", .. }));
    let nowhere = StateWriter::create(&dir.path().join("no/flows"), layout(), at(0)).err().unwrap();
    assert!(matches!(nowhere, StateFileError::Io { action: "create", .. }));
    assert!(matches!(writer.set_pod(PodSlot(4), None), Err(StateFileError::Slot { slot: 4, pods: 4 })));
    assert!(matches!(writer.set_pod(POD, Some(&"x".repeat(56))), Err(StateFileError::Identity { .. })));
}

#[test]
fn a_damaged_record_costs_one_flow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut old, mut writer) = (table(), writer(&path));
    for port in [1, 2, 4] {
        insert(&mut old, &key(UDP, port), 0, at(0));
    }
    save(&mut old, &mut writer, at(0));
    let good = fs::read(&path).unwrap();
    let pods_at = 4096;
    let (four_at, six_at) = (8192, 8192 + layout().ipv4 as usize * 64);
    let used = |from: usize, len: usize| {
        (from..).step_by(len).find(|at| good[*at..*at + len].iter().any(|byte| *byte != 0)).unwrap()
    };
    let (four, six) = (used(four_at, 64), used(six_at, 128));
    assert!(four < six_at);
    for byte in (four..four + 64).chain(six..six + 88) {
        let mut bytes = good.clone();
        bytes[byte] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let (loaded, flows) = read(&path, at(0));
        assert_eq!((loaded.flows, loaded.damaged, flows.len()), (2, 1, 2), "byte {byte}");
    }
    let mut bytes = good.clone();
    bytes[pods_at + 3] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (loaded, _) = read(&path, at(0));
    assert_eq!((loaded.flows, loaded.damaged), (0, 3), "without its identity no flow is anyone's");
}

#[test]
fn an_earlier_file_stays_until_the_new_one_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut old, mut first) = (table(), writer(&path));
    insert(&mut old, &key(UDP, 1), 0, at(0));
    save(&mut old, &mut first, at(0));
    let mut second = StateWriter::create(&path, layout(), at(1)).unwrap();
    assert_eq!(read(&path, at(1)).0.flows, 1);
    second.publish().unwrap();
    assert_eq!(read(&path, at(1)).0.flows, 0);
    drop(second);
}

#[test]
fn restored_flows_keep_to_the_quotas() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let (mut old, mut writer) = (table(), writer(&path));
    for port in 0..20 {
        insert(&mut old, &key(UDP, port * 2), 0, at(0));
    }
    save(&mut old, &mut writer, at(0));
    let (_, flows) = read(&path, at(0));
    let mut config = FlowConfig::sized(16, 4, [1, 2]);
    config.ipv4.pod_quota = 5;
    let mut small = FlowTable::new(&config).unwrap();
    let results: Vec<_> = flows.iter().map(|flow| small.restore(flow, at(0).now)).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
    assert_eq!(results[19], Err(NotRestored::Refused(Refused::PodQuota)));
}

/// Not a test of its own: the process that the next test kills. It enters a flow, writes it, says so, and goes on.
#[test]
fn writer_to_be_killed() {
    let Ok(path) = std::env::var("ESPALIER_TEST_STATE_FILE") else { return };
    let (mut table, mut writer) = (table(), writer(Path::new(&path)));
    let mut out = std::io::stdout();
    for port in 0.. {
        insert(&mut table, &key(UDP, port % 100 * 2), 0, at(0));
        save(&mut table, &mut writer, at(0));
        // The reader may be gone once it has killed us.
        if out.write_all(&[MARK]).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

#[test]
fn a_killed_writer_leaves_every_flow_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let path = dir.path().join(format!("flows-{round}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env("ESPALIER_TEST_STATE_FILE", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut written = 0;
        let (mut out, deadline) = (child.stdout.take().unwrap(), Instant::now() + Duration::from_secs(60));
        while written < 50 + round * 7 && Instant::now() < deadline {
            let mut byte = [0];
            out.read_exact(&mut byte).unwrap();
            written += usize::from(byte[0] == MARK);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (loaded, flows) = read(&path, at(0));
        assert!(loaded.damaged <= 1, "at most the record under the pen is torn");
        assert!(flows.len() >= written, "{} of {written}", flows.len());
        for port in 0..written as u16 {
            let key = key(UDP, port * 2).with_slot(PodSlot(2));
            assert!(flows.iter().any(|flow| flow.key == key), "{port} of {written}");
        }
    }
}
