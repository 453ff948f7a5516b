//! Frames for the tests, put together by hand so that every byte is known.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub(crate) const POD: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;

/// Ethernet header to `destination` and the rest.
pub(crate) fn ethernet(destination: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &POD, &ether_type.to_be_bytes(), payload].concat()
}

/// The frame with a tag behind its MAC addresses.
pub(crate) fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    [&frame[..12], &tpid.to_be_bytes(), &tci.to_be_bytes(), &frame[12..]].concat()
}

/// A UDP packet to `destination` with `length` bytes of payload that tell their place. Checksums are left zero.
pub(crate) fn ipv4(destination: [u8; 4], length: usize) -> Vec<u8> {
    let total = (28 + length) as u16;
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(Ipv4Addr::new(10, 0, 0, 10).octets());
    header.extend(destination);
    header.extend([0x30, 0x39, 0, 53]);
    header.extend(((8 + length) as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend((0..length).map(|place| (place % 251) as u8));
    ethernet(ROUTER, IPV4, &header)
}

/// An IPv6 packet to `destination` with this next header and payload.
pub(crate) fn ipv6(destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([next_header, 64]);
    header.extend("fd00::a".parse::<Ipv6Addr>().unwrap().octets());
    header.extend(destination.octets());
    header.extend(payload);
    ethernet(ROUTER, IPV6, &header)
}
