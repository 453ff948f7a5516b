//! A lab's life: up, kept or not, attached to, down.
//!
//! There is one way down for all ends (drop, failure, panic, signal, `down` after a kill): end the processes in the
//! namespaces, delete the namespaces, unmount, remove the folder. [`Lab`] takes it when dropped unless it was kept.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use serde::Serialize;

use crate::control::Control;
use crate::name::LabName;
use crate::netns::NetNs;
use crate::processes::{self, SWITCH, VPC_SERVICES};
use crate::run_dir::{RunDir, State};
use crate::scenario::{Endpoint, Scenario};
use crate::services::{READY, Services};
use crate::topology::{PodWiring, Topology, Wiring};
use crate::wait::LOOK_AGAIN;
use crate::{LabError, interrupt};

/// How long the programs of a lab may take to answer, on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How to make a lab.
#[derive(Debug, Clone)]
pub struct Options {
    /// Prefix of everything the lab makes.
    pub name: LabName,
    /// MTU instead of the scenario's.
    pub mtu: Option<u32>,
    /// How the pods are wired.
    pub wiring: PodWiring,
    /// Queues of the trunk each way: at least as many as the switch has workers. The VPC spreads flows over them.
    pub trunk_queues: u16,
    /// The switch program; by default `ESPALIER_SWITCH`, then beside this program, then PATH.
    pub switch: Option<PathBuf>,
    /// Further flags for the switch.
    pub switch_flags: Vec<OsString>,
    /// Log filter of the switch; its log is `/run/espalier/lab/<name>/switch.log`.
    pub log: String,
    /// Told what is being done, for people who wait.
    pub progress: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: LabName::default(),
            mtu: None,
            wiring: PodWiring::default(),
            trunk_queues: 1,
            switch: None,
            switch_flags: Vec::new(),
            log: "info".into(),
            progress: |_| {},
        }
    }
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: LabName,
    scenario: Scenario,
    topology: Topology,
    dir: RunDir,
    control: Control,
    children: Vec<Child>,
    progress: fn(&str),
    owned: bool,
}

/// A lab as `list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabInfo {
    /// Its name.
    pub name: String,
    /// Its scenario; none where it was killed while it was made.
    pub scenario: Option<String>,
    /// Seconds since 1970 when it was made.
    pub since: Option<u64>,
    /// Names that `exec` takes.
    pub endpoints: Vec<String>,
    /// Whether the switch answers.
    pub switch_answers: bool,
    /// Path of the switch's control socket.
    pub socket: PathBuf,
}

impl Lab {
    /// Makes the network, starts the switch and has it enforce the scenario's snapshot. On an error, a signal or a panic
    /// everything is removed again.
    pub fn up(options: &Options, scenario: Scenario) -> Result<Self, LabError> {
        let switch = options.switch.clone().map_or_else(|| SWITCH.find(), Ok)?;
        let mut lab = Self::network(options, scenario)?;
        lab.start_switch(&switch, &options.switch_flags, &options.log)?;
        lab.apply()?;
        Ok(lab)
    }

    /// Makes the network and the VPC's services, without a switch.
    pub fn network(options: &Options, scenario: Scenario) -> Result<Self, LabError> {
        let services = VPC_SERVICES.find()?;
        interrupt::install()?;
        let mtu = options.mtu.unwrap_or(scenario.mtu());
        let dir = RunDir::claim(&options.name, &State::new(scenario.clone(), mtu))?;
        (options.progress)(&format!(
            "lab {}: making namespaces for scenario {}",
            options.name, scenario.name
        ));
        let mut unfinished = Unfinished(Some(&dir));
        let wiring = Wiring { pods: options.wiring, trunk_queues: options.trunk_queues };
        let topology = Topology::build(&options.name, &scenario, mtu, wiring, dir.path())?.keep();
        unfinished.0 = None;
        drop(unfinished);
        let control = Control::new(dir.file("switch.sock"));
        let mut lab = Self {
            name: options.name.clone(),
            scenario,
            topology,
            dir,
            control,
            children: Vec::new(),
            progress: options.progress,
            owned: true,
        };
        lab.start_services(&services)?;
        Ok(lab)
    }

