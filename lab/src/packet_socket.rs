//! An AF_PACKET socket inside a namespace: what its interfaces receive and send, frame by frame.
//!
//! The probes count with it what reached a receiver; tests look at frames with it. It sees every interface of the
//! namespace. The kernel has moved an outer VLAN tag out of the frame before (`__netif_receive_skb_core`), so a tag is
//! asked for with a filter.

use std::io::{self, ErrorKind, Read as _};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use espalier_api::Vlan;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::LabError;
use crate::netns::NetNs;

/// All protocols (linux/if_ether.h, `ETH_P_ALL`).
const ETH_P_ALL: u16 = 3;

/// Room for a jumbo frame and for what segmentation offload has not cut yet.
const FRAME_MAX: usize = 1 << 16;

/// A packet socket.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    buffer: Vec<u8>,
}

impl PacketSocket {
    /// Sees all frames.
    pub fn open(namespace: &NetNs) -> Result<Self, LabError> {
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket =
            namespace.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)))?.map_err(|source| {
                LabError::io(format!("cannot open a packet socket in {}", namespace.name()), source)
            })?;
        Ok(Self { socket, buffer: vec![0; FRAME_MAX] })
    }

    /// Sees only frames that carried this VLAN, or, without one, only untagged frames.
    pub fn open_vlan(namespace: &NetNs, vlan: Option<Vlan>) -> Result<Self, LabError> {
        let packets = Self::open(namespace)?;
        let in_namespace = |source| LabError::io("cannot filter a packet socket", source);
        packets.socket.attach_filter(&vlan_filter(vlan)).map_err(in_namespace)?;
        packets.drain().map_err(in_namespace)?;
        Ok(packets)
    }

    /// The next frame for which `wanted` holds, or none within `patience`.
    pub fn find(&mut self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<&[u8]>> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut self.buffer) {
                Ok(length) if wanted(&self.buffer[..length]) => return Ok(Some(&self.buffer[..length])),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                // The interface went down; it may come up again.
                Err(error) if error.raw_os_error() == Some(NETWORK_DOWN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets frames that came before the filter was in place.
    fn drain(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [MaybeUninit::uninit(); 1]).is_ok() {}
        self.socket.set_nonblocking(false)
    }
}

/// `ENETDOWN` (asm-generic/errno.h), which `io::ErrorKind` spells differently from version to version.
const NETWORK_DOWN: i32 = 100;

/// Classic BPF over the kernel's ancillary data: `SKF_AD_OFF` plus `SKF_AD_VLAN_TAG` (44) or
/// `SKF_AD_VLAN_TAG_PRESENT` (48), linux/filter.h.
fn vlan_filter(vlan: Option<Vlan>) -> [SockFilter; 5] {
    const ANCILLARY: u32 = 0xffff_f000;
    let (field, mask, value) = match vlan {
        Some(vlan) => (ANCILLARY + 44, 0xfff, u32::from(vlan.get())),
        None => (ANCILLARY + 48, u32::MAX, 0),
    };
    [
        SockFilter::new(0x20, 0, 0, field),    // load
        SockFilter::new(0x54, 0, 0, mask),     // and
        SockFilter::new(0x15, 0, 1, value),    // equal: next, else skip one
        SockFilter::new(0x06, 0, 0, u32::MAX), // take the whole frame
        SockFilter::new(0x06, 0, 0, 0),        // take nothing
    ]
}
