//! Tries one exchange with kernel sockets, from inside the source's namespace, until it works or is called off.
//!
//! An `Ok` means that an answer came back and was right. One-way protocols only send; whether they arrive is for the
//! receiver's side to say.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use espalier_api::Family;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::icmp::Message;
use crate::dns;
use crate::netns::NetNs;

/// Bytes of a TCP echo: several segments at any MTU.
const ECHO_BYTES: usize = 48 * 1024;

/// Bytes of a UDP or ICMP request: one frame at any MTU.
const DATAGRAM_BYTES: usize = 512;

/// A datagram may be lost while neighbours are looked up: it is sent again this often.
const SEND_AGAIN: Duration = Duration::from_millis(300);

/// Time between two looks at whether the attempt is still wanted.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
const LOOK_AGAIN_TIME: Duration = Duration::from_millis(10);

/// Where an attempt starts, where it goes, and when it has to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) namespace: &'a NetNs,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) called_off: &'a AtomicBool,
    pub(super) deadline: Instant,
}

impl Attempt<'_> {
    /// TCP connect; random bytes must come back.
    pub(super) fn tcp_echo(&self, port: u16) -> io::Result<()> {
        let mut stream = self.connect(port)?;
        let sent = random(ECHO_BYTES)?;
        stream.write_all(&sent)?;
        let mut received = vec![0; sent.len()];
        stream.read_exact(&mut received)?;
        if received == sent { Ok(()) } else { Err(wrong("the echo differs from what was sent")) }
    }

    /// A request to the metadata service.
    pub(super) fn http(&self, port: u16) -> io::Result<()> {
        let mut stream = self.connect(port)?;
        stream.write_all(b"GET /latest/meta-data/ HTTP/1.1\r\nHost: imds\r\nConnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        if reply.starts_with("HTTP/1.1 200 ") {
            Ok(())
        } else {
            Err(wrong(&format!("the reply is {reply:?}")))
        }
    }

    /// A datagram; the same must come back.
    pub(super) fn udp_echo(&self, port: u16) -> io::Result<()> {
        let sent = random(DATAGRAM_BYTES)?;
        self.ask(port, &sent, |received| if received == sent { Some(Ok(())) } else { None })
    }

    /// A question for the addresses of a name; all that were `expected` must be in the answer.
    pub(super) fn resolve(&self, name: &str, family: Family, expected: &[IpAddr]) -> io::Result<()> {
        let id = u16::from_be_bytes([random(2)?[0], 1]);
        let question = dns::question(id, name, family).map_err(|message| wrong(&message))?;
        self.ask(53, &question, |reply| match dns::addresses(id, reply) {
            Ok(found) if expected.iter().all(|address| found.contains(address)) => Some(Ok(())),
            Ok(found) => Some(Err(wrong(&format!("{name} resolves to {found:?}, not to {expected:?}")))),
            Err(message) => Some(Err(wrong(&format!("{name}: {message}")))),
        })
    }

    /// An ICMP message. Of an echo request the reply is awaited; others are sent until the attempt is called off.
    pub(super) fn icmp(&self, icmp_type: u8, code: u8) -> io::Result<()> {
        let payload = random(DATAGRAM_BYTES)?;
        let message = Message::new(self.from, self.to, icmp_type, code, &payload)?;
        let protocol = if self.to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        self.raw(protocol, message.bytes(), |received| message.is_answered_by(received))
    }

    /// A packet of another protocol, sent until the attempt is called off.
    pub(super) fn one_way(&self, protocol: u8) -> io::Result<()> {
        self.raw(Protocol::from(i32::from(protocol)), &random(DATAGRAM_BYTES)?, |_| false)
    }

    fn raw(&self, protocol: Protocol, bytes: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        let socket = self.socket(Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        let to = SockAddr::from(SocketAddr::new(self.to, 0));
        let mut buffer = vec![0; 65536];
        let mut sent: Option<Instant> = None;
        loop {
            if sent.is_none_or(|sent| sent.elapsed() > SEND_AGAIN) {
                socket.send_to(bytes, &to)?;
                sent = Some(Instant::now());
            }
            match (&socket).read(&mut buffer) {
                Ok(length) if is_answer(&buffer[..length]) => return Ok(()),
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // An ICMP error for an earlier packet; the receiver's side decides.
                Err(_) => {}
            }
            self.still_wanted()?;
            poll_in(&socket)?;
        }
    }

    fn ask(
        &self,
        port: u16,
        request: &[u8],
        judge: impl Fn(&[u8]) -> Option<io::Result<()>>,
    ) -> io::Result<()> {
        let socket = UdpSocket::from(self.socket(Type::DGRAM, None)?);
        socket.connect((self.to, port))?;
        socket.set_nonblocking(true)?;
        let mut buffer = vec![0; 65536];
        let mut sent: Option<Instant> = None;
        loop {
            if sent.is_none_or(|sent| sent.elapsed() > SEND_AGAIN) {
                // An ICMP error for an earlier datagram shows up here and is forgotten.
                let _ = socket.send(request);
                sent = Some(Instant::now());
            }
            if let Ok(length) = socket.recv(&mut buffer)
                && let Some(outcome) = judge(&buffer[..length])
            {
                return outcome;
            }
            self.still_wanted()?;
            poll_in(&socket)?;
        }
    }

    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let socket = self.socket(Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let to = SockAddr::from(SocketAddr::new(self.to, port));
        match socket.connect(&to) {
            Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => return Err(error),
            _ => {}
        }
        loop {
            let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
            if poll(&mut fds, Some(&LOOK_AGAIN))? > 0 {
                break;
            }
            self.still_wanted()?;
        }
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        socket.set_nonblocking(false)?;
        let left = self.deadline.saturating_duration_since(Instant::now()).max(LOOK_AGAIN_TIME);
        socket.set_read_timeout(Some(left))?;
        socket.set_write_timeout(Some(left))?;
        Ok(socket.into())
    }

    /// A socket of the namespace, bound to the source address.
    fn socket(&self, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
        let make = || {
            let socket = Socket::new(Domain::for_address(SocketAddr::new(self.from, 0)), kind, protocol)?;
            socket.bind(&SockAddr::from(SocketAddr::new(self.from, 0)))?;
            Ok(socket)
        };
        self.namespace.run(make).map_err(io::Error::other)?
    }

    fn still_wanted(&self) -> io::Result<()> {
        if self.called_off.load(Ordering::Relaxed) {
            return Err(wrong("called off"));
        }
        if Instant::now() > self.deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// `EINPROGRESS` (asm-generic/errno.h): the connect goes on.
const IN_PROGRESS: i32 = 115;

fn poll_in(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut fds, Some(&LOOK_AGAIN)) {
        Ok(_) if fds[0].revents().contains(PollFlags::ERR) => thread::sleep(LOOK_AGAIN_TIME),
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn random(length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
