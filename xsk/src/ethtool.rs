//! Offloads and queues of an interface, as `ethtool -k`, `-K` and `-l` have them.
//! Used by the switch when it attaches a pod, by the lab and by tests; all look in the calling thread's network
//! namespace. Source of the numbers: linux/ethtool.h, net/ethtool/ioctl.c.

use crate::InterfaceError;
use crate::netdev::{EthtoolCommand, Request};

/// An offload that can be read and set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Checksums of sent frames left to the device: a pod's frames then carry partial checksums.
    TxChecksum,
    /// Checksums of received frames taken as checked.
    RxChecksum,
    /// Sending frames in pieces.
    ScatterGather,
    /// TCP segmentation left to the device.
    Tso,
    /// Segmentation as late as possible, in software.
    Gso,
    /// Merging of received segments.
    Gro,
    /// The tag of sent frames left to the device: XDP at the other end of a veth then cannot see it.
    TxVlan,
    /// The tag of received frames taken out of the bytes.
    RxVlan,
}

/// The state of every [`Offload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// [`Offload::TxChecksum`].
    pub tx_checksum: bool,
    /// [`Offload::RxChecksum`].
    pub rx_checksum: bool,
    /// [`Offload::ScatterGather`].
    pub scatter_gather: bool,
    /// [`Offload::Tso`].
    pub tso: bool,
    /// [`Offload::Gso`].
    pub gso: bool,
    /// [`Offload::Gro`].
    pub gro: bool,
    /// [`Offload::TxVlan`].
    pub tx_vlan: bool,
    /// [`Offload::RxVlan`].
    pub rx_vlan: bool,
}

/// The queues of an interface: how many there are, and how many there could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    /// Receive queues in use; combined ones included. An XDP program runs on each, each takes its own socket.
    pub rx: u32,
    /// Transmit queues in use; combined ones included.
    pub tx: u32,
    /// The most receive queues possible.
    pub max_rx: u32,
    /// The most transmit queues possible.
    pub max_tx: u32,
}

/// Turns an offload of the interface on or off. The kernel may leave it as it is when a device cannot: see
/// [`offloads`] for what came of it.
pub fn set_offload(interface: &str, offload: Offload, on: bool) -> Result<(), InterfaceError> {
    let request = Request::new(interface)?;
    match how(offload) {
        How::Own { set, .. } => request.ethtool(SET, set, u32::from(on)).map(drop),
        How::Flag(flag) => {
            let flags = request.ethtool(READ, EthtoolCommand::GetFlags, 0)?[1];
            let flags = if on { flags | flag } else { flags & !flag };
            request.ethtool(SET, EthtoolCommand::SetFlags, flags).map(drop)
        }
    }
}

/// The offloads of the interface.
pub fn offloads(interface: &str) -> Result<Offloads, InterfaceError> {
    let request = Request::new(interface)?;
    let read = |offload| match how(offload) {
        How::Own { get, .. } => Ok(request.ethtool(READ, get, 0)?[1] != 0),
        How::Flag(flag) => Ok(request.ethtool(READ, EthtoolCommand::GetFlags, 0)?[1] & flag != 0),
    };
    Ok(Offloads {
        tx_checksum: read(Offload::TxChecksum)?,
        rx_checksum: read(Offload::RxChecksum)?,
        scatter_gather: read(Offload::ScatterGather)?,
        tso: read(Offload::Tso)?,
        gso: read(Offload::Gso)?,
        gro: read(Offload::Gro)?,
        tx_vlan: read(Offload::TxVlan)?,
        rx_vlan: read(Offload::RxVlan)?,
    })
}

/// The queues of the interface; an error where the driver does not tell.
pub fn channels(interface: &str) -> Result<Channels, InterfaceError> {
    let words = Request::new(interface)?.ethtool("read the channels", EthtoolCommand::GetChannels, 0)?;
    // After the command: the maxima of rx, tx, other, combined, then the counts in use in the same order.
    let [_, max_rx, max_tx, _, max_combined, rx, tx, _, combined, ..] = words;
    Ok(Channels {
        rx: rx + combined,
        tx: tx + combined,
        max_rx: max_rx.max(max_combined),
        max_tx: max_tx.max(max_combined),
    })
}

const READ: &str = "read the offloads";
const SET: &str = "set the offloads";

const FLAG_TX_VLAN: u32 = 1 << 7;
const FLAG_RX_VLAN: u32 = 1 << 8;

/// Some offloads have commands of their own, others a bit in the flags.
enum How {
    Own { get: EthtoolCommand, set: EthtoolCommand },
    Flag(u32),
}

fn how(offload: Offload) -> How {
    use EthtoolCommand as C;
    let own = |get, set| How::Own { get, set };
    match offload {
        Offload::TxChecksum => own(C::GetTxChecksum, C::SetTxChecksum),
        Offload::RxChecksum => own(C::GetRxChecksum, C::SetRxChecksum),
        Offload::ScatterGather => own(C::GetScatterGather, C::SetScatterGather),
        Offload::Tso => own(C::GetTso, C::SetTso),
        Offload::Gso => own(C::GetGso, C::SetGso),
        Offload::Gro => own(C::GetGro, C::SetGro),
        Offload::TxVlan => How::Flag(FLAG_TX_VLAN),
        Offload::RxVlan => How::Flag(FLAG_RX_VLAN),
    }
}
