//! Echo servers of the probes' destinations: TCP and UDP, in the destination's namespace, until told to stop.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::Duration;

use crate::LabError;
use crate::netns::NetNs;

/// How often a server looks whether it is still wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Longest silence of a client.
const SILENCE: Duration = Duration::from_secs(10);

/// Listens at once, so that no probe comes too early; serves until `stop` is set.
pub(super) fn tcp<'scope>(
    scope: &'scope Scope<'scope, '_>,
    namespace: &NetNs,
    address: IpAddr,
    port: u16,
    stop: &'scope AtomicBool,
) -> Result<(), LabError> {
    let listener = namespace
        .run(|| {
            let listener = TcpListener::bind((address, port))?;
            listener.set_nonblocking(true)?;
            io::Result::Ok(listener)
        })?
        .map_err(|source| cannot_listen("TCP", namespace, address, port, source))?;
    scope.spawn(move || {
        thread::scope(|clients| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        clients.spawn(move || echo(stream, stop));
                    }
                    Err(_) => thread::sleep(LOOK_AGAIN),
                }
            }
        });
    });
    Ok(())
}

/// As [`tcp`], for datagrams.
pub(super) fn udp<'scope>(
    scope: &'scope Scope<'scope, '_>,
    namespace: &NetNs,
    address: IpAddr,
    port: u16,
    stop: &'scope AtomicBool,
) -> Result<(), LabError> {
    let socket = namespace
        .run(|| {
            let socket = UdpSocket::bind((address, port))?;
            socket.set_read_timeout(Some(LOOK_AGAIN))?;
            io::Result::Ok(socket)
        })?
        .map_err(|source| cannot_listen("UDP", namespace, address, port, source))?;
    scope.spawn(move || {
        let mut buffer = [0; 65536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                // A lost answer is the probe's business: it asks again.
                let _ = socket.send_to(&buffer[..length], client);
            }
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) {
    // The probe sees whatever goes wrong here as a missing or wrong answer.
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(LOOK_AGAIN));
    let _ = stream.set_write_timeout(Some(SILENCE));
    let mut buffer = [0; 16384];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn cannot_listen(what: &str, namespace: &NetNs, address: IpAddr, port: u16, source: io::Error) -> LabError {
    LabError::io(format!("cannot listen on {what} {address} port {port} in {}", namespace.name()), source)
}
