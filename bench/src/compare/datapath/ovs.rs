//! Open vSwitch's userspace datapath (Debian's `openvswitch-switch-dpdk`) as a device under test.
//!
//! Its ports are AF_XDP sockets of DPDK on the same veths, its polling thread is on the measured core. Tags are popped and
//! pushed and flows tracked by OpenFlow rules that say the same as the security groups. Daemons, database and huge pages
//! are its own and gone when it is dropped.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::huge_pages::HugePages;
use super::rules::Rules;
use super::site::{A, B, GATEWAY_MAC, LOAD_CORE, SUBJECT_CORE, Site, TRUNK, mac_text};

const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Megabytes of huge pages for DPDK.
const MEMORY: u32 = 512;
/// Two megabytes each, and some for whoever else takes those that are there.
const PAGES: u32 = MEMORY / 2 + 128;
/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Numbers of the ports in OpenFlow.
const PORTS: [(&str, u16); 3] = [(TRUNK, 1), (A.veth, 2), (B.veth, 3)];

/// Running daemons.
pub(super) struct OpenVSwitch {
    /// In the order of starting.
    daemons: Vec<Child>,
    folder: TempDir,
    _pages: HugePages,
}

impl OpenVSwitch {
    /// Starts it with so many rules in each direction.
    pub(super) fn start(site: &Site, rules: &Rules) -> Result<Self> {
        ensure!(
            Path::new(DAEMON).is_file(),
            "{DAEMON} is missing: install openvswitch-switch-dpdk (ci/bench does)"
        );
        let mut ovs =
            Self { daemons: Vec::new(), folder: TempDir::new()?, _pages: HugePages::reserve(PAGES)? };
        let database = ovs.path("conf.db");
        ovs.run(Command::new("ovsdb-tool").arg("create").arg(&database).arg(SCHEMA))?;
        let mut server = Command::new("ovsdb-server");
        server.arg(&database).arg(format!("--remote=punix:{}", ovs.path("db.sock").display()));
        ovs.spawn(site, &mut server, "ovsdb-server")?;
        ovs.wait_for("db.sock", "ovsdb-server")?;
        ovs.vsctl(&["--no-wait", "init"])?;
        let masks = [format!("{:#x}", 1 << SUBJECT_CORE), format!("{:#x}", 1 << LOAD_CORE)];
        ovs.vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            &format!("other_config:dpdk-extra={}", dpdk_options()),
            &format!("other_config:pmd-cpu-mask={}", masks[0]),
            &format!("other_config:dpdk-lcore-mask={}", masks[1]),
        ])?;
        let mut daemon = Command::new(DAEMON);
        daemon.arg(format!("unix:{}", ovs.path("db.sock").display()));
        ovs.spawn(site, &mut daemon, "ovs-vswitchd")?;
        ovs.vsctl(&[
            "add-br",
            "br0",
            "--",
            "set",
            "bridge",
            "br0",
            "datapath_type=netdev",
            "fail-mode=secure",
        ])?;
        for (number, (interface, port)) in PORTS.iter().enumerate() {
            ovs.add_port(number, interface, *port)?;
        }
        let flows = ovs.path("flows");
        fs::write(&flows, openflow(site, rules)?)?;
        ovs.run(Command::new("ovs-ofctl").args(["-O", "OpenFlow13", "add-flows", "br0"]).arg(&flows))?;
        Ok(ovs)
    }

    fn add_port(&self, number: usize, interface: &str, port: u16) -> Result<()> {
        self.vsctl(&[
            "add-port",
            "br0",
            interface,
            "--",
            "set",
            "Interface",
            interface,
            "type=dpdk",
            &format!("options:dpdk-devargs=net_af_xdp{number},iface={interface}"),
            &format!("ofport_request={port}"),
        ])?;
        let error = self.vsctl(&["get", "Interface", interface, "error"])?;
        ensure!(error.trim() == "[]", "Open vSwitch cannot open {interface}: {}", error.trim());
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything that Open vSwitch keeps in files goes to the folder.
    fn at_home<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.folder.path());
        }
        command
    }

    fn spawn(&mut self, site: &Site, command: &mut Command, name: &str) -> Result<()> {
        let log = File::create(self.path(&format!("{name}.log")))?;
        command.arg(format!("--unixctl={}", self.path(&format!("{name}.ctl")).display()));
        command.arg("-vconsole:warn").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A Ctrl-C is for this program, which then ends it.
        self.daemons.push(site.node.spawn(self.at_home(command).process_group(0))?);
        Ok(())
    }

    fn wait_for(&mut self, file: &str, name: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.path(file).exists() {
            if Instant::now() > deadline {
                bail!("{name} did not start: {}", self.log(name));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn vsctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.path("db.sock").display()));
        command.arg(format!("--timeout={}", PATIENCE.as_secs())).args(arguments);
        self.run(&mut command)
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let output = self.at_home(command).output().context("is Open vSwitch installed? See ci/bench")?;
        ensure!(
            output.status.success(),
            "{command:?}: {} {}",
            String::from_utf8_lossy(&output.stderr).trim(),
            self.log("ovs-vswitchd")
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The end of a daemon's log.
    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }
}

