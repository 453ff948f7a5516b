//! Datagrams of 20 kB, which travel as fourteen fragments: whole where the rules allow them, not at all where not.

use std::net::SocketAddr;
use std::time::Duration;

use espalier_lab::netns::NetNs;
use espalier_lab::packet_socket::PacketSocket;

use super::{WAYS, at, marked, scenario};
use crate::frames::{IPV4, UDP, V4, ethernet, inject, udp as datagram};
use crate::site::{FAR, PATIENCE, POD_A, Site, growth, wait_for};
use crate::traffic::{answers, udp, udp_echo};

const LENGTH: usize = 20_000;
/// 20,008 bytes in parts of 1480 (IPv4) or of 1448 (IPv6, whose parts have a header of their own).
const PARTS: u64 = 14;
const ROUNDS: usize = 20;

/// UDP to port 7 and nothing else.
fn site() -> Site {
    let udp = "IpProtocol: udp, FromPort: 7, ToPort: 7";
    Site::up(scenario(&[&format!("IsEgress: true, {udp}"), udp]))
}

fn any(address: &str) -> &'static str {
    if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" }
}

#[test]
fn they_arrive_whole_and_so_do_their_answers() {
    let site = site();
    for (from, to, address) in WAYS {
        let server = at(address, 7);
        let (from, to) = (site.namespace(from).unwrap(), site.namespace(to).unwrap());
        let _echo = udp_echo(to, &server);
        assert!(answers(from, any(address), &server, b"neighbours are known now"));
        let socket = udp(from, any(address), PATIENCE);
        let before = site.status().counters;
        let mut received = vec![0; 65536];
        for round in 0..ROUNDS {
            let sent = marked(LENGTH, round);
            socket.send_to(&sent, &server).unwrap();
            let (length, _) = socket.recv_from(&mut received).unwrap_or_else(|error| {
                panic!(
                    "{server}, {round}: {error}: {:?}",
                    growth(&before.dropped, &site.status().counters.dropped)
                )
            });
            assert!(received[..length] == sent, "{server}: {length} bytes came back, not what was sent");
        }
        let after = site.assert_balanced().counters;
        assert!(after.forwarded - before.forwarded >= ROUNDS as u64 * 2 * PARTS, "{before:?} {after:?}");
        let lost = growth(&before.dropped, &after.dropped);
        assert!(
            !lost.keys().any(|reason| reason.starts_with("fragment") || reason.starts_with("denied")),
            "{lost:?}"
        );
    }
}

#[test]
fn of_denied_ones_not_a_fragment_passes() {
    const MARK: &[u8] = b"[denied]";
    let site = site();
    for (from, to, address) in WAYS {
        let (sender, receiver) = (site.namespace(from).unwrap(), site.namespace(to).unwrap());
        let echo = udp_echo(receiver, &at(address, 7));
        assert!(answers(sender, any(address), &at(address, 7), b"neighbours are known now"));
        let mut packets = PacketSocket::open(receiver).unwrap();
        let reason = if from == "far" { "denied-ingress" } else { "denied-egress" };
        let before = site.status().counters.dropped;
        let socket = udp(sender, any(address), PATIENCE);
        socket.send_to(&MARK.repeat(LENGTH / MARK.len()), at(address, 8)).unwrap();
        let dropped = || growth(&before, &site.status().counters.dropped);
        assert!(wait_for(|| dropped().get(reason) == Some(&PARTS)), "{address}: {:?}", dropped());
        socket.send_to(b"[allowed]", at(address, 7)).unwrap();
        let holds = |frame: &[u8], text: &[u8]| frame.windows(text.len()).any(|window| window == text);
        let ours = |frame: &[u8]| holds(frame, MARK) || holds(frame, b"[allowed]");
        let first = packets.find(PATIENCE, ours).unwrap().unwrap();
        assert!(!holds(first, MARK), "a fragment of the denied datagram came to {to}");
        drop(echo);
    }
    site.assert_balanced();
}

/// The parts of a datagram from pod a to the far end, in the order they are to travel.
fn parts(payload: &[u8], id: u16) -> Vec<Vec<u8>> {
    let whole = datagram(7, payload);
    let chunks: Vec<&[u8]> = whole.chunks(1480).collect();
    let last = chunks.len() - 1;
    let frame = |(index, chunk): (usize, &&[u8])| {
        let fragment = (id, (index * 185) as u16, index < last);
        let packet =
            V4 { fragment, ..V4::new(POD_A.parse().unwrap(), FAR.parse().unwrap(), UDP, chunk.to_vec()) };
        ethernet([2, 0, 0, 0, 0, 9], [0; 6], IPV4, &packet.bytes())
    };
    chunks.iter().enumerate().map(frame).collect()
}

fn with_source(frames: &mut [Vec<u8>], mac: [u8; 6]) {
    frames.iter_mut().for_each(|frame| frame[6..12].copy_from_slice(&mac));
}

#[test]
fn the_last_part_may_come_first() {
    let site = site();
    let (a, far) = (site.namespace("t/a").unwrap(), site.namespace("far").unwrap());
    let receiver = udp(far, &at(FAR, 7), Duration::from_secs(2));
    assert!(greeted(a, &receiver));
    let mac = site.pod("t/a").pod_mac.unwrap().octets();
    let mut received = vec![0; 65536];
    let mut id = 0;
    let before = site.status().counters;
    // Those that wait for the first are held for half a second, which a busy machine may miss.
    let arrived = wait_for(|| {
        id += 1;
        let payload = marked(LENGTH, id.into());
        let mut frames = parts(&payload, id);
        frames.reverse();
        with_source(&mut frames, mac);
        inject(a, "eth0", &frames);
        receiver.recv(&mut received).is_ok_and(|length| received[..length] == payload)
    });
    assert!(arrived, "{:?}", growth(&before.dropped, &site.status().counters.dropped));
    site.assert_balanced();
}

fn greeted(a: &NetNs, receiver: &std::net::UdpSocket) -> bool {
    let to: SocketAddr = at(FAR, 7).parse().unwrap();
    let socket = udp(a, "0.0.0.0:0", PATIENCE);
    socket.send_to(b"neighbours are known now", to).is_ok() && receiver.recv(&mut [0; 64]).is_ok()
}
