//! Turning a frame around: addresses and ports change places, echo requests become replies.
//!
//! Checksums stay right: what changes places is summed either way, and a reply's type is accounted for.

use crate::checksum;
use crate::layout::{ICMP, ICMPV6, Layout, TCP, UDP};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Rewrites a frame (its first bytes; `_length` in all) so that it goes back. False for frames without a layout.
#[must_use]
pub fn turn(frame: &mut [u8], _length: usize) -> bool {
    let Some(layout) = Layout::of(frame) else { return false };
    swap(frame, 0, 6, 6);
    if layout.v6 {
        swap(frame, layout.network + 8, layout.network + 24, 16);
    } else {
        swap(frame, layout.network + 12, layout.network + 16, 4);
    }
    match layout.protocol {
        UDP | TCP => swap(frame, layout.transport, layout.transport + 2, 2),
        ICMP => answer(frame, layout.transport, ECHO_REQUEST, ECHO_REPLY),
        ICMPV6 => answer(frame, layout.transport, ECHO_REQUEST_V6, ECHO_REPLY_V6),
        _ => return false,
    }
    true
}

fn swap(frame: &mut [u8], one: usize, other: usize, length: usize) {
    for at in 0..length {
        frame.swap(one + at, other + at);
    }
}

/// Makes a reply of an ICMP echo request.
fn answer(frame: &mut [u8], at: usize, request: u8, reply: u8) {
    if frame[at] != request {
        return;
    }
    let code = frame[at + 1];
    let before = u16::from_be_bytes([frame[at + 2], frame[at + 3]]);
    let [old, new] = [request, reply].map(|kind| u16::from_be_bytes([kind, code]));
    frame[at] = reply;
    frame[at + 2..at + 4].copy_from_slice(&checksum::updated(before, old, new).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{check, every_kind};
    use crate::frame::{Headers, Protocol};

    #[test]
    fn frames_go_back_with_right_checksums() {
        for headers in every_kind() {
            let mut frame = headers.build(200).unwrap();
            assert!(turn(&mut frame, 200));
            check(&frame);
            let echo = headers.protocol == Protocol::Icmp;
            let back = Headers {
                source_mac: headers.destination_mac,
                destination_mac: headers.source_mac,
                source: headers.destination,
                destination: headers.source,
                source_port: if echo { headers.source_port } else { headers.destination_port },
                destination_port: headers.source_port,
                ..headers
            };
            if echo {
                let kind = if headers.source.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
                assert_eq!(frame[usize::from(headers.bytes()) - 8], kind);
            } else {
                assert_eq!(frame, back.build(200).unwrap(), "{headers:?}");
            }
        }
    }

    #[test]
    fn other_frames_are_left_alone() {
        let mut arp = vec![7; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let before = arp.clone();
        assert!(!turn(&mut arp, 60));
        assert_eq!(arp, before);
    }
}