    /// A handle on a lab that is up; dropping it leaves the lab up.
    pub fn attach(name: &LabName) -> Result<Self, LabError> {
        let dir = RunDir::open(name)?;
        let state = dir.state().ok_or_else(|| LabError::Unexpected(killed_early(name)))?;
        let topology = Topology::existing(name, &state.scenario);
        let control = Control::new(dir.file("switch.sock"));
        let scenario = state.scenario;
        let progress = |_: &str| {};
        Ok(Self {
            name: name.clone(),
            scenario,
            topology,
            dir,
            control,
            children: Vec::new(),
            progress,
            owned: false,
        })
    }

    /// Leaves the lab up when this handle goes.
    pub fn keep(mut self) {
        self.owned = false;
    }

    /// Takes the lab down and says what could not be removed.
    pub fn remove(mut self) -> Result<(), LabError> {
        self.owned = false;
        self.children.iter_mut().for_each(processes::end_child);
        take_down(&self.dir, Some(&self.topology))
    }

    /// Takes a lab down that is up, or that a killed process left behind.
    pub fn down(name: &LabName) -> Result<(), LabError> {
        let dir = RunDir::open(name)?;
        let topology = dir.state().map(|state| Topology::existing(name, &state.scenario));
        take_down(&dir, topology.as_ref())
    }

    /// Runs a command where a pod, a host, `node` or `vpc` is, with the VPC's resolver, on this terminal.
    pub fn exec(&self, place: &str, command: &[OsString]) -> Result<ExitStatus, LabError> {
        let namespace = self.namespace(place)?;
        // A Ctrl-C is for the command.
        interrupt::install()?;
        let mut process = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/resolv.conf 2>/dev/null; exec \"$@\"";
        process.args(["--mount", "--propagation", "private", "--", "sh", "-c", script]);
        process.arg(self.dir.file("resolv.conf")).args(command);
        let mut child = namespace.spawn(&mut process)?;
        child.wait().map_err(|source| LabError::io("cannot wait for the command", source))
    }

