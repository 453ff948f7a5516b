//! The real switch as a device under test: its program, built as this one is, with one worker on the measured core.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use espalier_api::control::PortState;
use espalier_api::{Direction, PortRange, ProtocolMatch, RuleTarget, Snapshot};
use espalier_lab::control::Control;
use ipnet::Ipv4Net;
use tempfile::TempDir;

use super::huge_pages::{self, HugePages};
use super::rules::Rules;
use super::site::{A, B, GATEWAY_MAC, PodSpec, SUBJECT_CORE, Site, TRUNK, mac_text};
use super::trial::{Account, Bed, Offer};
use crate::input;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Room for the flows of every case in one pod.
const MAX_FLOWS: &str = "1048576";

/// A running switch; ends when dropped, and its steering with it.
pub(super) struct Switch {
    child: Child,
    control: Control,
    snapshot: Snapshot,
    pins: PathBuf,
    _folder: TempDir,
    _pages: HugePages,
}

impl Switch {
    /// Starts it with so many rules in each direction.
    pub(super) fn start(program: &Path, site: &Site, rules: &Rules) -> Result<Self> {
        let pages = HugePages::reserve(huge_pages::FOR_FRAMES)?;
        let folder = TempDir::new()?;
        let (socket, file, log) =
            (folder.path().join("sock"), folder.path().join("node.json"), folder.path().join("log"));
        let snapshot = snapshot(rules)?;
        fs::write(&file, serde_json::to_vec(&snapshot)?)?;
        let pins = PathBuf::from(format!("/sys/fs/bpf/espalier-{}", site.node.name()));
        let mut command = Command::new(program);
        command.args([
            "--workers",
            "1",
            "--cores",
            &SUBJECT_CORE.to_string(),
            "--max-flows",
            MAX_FLOWS,
            "--flow-state",
            "none",
        ]);
        command.args(["--hugepages", "on", "--xdp-mode", "native", "--log", "warn"]);
        for (flag, path) in [("--socket", &socket), ("--snapshot", &file), ("--pin-dir", &pins)] {
            command.arg(flag).arg(path);
        }
        // A Ctrl-C is for this program, which then ends it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).process_group(0);
        let child = site.node.spawn(&mut command)?;
        let mut switch =
            Self { child, control: Control::new(socket), snapshot, pins, _folder: folder, _pages: pages };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = switch.child.try_wait()? {
                bail!("espalier-switch ended ({status}): {}", fs::read_to_string(&log)?.trim());
            }
            match switch.control.pods() {
                Ok(pods) if pods.len() == 2 && pods.iter().all(|pod| pod.state == PortState::Up) => {
                    return Ok(switch);
                }
                answer if Instant::now() > deadline => {
                    bail!("espalier-switch did not get ready in {PATIENCE:?}: {answer:?}")
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Switch {
    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Attaches pods up to this number: those beyond the first two are the crowd's.
    pub(super) fn attach(&self, pods: usize) -> Result<()> {
        let mut snapshot = self.snapshot.clone();
        snapshot.generation.0 += 1;
        for number in snapshot.pods.len()..pods {
            let host = u8::try_from(number)?;
            let idle = PodSpec {
                name: &format!("idle-{number}"),
                veth: &format!("veth{number}"),
                vlan: 200 + u16::from(host),
                branch_mac: [6, 0, 0, 0, 1, host],
                address: [10, 1, 1, host].into(),
            };
            snapshot.pods.push(serde_json::from_value(pod(&idle))?);
        }
        // Its warnings are of EC2's quotas for rules, which the comparison passes on purpose.
        self.control.apply(&snapshot)?;
        let down = self.control.pods()?.into_iter().find(|pod| pod.state != PortState::Up);
        ensure!(down.is_none(), "a pod did not come up: {down:?}");
        Ok(())
    }

    /// Packets that it dropped, and that the kernel dropped before it: each is counted for one reason.
    fn dropped(&self) -> Result<u64> {
        let status = self.control.status()?;
        let by_switch: u64 = status.counters.dropped.values().sum();
        let ports = status.trunk.map(|trunk| trunk.kernel);
        Ok(by_switch + ports.map_or(0, |kernel| kernel.rx_dropped + kernel.rx_ring_full))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Its own way of ending closes the sockets before the namespace goes; a dead one cannot be ended again.
        espalier_lab::end_child(&mut self.child);
        let _ = espalier_xsk::Steering::remove_pins(&self.pins);
    }
}

/// Frames of a slow run that neither arrived nor were counted as dropped by the switch: there should be none.
pub(super) fn unaccounted(switch: &Switch, bed: &Bed<'_>, offer: &Offer) -> Result<f64> {
    /// Slow enough for any machine, and as many frames as fit the ring of a veth many times.
    const RATE: f64 = 20_000.0;
    const TIME: Duration = Duration::from_millis(250);
    let before = switch.dropped()?;
    let Account { sent, received } = bed.counted(offer, RATE, TIME)?;
    let dropped = switch.dropped()? - before;
    Ok((sent as f64 - received as f64) - dropped as f64)
}

/// A pod of a snapshot, in the group that all are in.
fn pod(spec: &PodSpec<'_>) -> serde_json::Value {
    serde_json::json!({
        "name": format!("bench/{}", spec.name), "eniId": format!("eni-{}", spec.vlan), "vlan": spec.vlan,
        "mac": mac_text(spec.branch_mac), "addresses": [spec.address], "subnets": ["10.1.0.0/23"],
        "veth": spec.veth, "securityGroups": ["sg-0"], "gateway": {"mac": mac_text(GATEWAY_MAC)},
    })
}

/// Both pods in one group with the same rules each way.
fn snapshot(rules: &Rules) -> Result<Snapshot> {
    let text = serde_json::json!({
        "generation": 1, "vpc": {"cidrs": ["10.0.0.0/8"]}, "trunk": {"interface": TRUNK},
        "pods": [pod(&A), pod(&B)], "securityGroups": [{"groupId": "sg-0"}],
    });
    let mut snapshot = Snapshot::from_json(text.to_string().as_bytes())?;
    let flat = rules.0.iter().enumerate();
    for (number, rule) in flat.flat_map(|(number, rule)| [(2 * number, rule), (2 * number + 1, rule)]) {
        let range = PortRange::new(rule.port, rule.port).context("a port is a range")?;
        let protocol = if rule.udp { ProtocolMatch::Udp(range) } else { ProtocolMatch::Tcp(range) };
        let net: Ipv4Net = rule.net;
        let mut made = input::rule(number, protocol, RuleTarget::Cidr4(net));
        if number % 2 == 1 {
            made.direction = Direction::Egress;
        }
        snapshot.security_groups[0].rules.push(made);
    }
    Ok(snapshot)
}
