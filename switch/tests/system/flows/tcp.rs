//! TCP connections that end in every way there is, and open in the rarest one; between two pods, and inside one.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use espalier_api::Direction;
use espalier_api::flows::FlowState;
use espalier_lab::netns::NetNs;
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

use super::{FAR6, IN, OUT, POD_A6, WAYS, all_in, at, count, list, scenario, seen};
use crate::site::{FAR, PATIENCE, POD_A, POD_B, Site, wait_for};
use crate::traffic::{connection, converses, transfer};

/// A socket with timeouts, bound where it may be bound again at once.
fn bound(namespace: &NetNs, local: &str) -> Socket {
    let local: SocketAddr = local.parse().unwrap();
    let socket =
        namespace.run(|| Socket::new(Domain::for_address(local), Type::STREAM, None)).unwrap().unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&local.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Closing it sends a RST.
fn abort(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_half_closed_connection_carries_on_the_other_way_though_its_rules_are_gone() {
    let mut site = Site::up(scenario(&[OUT, IN]));
    let mut open = Vec::new();
    for (index, (from, to, address)) in WAYS.into_iter().enumerate() {
        let port = 8100 + index as u16;
        let (from, to) = (site.namespace(from).unwrap(), site.namespace(to).unwrap());
        let (mut near, mut far) = connection(from, to, &at(address, port)).unwrap();
        assert!(converses(&mut near, &mut far));
        near.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 0, "the end of the stream must arrive at {address}");
        assert!(wait_for(|| all_in(&site, port, FlowState::HalfClosed)), "{:?}", seen(&site, port));
        open.push((port, near, far));
    }
    site.change(|snapshot| snapshot.security_groups[0].rules.clear());
    for (port, near, far) in open {
        transfer(far, near, 5_000_000);
        assert!(wait_for(|| all_in(&site, port, FlowState::Closing)), "{:?}", seen(&site, port));
    }
    site.assert_balanced();
}

#[test]
fn a_reset_ends_a_connection_and_its_ports_serve_again() {
    let site = Site::up(scenario(&[OUT, IN]));
    for (index, (from, to, address)) in WAYS.into_iter().enumerate() {
        let port = 8200 + index as u16;
        let (from, to) = (site.namespace(from).unwrap(), site.namespace(to).unwrap());
        let server: SocketAddr = at(address, port).parse().unwrap();
        let listener = to.run(|| TcpListener::bind(server)).unwrap().unwrap();
        let any = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let mut local = any.to_owned();
        for round in 0..6 {
            let socket = bound(from, &local);
            socket.connect_timeout(&server.into(), PATIENCE).unwrap();
            let mut near: TcpStream = socket.into();
            let (mut far, _) = listener.accept().unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            assert!(converses(&mut near, &mut far), "to {server}, connection {round} from {local}");
            local = near.local_addr().unwrap().to_string();
            assert!(wait_for(|| all_in(&site, port, FlowState::Established)), "{:?}", seen(&site, port));
            // Either end in turn.
            let (left, mut told) = if round % 2 == 0 { (near, far) } else { (far, near) };
            abort(left);
            assert_eq!(told.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset, "to {server}");
            assert!(wait_for(|| all_in(&site, port, FlowState::Reset)), "{:?}", seen(&site, port));
        }
        let entries = if index % 3 == 2 { 2 } else { 1 };
        assert_eq!(count(&site, &json!({"port": port})).flows, entries, "of the last connection only");
    }
    site.assert_balanced();
}

#[test]
fn both_ends_open_at_once() {
    let mut site = Site::up(scenario(&[OUT, IN]));
    let rules = site.snapshot.security_groups[0].rules.clone();
    site.change(|snapshot| snapshot.security_groups[0].rules.clear());
    let pairs = [("t/a", POD_A, "far", FAR), ("t/a", POD_A, "t/b", POD_B), ("t/a", POD_A6, "far", FAR6)];
    let mut opening = Vec::new();
    for (index, (one, own, other, theirs)) in pairs.into_iter().enumerate() {
        let (here, there) = (at(own, 8300 + index as u16), at(theirs, 8400 + index as u16));
        let near = bound(site.namespace(one).unwrap(), &here);
        let far = bound(site.namespace(other).unwrap(), &there);
        // Nobody listens, and the first SYNs are dropped: each end gets the other's while it waits for an answer.
        for (socket, to) in [(&near, &there), (&far, &here)] {
            socket.set_nonblocking(true).unwrap();
            let to: SocketAddr = to.parse().unwrap();
            assert_eq!(socket.connect(&to.into()).unwrap_err().raw_os_error(), Some(115), "EINPROGRESS");
        }
        opening.push((index, near, far));
    }
    site.change(|snapshot| snapshot.security_groups[0].rules = rules);
    for (index, near, far) in opening {
        let ends = [&near, &far];
        assert!(wait_for(|| ends.iter().all(|end| end.peer_addr().is_ok())), "pair {index} did not open");
        for end in ends {
            assert!(end.take_error().unwrap().is_none());
            end.set_nonblocking(false).unwrap();
        }
        assert!(converses(&mut near.into(), &mut far.into()), "pair {index}");
        let port = 8300 + index as u16;
        let wanted = if index == 1 { 2 } else { 1 };
        assert_eq!(list(&site, &json!({"port": port})).len(), wanted, "{:?}", seen(&site, port));
    }
    site.assert_balanced();
}

#[test]
fn between_two_pods_each_has_its_own_entry_and_both_close() {
    let site = Site::up(scenario(&[OUT, IN]));
    let (a, b) = (site.namespace("t/a").unwrap(), site.namespace("t/b").unwrap());
    let (mut near, mut far) = connection(a, b, &at(POD_B, 8500)).unwrap();
    assert!(converses(&mut near, &mut far));
    let both =
        |state| [("t/a".to_owned(), Direction::Egress, state), ("t/b".to_owned(), Direction::Ingress, state)];
    assert!(wait_for(|| seen(&site, 8500) == both(FlowState::Established)), "{:?}", seen(&site, 8500));
    transfer(near, far, 1_000_000);
    assert!(wait_for(|| seen(&site, 8500) == both(FlowState::Closing)), "{:?}", seen(&site, 8500));
    let flows = list(&site, &json!({"port": 8500}));
    let [of_a, of_b] = ["t/a", "t/b"].map(|pod| flows.iter().find(|flow| flow.pod.as_str() == pod).unwrap());
    assert_eq!((of_a.egress_packets, of_a.ingress_packets), (of_b.ingress_packets, of_b.egress_packets));
    assert_eq!((of_a.egress_bytes, of_a.ingress_bytes), (of_b.ingress_bytes, of_b.egress_bytes));
    assert!(of_a.egress_bytes > 1_000_000, "{of_a:?}");
    site.assert_balanced();
}

#[test]
fn a_pod_reaches_itself_without_the_switch() {
    let mut site = Site::up(scenario(&[OUT, IN]));
    site.change(|snapshot| snapshot.security_groups[0].rules.clear());
    let a = site.namespace("t/a").unwrap();
    let before = site.assert_balanced().counters.rx;
    for (index, own) in [POD_A, POD_A6].into_iter().enumerate() {
        let port = 8600 + index as u16;
        let (mut near, mut far) = connection(a, a, &at(own, port)).unwrap();
        assert!(converses(&mut near, &mut far));
        transfer(near, far, 5_000_000);
        assert_eq!(seen(&site, port), []);
    }
    // Neighbour discovery may come by at any time; ten megabytes do not.
    let seen = site.assert_balanced().counters.rx - before;
    assert!(seen < 50, "the switch saw {seen} packets");
}
