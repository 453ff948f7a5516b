//! The filter language over the flow table: each word against flows that are known to be there, and what is refused.

use serde_json::json;

use super::{FAR6, IN, OUT, WAYS, at, count, scenario};
use crate::request::send;
use crate::site::{FAR, PATIENCE, POD_A, POD_B, Site};
use crate::traffic::{udp, udp_echo};

#[test]
fn words_select_flows_by_their_first_packet() {
    let site = Site::up(scenario(&[OUT, IN]));
    for (index, (from, to, address)) in WAYS.into_iter().enumerate() {
        let server = at(address, 8500 + index as u16);
        let _echo = udp_echo(site.namespace(to).unwrap(), &server);
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = udp(site.namespace(from).unwrap(), any, PATIENCE);
        socket.send_to(b"?", &server).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1, "{server}");
    }
    // Out of the node 8500 and 8503, into it 8501 and 8504, inside it 8502 and 8505, which are two flows each.
    for (filter, flows) in [
        ("dst portrange 8500-8505".to_owned(), 8),
        ("src portrange 8500-8505".to_owned(), 0),
        ("port 8500 or 8501 or 8502".to_owned(), 4),
        ("udp and ip and portrange 8500-8505".to_owned(), 4),
        ("portrange 8500-8505 and not ip".to_owned(), 4),
        ("tcp port 8500".to_owned(), 0),
        (format!("dst host {FAR} or {FAR6} and dst portrange 8500-8505"), 2),
        (format!("src host {FAR} and port 8501"), 1),
        (format!("src net 10.0.1.0/24 and dst host {POD_B} and port 8502"), 2),
        (format!("src and dst host {POD_A}"), 0),
        ("ingress and portrange 8500-8505".to_owned(), 4),
        ("egress and portrange 8500-8505".to_owned(), 4),
        ("pod t/b and portrange 8500-8505".to_owned(), 2),
        ("not (pod t/b or egress) and portrange 8500-8505".to_owned(), 2),
        ("rule sgr-0-4 and portrange 8500-8505".to_owned(), 2),
        ("rule sgr-0-4 or sgr-1-6 and portrange 8500-8505".to_owned(), 4),
        ("group sg-open and portrange 8500-8505".to_owned(), 8),
    ] {
        let counted = count(&site, &json!({"filter": filter}));
        assert_eq!(counted.flows, flows, "{filter}: {counted:?}");
    }
    // Together with the other fields.
    assert_eq!(count(&site, &json!({"filter": "udp", "pod": "t/b", "port": 8502})).flows, 1);
}

#[test]
fn a_filter_that_cannot_be_meant_is_refused_at_its_character() {
    let site = Site::up(scenario(&[OUT, IN]));
    for (filter, field, at, wanted) in [
        // Not read at all: no field of a request yet.
        ("port 80 or or", "", 11, "nothing before it"),
        ("udp and pod t/zz", "filter", 12, "espalier pods"),
        ("rule sgr-nine", "filter", 5, "espalier rules"),
        ("group sg-nine", "filter", 6, "espalier groups"),
        ("udp and less 100", "filter", 8, "filters flows"),
    ] {
        let body = serde_json::to_vec(&json!({"filter": filter})).unwrap();
        let head = format!("POST /v1/flows/count HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n", body.len());
        let reply = send(site.control().socket(), &head, &body);
        assert_eq!((reply.status, reply.field()), (400, field), "{reply:?}");
        let pointed = format!("character {}: ", at + 1);
        assert!(reply.message().contains(&pointed) && reply.message().contains(wanted), "{reply:?}");
    }
}
