//! Threaded NAPI of a pod's eth0, and where the kernel's threads for it run.
//!
//! The switch in sysfs belongs to the network namespace that a sysfs was mounted in; so one is mounted for the moment,
//! nowhere in the file tree. A thread bears the interface's name only (`napi/eth0-<id>`, net/core/dev.c): those that are there
//! after pods were tuned and were not before are theirs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::TuningError;
use crate::config::core_list;

/// Of the pod's end, in a sysfs.
const THREADED: &str = "class/net/eth0/threaded";
/// What threads of interfaces of that name are called.
const THREAD: &str = "napi/eth0-";

/// Whether eth0 of the calling thread's namespace receives by threads.
pub(super) fn is_threaded() -> Result<bool, TuningError> {
    let read = || {
        let mut text = String::new();
        switch(OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text.trim() != "0")
    };
    read().map_err(|source| TuningError::Threaded { action: "read", source })
}

/// Has it do so, or not.
pub(super) fn set_threaded(on: bool) -> Result<(), TuningError> {
    let value = if on { b"1" } else { b"0" };
    let written = switch(OFlags::WRONLY).and_then(|mut file| file.write_all(value));
    written.map_err(|source| TuningError::Threaded { action: "set", source })
}

fn switch(access: OFlags) -> io::Result<fs::File> {
    let filesystem = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&filesystem)?;
    let mount = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(openat(&mount, THREADED, access | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// The receiving threads there are.
pub(super) struct Threads(BTreeSet<i32>);

impl Threads {
    /// All that can be seen.
    pub(super) fn look() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let threads = entries.filter_map(|entry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            name.starts_with(THREAD).then_some(id)
        });
        Self(threads.collect())
    }

    /// Keeps those that came since off the workers' cores, as long as that leaves any.
    pub(super) fn pin_new(&self, workers: &[Option<usize>]) -> Result<(), String> {
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        let Some(cores) = allowed(&online, workers) else { return Ok(()) };
        for thread in Self::look().0.difference(&self.0) {
            let thread = Pid::from_raw(*thread).ok_or("a thread has the id 0")?;
            match sched_setaffinity(Some(thread), &cores) {
                // It went with its pod.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(format!(
                        "receiving threads of pods cannot be kept off the workers' cores: {error}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The cores that no worker is pinned to; none where there is nothing to keep off, or nowhere else to go.
fn allowed(online: &str, workers: &[Option<usize>]) -> Option<CpuSet> {
    let taken: BTreeSet<usize> = workers.iter().flatten().copied().collect();
    let free: Vec<usize> =
        core_list(online.trim())?.into_iter().filter(|core| !taken.contains(core)).collect();
    if taken.is_empty() || free.is_empty() {
        return None;
    }
    let mut cores = CpuSet::new();
    free.into_iter().filter(|core| *core < CpuSet::MAX_CPU).for_each(|core| cores.set(core));
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_may_run_where_no_worker_is_pinned() {
        let cores = allowed("0-3\n", &[Some(1), None, Some(2)]).unwrap();
        assert_eq!((0..4).filter(|core| cores.is_set(*core)).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(allowed("0-1", &[None]), None);
        assert_eq!(allowed("0-1", &[Some(0), Some(1)]), None);
        assert_eq!(allowed("", &[Some(0)]), None);
    }
}
