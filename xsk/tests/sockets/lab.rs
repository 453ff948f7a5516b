//! Two network namespaces joined by veths: the node (where ports are opened) and the far side (kernel sockets).
//!
//! A lab moves the calling test thread into the node's namespace, and on drop, also on panic, moves it back and
//! removes both namespaces. Names hold the process id, so that test binaries can run side by side.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use espalier_xsk::InterfaceRef;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// More than any step takes on a loaded machine; reached only by a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    home: File,
    node: String,
    far: String,
}

/// A packet socket on the far end of a veth: sends and receives whole frames.
pub(crate) struct FarEnd {
    socket: OwnedFd,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("xsk{}-{number}", std::process::id());
        let home = File::open("/proc/thread-self/ns/net").expect("this thread has a network namespace");
        let lab = Self { home, node: format!("{tag}-node"), far: format!("{tag}-far") };
        for name in [&lab.node, &lab.far] {
            run("ip", &["netns", "add", name]);
            enter(&open_namespace(name));
            // Neighbour discovery would add frames of its own to exact counts.
            for scope in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1")
                    .expect("IPv6 can be switched off");
            }
            run("ip", &["link", "set", "lo", "up"]);
        }
        enter(&open_namespace(&lab.node));
        lab
    }

    /// Makes the veth `name`, its far end called `name` too, and gives the node's end.
    pub(crate) fn veth(&self, name: &str, mtu: u32) -> InterfaceRef {
        let mtu = mtu.to_string();
        run(
            "ip",
            &[
                "link", "add", name, "mtu", &mtu, "type", "veth", "peer", name, "mtu", &mtu, "netns",
                &self.far,
            ],
        );
        run("ip", &["link", "set", name, "up"]);
        self.in_far(|| run("ip", &["link", "set", name, "up"]));
        espalier_xsk::interface(name).expect("the veth was just made")
    }

    /// A packet socket on the far end of veth `name`.
    pub(crate) fn far_end(&self, name: &str) -> FarEnd {
        self.in_far(|| FarEnd::open(name).expect("a packet socket on the far end"))
    }

    /// Runs `action` in the far ends' namespace.
    pub(crate) fn in_far<T>(&self, action: impl FnOnce() -> T) -> T {
        enter(&open_namespace(&self.far));
        let result = action();
        enter(&open_namespace(&self.node));
        result
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        enter(&self.home);
        for name in [&self.node, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl FarEnd {
    fn open(interface: &str) -> io::Result<Self> {
        let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
        // SAFETY: the call takes no pointers.
        let raw = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol)
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: espalier_xsk::interface(interface).map_err(io::Error::other)?.index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and length describe a live sockaddr_ll, which is what an AF_PACKET socket takes.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20)?;
        rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 64 << 20)?;
        Ok(Self { socket })
    }

    /// Sends one frame, waiting for room.
    pub(crate) fn send(&self, frame: &[u8]) {
        let mut sent = Ok(0);
        until("the far end to send", || {
            sent = rustix::net::send(&self.socket, frame, rustix::net::SendFlags::empty());
            !matches!(sent, Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS))
        });
        assert_eq!(sent, Ok(frame.len()));
    }

    /// The next frame from the node's side, if one is there. Frames this socket sent are skipped.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let mut buffer = vec![0; 65_536];
            let mut address = libc::sockaddr_ll {
                sll_family: 0,
                sll_protocol: 0,
                sll_ifindex: 0,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are live and exclusively ours, with the lengths given.
            let got = unsafe {
                libc::recvfrom(
                    self.socket.as_fd().as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut address).cast(),
                    &raw mut len,
                )
            };
            let got = usize::try_from(got).ok()?;
            if address.sll_pkttype != libc::PACKET_OUTGOING {
                buffer.truncate(got);
                return Some(buffer);
            }
        }
    }
}

/// Repeats `done` until it answers true; fails the test after [`DEADLINE`].
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the command can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}

fn open_namespace(name: &str) -> File {
    File::open(format!("/run/netns/{name}")).expect("`ip netns add` makes this file")
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("the test may change its network namespace");
}
