//! Namespaces for one test, and the links and packet sockets in them.
//! The namespaces have no names: they go with the thread and the processes that live in them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use espalier_xsk::{InterfaceRef, Steering, SteeringConfig, SteeringCounters, XdpMode, interface};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Long enough for a loaded machine; nothing waits that long when it works.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `test` in a thread with a network namespace and a mount namespace of its own, where no bpffs is mounted.
pub(crate) fn sandbox(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            // SAFETY: the flags concern namespaces and the working directory only, no memory and no descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            mount("none", "/sys/fs/bpf", "tmpfs", MountFlags::empty(), None).unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            ip("link set lo up");
            test();
        });
        if let Err(panic) = run.join() {
            resume_unwind(panic);
        }
    });
}

/// Runs `ip` with these words, in the calling thread's namespaces.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair, both ends up, tags left in the bytes.
pub(crate) fn veth(node: &str, pod: &str) -> (InterfaceRef, InterfaceRef) {
    ip(&format!("link add {node} type veth peer name {pod}"));
    for end in [node, pod] {
        espalier_xsk::ethtool::set_offload(end, espalier_xsk::ethtool::Offload::TxVlan, false).unwrap();
        ip(&format!("link set {end} up"));
    }
    (interface(node).unwrap(), interface(pod).unwrap())
}

/// The id of the XDP program on the interface, if any.
pub(crate) fn program_id(name: &str) -> Option<u32> {
    let text = ip(&format!("-details link show {name}"));
    let id = text.split("prog/xdp id ").nth(1)?.split_whitespace().next()?;
    Some(id.parse().unwrap())
}

pub(crate) fn config(mode: XdpMode) -> SteeringConfig {
    SteeringConfig { pin_dir: PathBuf::from("/sys/fs/bpf/espalier"), mode, max_pods: 16 }
}

pub(crate) fn open(mode: XdpMode) -> Steering {
    Steering::open(&config(mode)).unwrap()
}

/// What the counters gained, as (name, gain) of those that did.
pub(crate) fn gains(before: &SteeringCounters, after: &SteeringCounters) -> Vec<(&'static str, u64)> {
    let values = before.values().into_iter().zip(after.values());
    let all = SteeringCounters::NAMES.iter().copied().zip(values.map(|(old, new)| new - old));
    all.filter(|(_, gain)| *gain != 0).collect()
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An AF_XDP socket that is bound to nothing: enough to fill a slot of a map.
pub(crate) fn unbound_xdp_socket() -> OwnedFd {
    socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap()
}

/// A packet socket on one interface: sends raw frames, and sees what comes up from it into the stack.
pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub(crate) fn new(interface: &InterfaceRef) -> PacketSocket {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(u32::from(all)).unwrap());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol)).unwrap();
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: all,
            sll_ifindex: interface.index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address is a whole `sockaddr_ll` of the size given, and lives through the call.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        PacketSocket(socket)
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        wait_until("room to send", || match rustix::io::write(&self.0, frame) {
            Ok(written) => {
                assert_eq!(written, frame.len());
                true
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => false,
            Err(e) => panic!("cannot send {} bytes: {e}", frame.len()),
        });
    }

    /// A frame that came in (not one that went out), if there is one.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 16384];
        match rustix::io::read(self.0.as_fd(), &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Err(rustix::io::Errno::AGAIN) => None,
            Err(e) => panic!("cannot receive: {e}"),
        }
    }
}
