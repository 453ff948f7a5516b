//! Threaded NAPI: who receives at an interface, and on which core.
//!
//! A veth's receiving end otherwise works on the core of whoever sends to it. Used for the sinks, whose work is the load
//! generator's and not the device's.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use espalier_lab::netns::NetNs;
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

use super::kernel_threads;

/// Gives an interface that is up a receiving thread on this core, ahead of everything else there: a sink that has to
/// wait for the generator loses frames at its ring.
pub(super) fn receive_on(namespace: &NetNs, interface: &str, core: usize) -> Result<()> {
    // A veth has NAPI only with GRO or a program, and the kernel makes threads only where there is NAPI.
    namespace.offload(interface, "gro on")?;
    let before = threads(interface)?;
    namespace.with_sysfs(&format!("echo 1 > /sys/class/net/{interface}/threaded"))?;
    for thread in threads(interface)?.into_iter().filter(|thread| !before.contains(thread)) {
        keep_ahead(thread, core)?;
    }
    Ok(())
}

/// The kernel's threads for an interface of this name, in whatever namespace.
fn threads(interface: &str) -> Result<Vec<Pid>> {
    let wanted = format!("napi/{interface}-");
    let is_wanted = |thread: &Pid| {
        let name = fs::read_to_string(format!("/proc/{}/comm", thread.as_raw_nonzero()));
        name.is_ok_and(|name| name.starts_with(&wanted))
    };
    Ok(kernel_threads::all()?.into_iter().filter(is_wanted).collect())
}

fn keep_ahead(thread: Pid, core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(Some(thread), &cores).context("cannot move a receiving thread")?;
    let mut chrt = Command::new("chrt");
    chrt.args(["-f", "-p", "10", &thread.as_raw_nonzero().to_string()]);
    let output = chrt.output().context("install util-linux")?;
    ensure!(output.status.success(), "{chrt:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
