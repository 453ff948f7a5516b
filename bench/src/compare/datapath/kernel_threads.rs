//! Kernel threads that may run on any core: kept off the device's while something is compared, as on a node that isolates
//! the cores of its workers. Put back when dropped.
//!
//! They come to a core that rests between two windows and stay for the next one, 8 to 12 ms at a time (`kdamond`): to that
//! of a device that sleeps without traffic, and not to that of one that always polls.

use std::fs;

use anyhow::Result;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Of the flags in /proc/PID/stat: a thread of the kernel (include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;

/// Those that were moved, and where they might run before.
pub(super) struct KernelThreads(Vec<(Pid, CpuSet)>);

impl KernelThreads {
    /// Keeps them off a core.
    pub(super) fn keep_off(core: usize) -> Result<Self> {
        Ok(Self::move_off(core, all()?))
    }

    fn move_off(core: usize, threads: Vec<Pid>) -> Self {
        let mut moved = Vec::new();
        for thread in threads {
            let Ok(before) = sched_getaffinity(Some(thread)) else { continue };
            let mut after = before;
            after.unset(core);
            // One that the kernel binds to its core is refused.
            if before.is_set(core) && after.count() > 0 && sched_setaffinity(Some(thread), &after).is_ok() {
                moved.push((thread, before));
            }
        }
        Self(moved)
    }
}

impl Drop for KernelThreads {
    fn drop(&mut self) {
        for (thread, before) in &self.0 {
            // It may have ended.
            let _ = sched_setaffinity(Some(*thread), before);
        }
    }
}

/// All that can be seen.
pub(super) fn all() -> Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let (Some(pid), true) = (pid, is_kernel_thread(&stat)) {
            threads.push(pid);
        }
    }
    Ok(threads)
}

/// Of `PID (NAME) state ppid pgrp session tty tpgid flags …`; the name may hold anything.
fn is_kernel_thread(stat: &str) -> bool {
    let flags =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_kernel_thread_is_told_by_its_flags() {
        assert!(is_kernel_thread("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"));
        assert!(is_kernel_thread("9 (a) b) S 2 0 0 0 -1 69238880 0 0"));
        assert!(!is_kernel_thread("1 (init) S 0 1 1 0 -1 4194560 0 0"));
        assert!(!is_kernel_thread(""));
        assert!(!all().unwrap().contains(&rustix::process::getpid()));
    }

    #[test]
    fn what_was_moved_is_put_back() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let before = sched_getaffinity(Some(pid)).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core)).unwrap();
        let moved = KernelThreads::move_off(core, vec![pid]);
        // The only core there is stays.
        assert_eq!(sched_getaffinity(Some(pid)).unwrap().is_set(core), before.count() == 1);
        drop(moved);
        assert!(sched_getaffinity(Some(pid)).unwrap() == before);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
