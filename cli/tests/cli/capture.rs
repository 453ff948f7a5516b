//! `espalier capture` in a lab, read back by tshark: what was dropped, no more and no less, and how captures end.

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use espalier_api::control::Status;
use espalier_api::watch::{Record, WatchedPacket};
use espalier_lab::Lab;

use crate::lab::Name;
use crate::support::{Run, espalier, eventually, run};

/// Datagrams to where no rule lets them.
const DENIED: usize = 300;

/// A capture that runs, with its file.
pub(crate) struct Capture {
    child: Child,
    socket: String,
}

impl Capture {
    pub(crate) fn start(name: &Name, args: &[&str]) -> Self {
        let socket = format!("{}/switch.sock", name.folder());
        let mut command = espalier();
        command.arg("capture").args(args).args(["--socket", &socket]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self { child: child.unwrap(), socket }
    }

    /// Ctrl-C.
    pub(crate) fn end(self) -> Run {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.wait()
    }

    fn wait(self) -> Run {
        Run::from(self.child.wait_with_output().unwrap())
    }

    fn denied(&self) -> u64 {
        let status: Status =
            serde_json::from_str(&run(["status", "--json", "--socket", &self.socket]).stdout).unwrap();
        status.counters.dropped.get("denied-egress").copied().unwrap_or_default()
    }
}

/// What tshark says of every packet in the file.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-T", "fields", "-E", "separator=|"]);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let output = command.output().expect("tshark is installed: `ci/setup test`");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !errors.contains("damaged") && !errors.contains("cut short"),
        "{errors}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

pub(crate) fn packets_in(file: &Path) -> usize {
    if fs::metadata(file).map_or(0, |metadata| metadata.len()) == 0 {
        0
    } else {
        tshark(file, &["frame.number"]).len()
    }
}

fn send_denied(lab: &Lab, count: usize) {
    let socket = lab.namespace("orders/api").unwrap().run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    for number in 0..count {
        socket.send_to(&number.to_be_bytes(), "10.0.2.20:4433").unwrap();
    }
}

#[test]
fn a_capture_of_drops_holds_exactly_the_dropped_packets() {
    let name = Name::new();
    assert_eq!(name.lab(&["up"]).code, 0);
    let lab = Lab::attach(&name.0.parse().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("drops.pcapng");
    let path = file.to_str().unwrap();
    let capture = Capture::start(&name, &["orders/api", "reason denied-egress", "--drops", "-w", path]);
    eventually("every worker looks", || fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 0));
    let before = capture.denied();
    send_denied(&lab, DENIED);
    // Allowed beside it: not in the capture.
    let listener = lab.namespace("db").unwrap().run(|| TcpListener::bind("10.0.2.20:5432").unwrap()).unwrap();
    let _client =
        lab.namespace("orders/api").unwrap().run(|| TcpStream::connect("10.0.2.20:5432").unwrap()).unwrap();
    let _server = listener.accept().unwrap();
    eventually("all are dropped", || capture.denied() >= before + DENIED as u64);
    let dropped = (capture.denied() - before) as usize;
    eventually("all are captured", || packets_in(&file) >= dropped);
    let ended = capture.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{ended:?}");
    assert!(ended.stderr.contains(&format!("{dropped} packets captured, 0 lost")), "{ended:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let fields = [
        "frame.comment",
        "frame.packet_flags_direction",
        "frame.interface_name",
        "frame.interface_description",
        "udp.dstport",
        "udp.payload",
    ];
    let rows = tshark(&file, &fields);
    assert_eq!(rows.len(), dropped);
    let mut payloads = Vec::new();
    for row in rows {
        let record: Record = row[0].parse().unwrap();
        assert_eq!(record.reason.as_deref(), Some("denied-egress"), "{row:?}");
        assert_eq!((record.legs.len(), record.legs[0].pod.as_str()), (1, "orders/api"), "{row:?}");
        assert!(matches!(row[1].as_str(), "1" | "0x00000001"), "inbound: {row:?}");
        assert!(!row[2].is_empty() && row[3] == "orders/api", "{row:?}");
        if row[4] == "4433" {
            payloads.push(u64::from_str_radix(&row[5], 16).unwrap());
        }
    }
    payloads.sort_unstable();
    assert_eq!(payloads, (0..DENIED as u64).collect::<Vec<_>>());
    drop(lab);
    assert_eq!(name.lab(&["down"]).code, 0);
}

#[test]
fn a_capture_ends_by_count_size_or_a_full_disk_with_whole_blocks() {
    let name = Name::new();
    assert_eq!(name.lab(&["up"]).code, 0);
    let lab = Lab::attach(&name.0.parse().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.pcapng");
    let path = file.to_str().unwrap();
    let begun =
        || eventually("every worker looks", || fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 0));

    let counted = Capture::start(&name, &["udp port 4433", "-w", path, "--count", "7"]);
    begun();
    send_denied(&lab, 20);
    assert_eq!(counted.wait().code, 0);
    assert_eq!(packets_in(&file), 7);

    fs::remove_file(&file).unwrap();
    let sized = Capture::start(&name, &["udp port 4433", "-w", path, "--max-size", "8k"]);
    begun();
    send_denied(&lab, 200);
    let sized = sized.wait();
    assert!(sized.code == 0 && sized.stderr.contains("--max-size"), "{sized:?}");
    assert!(fs::metadata(&file).unwrap().len() <= 8192 && packets_in(&file) > 10);

    let full = Capture::start(&name, &["udp port 4433", "-w", "/dev/full"]);
    let full = full.wait();
    assert!(
        full.code == 1 && full.stderr.contains("/dev/full") && full.stderr.contains("the switch goes on"),
        "{full:?}"
    );

    let mut lines = Capture::start(&name, &["udp port 4433 and drop", "--json", "--count", "3"]);
    eventually("it has ended", || {
        send_denied(&lab, 1);
        lines.child.try_wait().unwrap().is_some()
    });
    let lines = lines.wait();
    let packets: Vec<WatchedPacket> =
        lines.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.code, packets.len()), (0, 3));
    drop(lab);
    assert_eq!(name.lab(&["down"]).code, 0);
}

#[test]
fn what_cannot_be_captured_is_refused_first() {
    for (args, code, wanted) in [
        (&["tcp prot 80"][..], 2, "tcp prot 80\n      ^"),
        (&["-w", "/nonexistent/x"], 2, "/nonexistent/x cannot be written"),
        (&["--max-size", "1"], 2, "4096 bytes or more"),
        (&["--socket", "/nonexistent/s"], 3, "start one with"),
    ] {
        let run = run(["capture"].iter().chain(args));
        assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{args:?}: {run:?}");
        assert!(run.stderr.contains(wanted), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn a_capture_that_the_switch_refuses_leaves_the_file_as_it_was() {
    let name = Name::new();
    assert_eq!(name.lab(&["up"]).code, 0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kept.pcapng");
    fs::write(&file, "what was there before").unwrap();
    let refused = Capture::start(&name, &["orders/apx", "-w", file.to_str().unwrap()]).wait();
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{refused:?}");
    assert!(refused.stderr.starts_with("error: filter: "), "{refused:?}");
    assert!(refused.stderr.ends_with("; did you mean orders/api?\n"), "{refused:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "what was there before");
    assert_eq!(name.lab(&["down"]).code, 0);
}
