//! What the kernel says about the switch's process: memory, descriptors, mappings, AF_XDP sockets.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use espalier_lab::netns::NetNs;

const LOOKS: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Open file descriptors.
    pub(crate) descriptors: usize,
    /// Those of them that are sockets.
    pub(crate) sockets: usize,
    /// Mappings of AF_XDP rings (`xsk` sockets are mapped as `socket:[…]`).
    pub(crate) rings: usize,
}

impl Held {
    /// What it holds for longer than a request takes.
    pub(crate) fn lastingly_by(pid: u32) -> Self {
        let mut least = Self::by(pid);
        for _ in 0..LOOKS {
            thread::sleep(BETWEEN_LOOKS);
            let now = Self::by(pid);
            least.descriptors = least.descriptors.min(now.descriptors);
            least.sockets = least.sockets.min(now.sockets);
            least.rings = least.rings.min(now.rings);
        }
        least
    }

    fn by(pid: u32) -> Self {
        let links: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .collect();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        Self {
            descriptors: links.len(),
            sockets: links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count(),
            rings: maps.lines().filter(|line| line.contains("socket:")).count(),
        }
    }
}

/// AF_XDP sockets of a namespace that exist in the kernel, whoever holds them.
pub(crate) fn xdp_sockets(namespace: &NetNs) -> u64 {
    let table = namespace.run(|| fs::read_to_string("/proc/thread-self/net/protocols")).unwrap().unwrap();
    let line = table.lines().find(|line| line.starts_with("XDP ")).unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pid: u32) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ports that a process has in epoll, of all its workers.
pub(crate) fn watched_ports(pid: u32) -> usize {
    let instances = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let watched = instances.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok()).map(|info| {
        let data = info.lines().filter_map(|line| line.split_once("data:")?.1.split_whitespace().next());
        let places: Vec<_> = data.collect();
        // A worker's own has its doorbell (`Place::WAKE`).
        if places.contains(&"ffffffff") { places.len() - 1 } else { 0 }
    });
    watched.sum()
}
