//! A capture as pcapng blocks: an interface for each port, a packet with its notes, and what was lost at the end.
//!
//! Every method returns whole blocks, in the order in which they must be written; nothing here does I/O.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use espalier_api::watch::{Record, WatchedPacket};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};

/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;
/// `epb_flags`: the packet came in by the interface, or was to go out.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// What has been written so far.
pub(super) struct Blocks {
    writer: PcapNgWriter<Vec<u8>>,
    /// Number and packets, by name.
    interfaces: BTreeMap<String, (u32, u64)>,
    /// Pods, by interface.
    pods: BTreeMap<String, String>,
    snaplen: u32,
    /// Lost, of which the next packet does not tell yet.
    untold: u64,
    lost: u64,
    last: Duration,
}

impl Blocks {
    /// Begins the section; `pods` are the names of the pods behind interfaces.
    pub(super) fn begin(snaplen: u32, pods: BTreeMap<String, String>) -> Result<Self, PcapError> {
        let program = concat!("espalier capture ", env!("CARGO_PKG_VERSION"));
        // The crate writes the times of statistics right in this order only.
        let endianness = Endianness::Big;
        let section = SectionHeaderBlock {
            endianness,
            options: vec![SectionHeaderOption::UserApplication(program.into())],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(Vec::new(), section)?;
        let interfaces = BTreeMap::new();
        Ok(Self { writer, interfaces, pods, snaplen, untold: 0, lost: 0, last: Duration::ZERO })
    }

    /// Adds a packet.
    pub(super) fn packet(&mut self, packet: &WatchedPacket) -> Result<(), PcapError> {
        let interface_id = self.interface(&packet.interface)?;
        let flags = if packet.outbound { OUTBOUND } else { INBOUND };
        let comment = Record::from(packet).to_string();
        let mut options =
            vec![EnhancedPacketOption::Comment(comment.into()), EnhancedPacketOption::Flags(flags)];
        if self.untold > 0 {
            options.push(EnhancedPacketOption::DropCount(std::mem::take(&mut self.untold)));
        }
        self.last = Duration::from_nanos(packet.unix_ns);
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: self.last,
            original_len: u32::try_from(packet.len).unwrap_or(u32::MAX),
            data: Cow::Borrowed(&packet.data),
            options,
        })?;
        Ok(())
    }

    /// Takes note that so many were lost in all.
    pub(super) fn lost(&mut self, lost: u64) {
        self.untold += lost.saturating_sub(self.lost);
        self.lost = lost;
    }

    /// Adds the statistics of every interface. What was lost was not told by interface: the first one has it.
    pub(super) fn end(&mut self) -> Result<(), PcapError> {
        let at = self.last.as_nanos() as u64;
        for (id, packets) in self.interfaces.values() {
            let mut options = vec![InterfaceStatisticsOption::IsbUsrDeliv(*packets)];
            if *id == 0 {
                options.insert(
                    0,
                    InterfaceStatisticsOption::Comment(
                        "isb_osdrop: packets of all interfaces that came faster than they were written"
                            .into(),
                    ),
                );
                options.insert(1, InterfaceStatisticsOption::IsbOsDrop(self.lost));
            }
            let block = InterfaceStatisticsBlock { interface_id: *id, timestamp: at, options };
            self.writer.write_pcapng_block(block)?;
        }
        Ok(())
    }

    /// What has been added since it was taken the last time.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }

    /// Bytes to be taken.
    pub(super) fn len(&self) -> usize {
        self.writer.get_ref().len()
    }

    /// The number of the interface, which is described when its first packet comes.
    fn interface(&mut self, name: &str) -> Result<u32, PcapError> {
        if let Some((id, packets)) = self.interfaces.get_mut(name) {
            *packets += 1;
            return Ok(*id);
        }
        let id = self.interfaces.len() as u32;
        let mut options = vec![InterfaceDescriptionOption::IfName(name.into())];
        if let Some(pod) = self.pods.get(name) {
            options.push(InterfaceDescriptionOption::IfDescription(pod.into()));
        }
        options.push(InterfaceDescriptionOption::IfTsResol(NANOSECONDS));
        self.writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options,
        })?;
        self.interfaces.insert(name.to_owned(), (id, 1));
        Ok(id)
    }
}
