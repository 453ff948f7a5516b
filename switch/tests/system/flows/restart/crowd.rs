//! Many connections at once, each with one number under way at a time: sent, checked, sent back, checked.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::site::{PATIENCE, Site};
use crate::traffic::Running;

/// A connection, and how far it is.
struct Pair {
    near: Progress,
    far: Progress,
    exchanged: u64,
}

/// One end, and what it has of the number it waits for.
struct Progress {
    end: TcpStream,
    part: [u8; 8],
    have: usize,
}

/// The connections, not yet busy.
pub(super) struct Crowd(Vec<Pair>);

/// The connections, busy.
pub(super) struct Busy {
    shared: Arc<Shared>,
    running: Running<Duration>,
}

#[derive(Default)]
struct Shared {
    exchanges: AtomicU64,
    slowest: AtomicU64,
    resets: AtomicU64,
}

/// What became of them.
pub(super) struct Report {
    pub(super) resets: u64,
    pub(super) slowest: u64,
    /// The longest time in which not one of them exchanged anything.
    pub(super) longest_pause: Duration,
}

impl Crowd {
    /// Opens them one after the other.
    pub(super) fn connect(site: &Site, from: &str, to: &str, address: &str, connections: usize) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let listener = site.namespace(to).unwrap().run(|| TcpListener::bind(address)).unwrap().unwrap();
        let connect = || {
            let pair = |_| {
                let near = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
                let (far, _) = listener.accept().unwrap();
                Pair { near: Progress::new(near), far: Progress::new(far), exchanged: 0 }
            };
            (0..connections).map(pair).collect()
        };
        Self(site.namespace(from).unwrap().run(connect).unwrap())
    }

    /// Has all of them talk until told to stop.
    pub(super) fn start(mut self) -> Busy {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let running = Running::start(move |stop| {
            for (index, pair) in self.0.iter_mut().enumerate() {
                pair.near.end.write_all(&0u64.to_be_bytes()).unwrap();
                pace(index);
            }
            let mut longest = Duration::ZERO;
            let mut last = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let mut exchanged = 0;
                let before = self.0.len();
                let mut index = 0;
                self.0.retain_mut(|pair| {
                    index += 1;
                    pace(index);
                    pair.advance().inspect(|count| exchanged += count).is_ok()
                });
                told.resets.fetch_add((before - self.0.len()) as u64, Ordering::Relaxed);
                if exchanged > 0 {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                } else {
                    std::thread::sleep(Duration::from_millis(1));
                }
                told.exchanges.fetch_add(exchanged, Ordering::Relaxed);
                let slowest = self.0.iter().map(|pair| pair.exchanged).min().unwrap_or_default();
                told.slowest.store(slowest, Ordering::Relaxed);
            }
            longest
        });
        Busy { shared, running }
    }
}

/// Thousands of segments at once would overrun any ring; real clients do not speak in chorus.
fn pace(index: usize) {
    if index.is_multiple_of(128) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Busy {
    /// Numbers that went there and back.
    pub(super) fn exchanges(&self) -> u64 {
        self.shared.exchanges.load(Ordering::Relaxed)
    }

    /// Those of the connection that has done least.
    pub(super) fn slowest(&self) -> u64 {
        self.shared.slowest.load(Ordering::Relaxed)
    }

    /// Connections that ended.
    pub(super) fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::Relaxed)
    }

    /// Ends it all.
    pub(super) fn stop(self) -> Report {
        let longest_pause = self.running.stop();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Report { resets: load(&self.shared.resets), slowest: load(&self.shared.slowest), longest_pause }
    }
}

impl Progress {
    fn new(end: TcpStream) -> Self {
        end.set_nodelay(true).unwrap();
        end.set_nonblocking(true).unwrap();
        Self { end, part: [0; 8], have: 0 }
    }

    /// Reads on; whether the number is whole and the one expected.
    fn expects(&mut self, number: u64) -> std::io::Result<bool> {
        match self.end.read(&mut self.part[self.have..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.have += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        if self.have < self.part.len() {
            return Ok(false);
        }
        assert_eq!(u64::from_be_bytes(self.part), number, "another number than was sent");
        self.have = 0;
        Ok(true)
    }
}

impl Pair {
    /// Does what can be done without waiting; numbers that came back.
    fn advance(&mut self) -> std::io::Result<u64> {
        let number = self.exchanged;
        if self.far.expects(number)? {
            self.far.end.write_all(&number.to_be_bytes())?;
        }
        if !self.near.expects(number)? {
            return Ok(0);
        }
        self.exchanged += 1;
        self.near.end.write_all(&self.exchanged.to_be_bytes())?;
        Ok(1)
    }
}
