//! Threaded NAPI: who receives at an interface, and on which core.
//!
//! A veth's receiving end otherwise works on the core of whoever sends to it. Used for the sinks, whose work is the load
//! generator's and not the device's.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use espalier_lab::netns::NetNs;

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
fn threads(interface: &str) -> Result<Vec<u32>> {
    let wanted = format!("napi/{interface}-");
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&wanted) {
            threads.push(pid);
        }
    }
    Ok(threads)
}

fn keep_ahead(thread: u32, core: usize) -> Result<()> {
    let (thread, core) = (thread.to_string(), core.to_string());
    for command in [["taskset", "-pc", &core, &thread].as_slice(), &["chrt", "-f", "-p", "10", &thread]] {
        let output = Command::new(command[0]).args(&command[1..]).output().context("install util-linux")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
