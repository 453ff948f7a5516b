//! The programs of a lab: found, started with a log, waited for, and ended with everything else in the namespaces.
//!
//! Processes are found by the network namespace they are in, so that `down` also ends what a killed lab left behind
//! and what `exec` started.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::LabError;
use crate::netns::NetNs;
use crate::wait::wait_for;

/// How long a process may take to end after SIGTERM, and again after SIGKILL.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A program the lab starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) variable: &'static str,
}

/// The data path.
pub(crate) const SWITCH: Program = Program { name: "espalier-switch", variable: "ESPALIER_SWITCH" };

/// The VPC's resolver and metadata service.
pub(crate) const VPC_SERVICES: Program = Program { name: "espalier-lab-vpc", variable: "ESPALIER_LAB_VPC" };

/// The switch's program: what `ESPALIER_SWITCH` names, or the one beside this program, or in PATH.
pub fn switch_program() -> Result<PathBuf, LabError> {
    SWITCH.find()
}

impl Program {
    /// The environment variable, then beside this program (a test's own lies one folder deeper), then PATH.
    pub(crate) fn find(self) -> Result<PathBuf, LabError> {
        let missing = || LabError::ProgramMissing { program: self.name, variable: self.variable };
        if let Some(path) = env::var_os(self.variable) {
            let path = PathBuf::from(path);
            return if path.is_file() { Ok(path) } else { Err(missing()) };
        }
        let own = env::current_exe().unwrap_or_default();
        let beside = own.ancestors().skip(1).take(2).map(Path::to_path_buf);
        let on_path = env::var_os("PATH").unwrap_or_default();
        let mut candidates = beside.chain(env::split_paths(&on_path)).map(|folder| folder.join(self.name));
        candidates.find(|path| path.is_file()).ok_or_else(missing)
    }

    /// Starts `command` inside a namespace, its stderr in a log. It does not get the terminal's Ctrl-C: the lab ends it
    /// in its turn.
    pub(crate) fn start(
        self,
        namespace: &NetNs,
        command: &mut Command,
        log: &Path,
    ) -> Result<Child, LabError> {
        let file = File::create(log)
            .map_err(|source| LabError::io(format!("cannot write {}", log.display()), source))?;
        command.stdin(Stdio::null()).stderr(file).process_group(0);
        Ok(namespace.spawn(command)?)
    }

    /// The error for a program that ended or hangs, with the end of its log.
    pub(crate) fn failed(self, what: impl Into<String>, log: &Path) -> LabError {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        LabError::Program { program: self.name, what: what.into(), log: log.display().to_string(), tail }
    }
}

/// Processes whose network namespace is one of these, this process excepted.
pub(crate) fn inside<'a>(namespaces: impl IntoIterator<Item = &'a NetNs>) -> Vec<Pid> {
    let inodes: Vec<u64> = namespaces
        .into_iter()
        .filter_map(|namespace| fs::metadata(namespace.path()).ok())
        .map(|metadata| metadata.ino())
        .collect();
    let is_inside = |pid: &Pid| {
        let link = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
        fs::metadata(link).is_ok_and(|metadata| inodes.contains(&metadata.ino()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| pid.as_raw_nonzero().get().unsigned_abs() != std::process::id())
        .filter(is_inside)
        .collect()
}

/// Ends every process inside: SIGTERM, and SIGKILL for those that stay.
pub(crate) fn end_all(namespaces: &[&NetNs]) {
    for signal in [Signal::TERM, Signal::KILL] {
        for pid in inside(namespaces.iter().copied()) {
            // It may have ended by itself since.
            let _ = kill_process(pid, signal);
        }
        if wait_for(END_PATIENCE, || inside(namespaces.iter().copied()).is_empty()) {
            return;
        }
    }
}

/// Ends a child of ours and collects it, so that no zombie stays: SIGTERM, and SIGKILL if it stays.
pub fn end_child(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if wait_for(END_PATIENCE, || !matches!(child.try_wait(), Ok(None))) {
        return;
    }
    let _ = child.kill();
    let _ = child.wait();
}