impl Drop for OpenVSwitch {
    fn drop(&mut self) {
        while let Some(mut daemon) = self.daemons.pop() {
            espalier_lab::end_child(&mut daemon);
        }
    }
}

/// Without the limit DPDK would take further pages for its packets, in pieces that AF_XDP cannot take as one UMEM.
fn dpdk_options() -> String {
    format!("--no-pci --in-memory --no-telemetry -m {MEMORY} --socket-limit {MEMORY}")
}

/// Table 0 pops the tag and asks conntrack, 1 lets established flows through, 2 and 3 hold the rules for what leaves and
/// enters a pod, 4 forwards.
fn openflow(site: &Site, Rules(rules): &Rules) -> Result<String> {
    let mut text = String::new();
    let [(_, trunk), pods @ ..] = PORTS;
    for (pod, (_, port)) in [A, B].iter().zip(pods) {
        writeln!(
            text,
            "table=0,in_port={trunk},dl_vlan={},ip,actions=strip_vlan,ct(table=1,zone=1)",
            pod.vlan
        )?;
        writeln!(text, "table=0,in_port={port},ip,nw_src={},actions=ct(table=1,zone=1)", pod.address)?;
        writeln!(text, "table=1,priority=5,ct_state=+trk+new,in_port={port},ip,actions=resubmit(,2)")?;
    }
    writeln!(text, "table=1,priority=9,ct_state=+trk+est,ip,actions=resubmit(,4)")?;
    writeln!(text, "table=1,priority=5,ct_state=+trk+new,in_port={trunk},ip,actions=resubmit(,3)")?;
    for rule in rules {
        let (protocol, net, port) = (if rule.udp { "udp" } else { "tcp" }, rule.net, rule.port);
        for pod in [A, B] {
            let to_pod = format!("table=2,priority=5,{protocol},nw_dst={},tp_dst={port}", pod.address);
            if net.contains(&pod.address) {
                writeln!(text, "{to_pod},actions=resubmit(,3)")?;
            }
        }
        let commit = "actions=ct(commit,zone=1),resubmit(,4)";
        writeln!(text, "table=2,priority=1,{protocol},nw_dst={net},tp_dst={port},{commit}")?;
        writeln!(text, "table=3,priority=1,{protocol},nw_src={net},tp_dst={port},{commit}")?;
    }
    let places = [A, B].into_iter().zip(pods).zip(site.pod_macs.into_iter().zip(&site.node_macs[1..]));
    for ((pod, (_, port)), (mac, veth)) in places {
        let (mac, veth) = (mac_text(mac), mac_text(*veth));
        writeln!(
            text,
            "table=4,priority=5,ip,nw_dst={},actions=mod_dl_src:{veth},mod_dl_dst:{mac},output:{port}",
            pod.address
        )?;
        writeln!(
            text,
            "table=4,priority=1,in_port={port},ip,actions=mod_dl_src:{},mod_dl_dst:{},push_vlan:0x8100,\
             set_field:{}->vlan_vid,output:{trunk}",
            mac_text(pod.branch_mac),
            mac_text(GATEWAY_MAC),
            pod.vlan | 0x1000
        )?;
    }
    Ok(text)
}