    /// Starts the switch in the node's namespace and waits until its socket answers.
    pub fn start_switch(&mut self, program: &PathBuf, flags: &[OsString], log: &str) -> Result<(), LabError> {
        (self.progress)(&format!("lab {}: starting the switch", self.name));
        let mut command = Command::new(program);
        command.arg("--socket").arg(self.control.socket());
        command.arg("--pin-dir").arg(self.dir.file("bpf")).args(["--log", log]).args(flags);
        let log = self.dir.file("switch.log");
        let child = SWITCH.start(self.topology.node(), command.stdout(Stdio::null()), &log)?;
        self.children.push(child);
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            interrupt::check()?;
            if self.control.status().is_ok() {
                return Ok(());
            }
            if let Some(Ok(Some(status))) = self.children.last_mut().map(Child::try_wait) {
                return Err(SWITCH.failed(format!("ended at once ({status})"), &log));
            }
            if Instant::now() > deadline {
                return Err(SWITCH.failed("does not answer on its socket", &log));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Has the switch enforce the scenario's snapshot.
    pub fn apply(&self) -> Result<(), LabError> {
        let snapshot = self.scenario.snapshot()?;
        self.dir.write("snapshot.json", &snapshot)?;
        let applied = self.control.apply(&snapshot)?;
        for warning in applied.warnings {
            (self.progress)(&format!("switch: {warning}"));
        }
        Ok(())
    }

    /// The lab's name.
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The switch's control socket.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The switch's process, the last one where this handle started several.
    pub fn switch_process(&mut self) -> Option<&mut Child> {
        self.children.get_mut(1..)?.last_mut()
    }

    /// The namespace of a pod, a host, `node` or `vpc`.
    pub fn namespace(&self, place: &str) -> Result<&NetNs, LabError> {
        if place == "vpc" {
            return Ok(self.topology.vpc());
        }
        let endpoint = self.scenario.endpoint(place);
        let endpoint = endpoint.map_err(|message| espalier_api::InputError::new("name", message))?;
        Ok(self.topology.namespace(endpoint))
    }

    pub(crate) fn say(&self, text: &str) {
        (self.progress)(text);
    }

    fn start_services(&mut self, program: &PathBuf) -> Result<(), LabError> {
        let services = self.scenario.services();
        let config = self.dir.write("vpc.json", &services)?;
        let resolver = services.resolver.iter().map(|address| format!("nameserver {address}\n"));
        let text: String = resolver.chain(["search lab.internal\n".to_owned()]).collect();
        fs::write(self.dir.file("resolv.conf"), text)
            .map_err(|source| LabError::io("cannot write resolv.conf", source))?;
        let log = self.dir.file("vpc.log");
        let mut command = Command::new(program);
        command.arg(config).stdout(Stdio::piped());
        let mut child = VPC_SERVICES.start(self.topology.vpc(), &mut command, &log)?;
        let said = child.stdout.take();
        self.children.push(child);
        let mut line = String::new();
        if let Some(said) = said {
            let read = io::BufRead::read_line(&mut io::BufReader::new(said), &mut line);
            read.map_err(|source| LabError::io("cannot read from the VPC's services", source))?;
        }
        if line.trim() == READY { Ok(()) } else { Err(VPC_SERVICES.failed("did not start", &log)) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned {
            self.children.iter_mut().for_each(processes::end_child);
            if let Err(error) = take_down(&self.dir, Some(&self.topology)) {
                (self.progress)(&format!("lab {}: {error}", self.name));
            }
        }
    }
}

impl Scenario {
    /// What the VPC's services have to know.
    pub(crate) fn services(&self) -> Services {
        let hosts = self.hosts.iter().map(|host| (host.name.clone(), &host.names, &host.addresses));
        let pods = self
            .pods
            .iter()
            .map(|pod| (format!("{}.{}", pod.name.name(), pod.name.namespace()), &pod.names, &pod.addresses));
        let mut services = Services {
            resolver: self.addresses(Endpoint::Resolver),
            imds: self.addresses(Endpoint::Imds),
            ..Services::default()
        };
        services.resolver.push(std::net::Ipv4Addr::new(169, 254, 169, 253).into());
        for (name, further, addresses) in hosts.chain(pods) {
            for name in further.iter().cloned().chain([format!("{name}.lab.internal")]) {
                services.names.insert(name.to_ascii_lowercase(), addresses.clone());
            }
        }
        services
    }
}

/// The labs of this machine.
pub fn list() -> Vec<LabInfo> {
    let info = |name: LabName| {
        let dir = RunDir::open(&name).ok()?;
        let state = dir.state();
        let socket = dir.file("switch.sock");
        let endpoints = state.as_ref().map(|state| state.scenario.places()).unwrap_or_default();
        Some(LabInfo {
            name: name.to_string(),
            scenario: state.as_ref().map(|state| state.scenario.name.clone()),
            since: state.map(|state| state.since),
            endpoints,
            switch_answers: Control::new(&socket).status().is_ok(),
            socket,
        })
    };
    RunDir::names().into_iter().filter_map(info).collect()
}

/// Frees the name when a lab's network could not be made; its namespaces have removed themselves.
struct Unfinished<'a>(Option<&'a RunDir>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(dir) = self.0 {
            // The error or panic at hand says more than one while clearing up.
            let _ = dir.remove();
        }
    }
}

fn killed_early(name: &LabName) -> String {
    format!("lab {name} was killed while it was made: remove it with `espalier lab down --name {name}`")
}

/// The one way down. Goes on after a failure and reports the first one.
fn take_down(dir: &RunDir, topology: Option<&Topology>) -> Result<(), LabError> {
    let mut first = Ok(());
    if let Some(topology) = topology {
        processes::end_all(&topology.namespaces().collect::<Vec<_>>());
        for namespace in topology.namespaces() {
            let deleted = NetNs::existing(namespace.name()).delete();
            first = first.and(deleted.map_err(LabError::from));
        }
    }
    first.and(dir.remove())
}
