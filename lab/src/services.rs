//! The VPC's own services: the Amazon-provided resolver and the instance metadata service, as far as pods notice.
//!
//! The program `espalier-lab-vpc` runs [`serve`] inside the VPC namespace for as long as a lab is up. Security groups
//! do not filter these addresses, which is what they are here to show.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dns;

/// What the program says on stdout once every address answers.
pub(crate) const READY: &str = "ready";

/// Longest wait for the rest of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest request head of the metadata service.
const REQUEST_MAX: usize = 8192;

/// Where to listen, and what to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    /// Names and addresses.
    pub names: dns::Names,
    /// Addresses of the resolver.
    pub resolver: Vec<IpAddr>,
    /// Addresses of the metadata service.
    pub imds: Vec<IpAddr>,
}

/// Listens everywhere, says `ready` on stdout, and serves until the process ends.
pub fn serve(services: Services) -> io::Result<()> {
    let names = Arc::new(services.names);
    for address in services.resolver {
        let (udp, tcp) = (UdpSocket::bind((address, 53))?, TcpListener::bind((address, 53))?);
        let (for_udp, for_tcp) = (Arc::clone(&names), Arc::clone(&names));
        thread::spawn(move || resolve_udp(&udp, &for_udp));
        thread::spawn(move || accept(&tcp, |stream| resolve_tcp(stream, &for_tcp)));
    }
    for address in services.imds {
        let listener = TcpListener::bind(SocketAddr::new(address, 80))?;
        thread::spawn(move || accept(&listener, metadata));
    }
    writeln!(io::stdout(), "{READY}")?;
    loop {
        thread::park();
    }
}

fn resolve_udp(socket: &UdpSocket, names: &dns::Names) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(reply) = dns::reply(names, &buffer[..length]) {
            // A client that has gone asks again or not at all.
            let _ = socket.send_to(&reply, client);
        }
    }
}

fn accept(listener: &TcpListener, serve: impl Fn(&mut TcpStream) -> io::Result<()> + Sync) {
    thread::scope(|scope| {
        for mut stream in listener.incoming().flatten() {
            let serve = &serve;
            scope.spawn(move || {
                let _ = stream.set_read_timeout(Some(REQUEST_TIMEOUT));
                // A broken client hurts nobody but itself.
                let _ = serve(&mut stream);
            });
        }
    });
}

/// RFC 1035 4.2.2: each message has its length before it.
fn resolve_tcp(stream: &mut TcpStream, names: &dns::Names) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message)?;
        let Some(reply) = dns::reply(names, &message) else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &reply].concat())?;
    }
}

fn metadata(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 || head.len() > REQUEST_MAX {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..length]);
    }
    let body = "ami-id\ninstance-id\nlocal-ipv4\nmac\n";
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_api::Family;

    #[test]
    fn the_resolver_answers_over_tcp_message_by_message() {
        let address: IpAddr = "10.0.2.20".parse().unwrap();
        let names = dns::Names::from([("db.lab.internal".to_owned(), vec![address])]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut served = listener.accept().unwrap().0;
        thread::scope(|scope| {
            scope.spawn(|| resolve_tcp(&mut served, &names));
            for id in [1, 2] {
                let question = dns::question(id, "db.lab.internal", Family::V4).unwrap();
                let length = u16::try_from(question.len()).unwrap().to_be_bytes();
                client.write_all(&[&length[..], &question].concat()).unwrap();
                let mut length = [0; 2];
                client.read_exact(&mut length).unwrap();
                let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
                client.read_exact(&mut reply).unwrap();
                assert_eq!(dns::addresses(id, &reply), Ok(vec![address]));
            }
            client.shutdown(std::net::Shutdown::Both).unwrap();
        });
    }
}
