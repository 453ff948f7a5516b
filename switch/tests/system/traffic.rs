//! Kernel sockets in the lab's namespaces: echo servers, steady request flows, and streams whose every byte is checked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use espalier_lab::netns::NetNs;

use crate::site::PATIENCE;

/// How often a thread looks whether it is still wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A thread that ends when it is no longer wanted.
pub(crate) struct Running<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Running<T> {
    /// Begins it.
    pub(crate) fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || work(&seen))) }
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> T {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; another one would hide the first.
            let _ = thread.join();
        }
    }
}

/// A UDP socket in a namespace that waits for `patience` when it reads.
pub(crate) fn udp(namespace: &NetNs, local: &str, patience: Duration) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(local)).unwrap().unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// Sends every datagram back.
pub(crate) fn udp_echo(namespace: &NetNs, local: &str) -> Running<()> {
    let socket = udp(namespace, local, LOOK_AGAIN);
    Running::start(move |stop| {
        let mut buffer = vec![0; 65536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    })
}

/// What became of a steady flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// Requests.
    pub(crate) sent: u64,
    /// Of them, those answered.
    pub(crate) answered: u64,
}

/// Asks an echo server without pause, one datagram at a time; a lost one is waited for as long as anybody would.
pub(crate) fn steady(namespace: &NetNs, local: &str, to: &str) -> Running<Flow> {
    let socket = udp(namespace, local, Duration::from_secs(10));
    let to: SocketAddr = to.parse().unwrap();
    Running::start(move |stop| {
        let mut flow = Flow { sent: 0, answered: 0 };
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            let request = flow.sent.to_be_bytes();
            flow.sent += 1;
            if socket.send_to(&request, to).is_ok()
                && let Ok((length, _)) = socket.recv_from(&mut buffer)
                && buffer[..length] == request
            {
                flow.answered += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        flow
    })
}

/// Sends datagrams whether they are answered or not.
pub(crate) fn blind(namespace: &NetNs, local: &str, to: &str) -> Running<Flow> {
    let socket = udp(namespace, local, LOOK_AGAIN);
    socket.set_nonblocking(true).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    Running::start(move |stop| {
        let mut flow = Flow { sent: 0, answered: 0 };
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            // An unreachable gateway is a part of what is tried.
            flow.sent += u64::from(socket.send_to(&[0; 32], to).is_ok());
            while socket.recv_from(&mut buffer).is_ok() {
                flow.answered += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        flow
    })
}

/// Whether a datagram with these bytes comes back from an echo server, sent again until it does.
pub(crate) fn answers(namespace: &NetNs, local: &str, to: &str, bytes: &[u8]) -> bool {
    let socket = udp(namespace, local, Duration::from_millis(200));
    let mut buffer = [0; 2048];
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let _ = socket.send_to(bytes, to);
        if let Ok((length, _)) = socket.recv_from(&mut buffer)
            && buffer[..length] == *bytes
        {
            return true;
        }
    }
    false
}

/// A TCP connection between two namespaces: the end that connected and the end that accepted.
pub(crate) fn connection(from: &NetNs, to: &NetNs, address: &str) -> io::Result<(TcpStream, TcpStream)> {
    let address: SocketAddr = address.parse().unwrap();
    let listener = to.run(|| TcpListener::bind(address)).unwrap()?;
    let near = from.run(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap()?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far))
}

/// Whether bytes sent into one end come out of the other, and the other way round.
pub(crate) fn converses(near: &mut TcpStream, far: &mut TcpStream) -> bool {
    carries(near, far) && carries(far, near)
}

/// Whether bytes sent into one end come out of the other.
pub(crate) fn carries(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    let mut received = [0; 5];
    from.write_all(b"hello").is_ok() && to.read_exact(&mut received).is_ok() && received == *b"hello"
}

/// Sends a known stream of this many bytes and checks that just this arrives.
pub(crate) fn transfer(mut from: TcpStream, mut to: TcpStream, bytes: usize) {
    let sender = thread::spawn(move || {
        let mut pattern = Pattern::new();
        let mut left = bytes;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let length = left.min(buffer.len());
            pattern.fill(&mut buffer[..length]);
            from.write_all(&buffer[..length]).unwrap();
            left -= length;
        }
    });
    let mut pattern = Pattern::new();
    let (mut expected, mut received) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut left = bytes;
    while left > 0 {
        let length = left.min(expected.len());
        pattern.fill(&mut expected[..length]);
        to.read_exact(&mut received[..length]).unwrap();
        assert!(
            expected[..length] == received[..length],
            "corrupt within {length} bytes before {left} from the end"
        );
        left -= length;
    }
    sender.join().unwrap();
    assert_eq!(to.read(&mut received).unwrap(), 0, "more arrived than was sent");
}

/// Bytes that do not repeat (xorshift64*).
pub(crate) struct Pattern(u64);

impl Pattern {
    /// From the beginning.
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
