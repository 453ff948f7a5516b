//! Capture files (pcap and pcapng) as a list of frames with their times, for the replay.
//!
//! Promises whole Ethernet frames: a capture of another link type, or one that cut frames short, is refused.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::error::PktgenError;
use crate::frame::MAX_LEN;

/// A frame of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds after the first frame; never less than the frame before it has.
    pub at: u64,
    /// The frame from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// What a pcapng file begins with, in either byte order.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Binary digits of a pcapng time stamp's unit are marked by this bit (pcapng, if_tsresol).
const BINARY: u8 = 0x80;
/// Without the option, times are in microseconds.
const MICROSECONDS: u8 = 6;

/// Reads the whole file.
pub fn read(path: &Path) -> Result<Vec<Captured>, PktgenError> {
    let refused = |reason: String| PktgenError::Capture { path: path.to_owned(), reason };
    let frames = read_frames(path).map_err(refused)?;
    if frames.is_empty() {
        return Err(refused("it holds no frame".to_owned()));
    }
    Ok(frames)
}

fn read_frames(path: &Path) -> Result<Vec<Captured>, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let mut file = File::open(path).map_err(|e| text(&e))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(|_| "it is too short for a capture".to_owned())?;
    file.seek(SeekFrom::Start(0)).map_err(|e| text(&e))?;
    let mut frames = Frames::default();
    if magic == PCAPNG {
        let mut reader = PcapNgReader::new(BufReader::new(file)).map_err(|e| text(&e))?;
        let mut links: Vec<Link> = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.map_err(|e| text(&e))? {
                Block::SectionHeader(_) => links.clear(),
                Block::InterfaceDescription(interface) => links.push(Link::of(&interface)),
                Block::EnhancedPacket(packet) => {
                    let link = links.get(packet.interface_id as usize).ok_or("a frame is of no interface")?;
                    check_link(link.kind)?;
                    let time = link.nanoseconds(packet.timestamp.as_nanos());
                    frames.add(time, packet.original_len, &packet.data)?;
                }
                Block::SimplePacket(packet) => frames.add(0, packet.original_len, &packet.data)?,
                _ => {}
            }
        }
    } else {
        let mut reader = PcapReader::new(BufReader::new(file)).map_err(|e| text(&e))?;
        check_link(reader.header().datalink)?;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|e| text(&e))?;
            frames.add(packet.timestamp.as_nanos(), packet.orig_len, &packet.data)?;
        }
    }
    Ok(frames.list)
}

fn check_link(kind: DataLink) -> Result<(), String> {
    match kind {
        DataLink::ETHERNET => Ok(()),
        other => Err(format!("its frames are {other:?}, not Ethernet: capture on an Ethernet interface")),
    }
}

/// The frames read so far.
#[derive(Default)]
struct Frames {
    list: Vec<Captured>,
    first: u128,
}

impl Frames {
    fn add(&mut self, time: u128, original: u32, data: &[u8]) -> Result<(), String> {
        let number = self.list.len() + 1;
        if data.len() < original as usize {
            let held = data.len();
            return Err(format!(
                "frame {number} was cut to {held} of {original} bytes: capture whole frames (-s 0)"
            ));
        }
        if !(14..=usize::from(MAX_LEN)).contains(&data.len()) {
            return Err(format!("frame {number} has {} bytes: 14 to {MAX_LEN} can be sent", data.len()));
        }
        if self.list.is_empty() {
            self.first = time;
        }
        let before = self.list.last().map_or(0, |frame| frame.at);
        let at = u64::try_from(time.saturating_sub(self.first)).unwrap_or(u64::MAX).max(before);
        self.list.push(Captured { at, bytes: data.to_vec() });
        Ok(())
    }
}

/// An interface of a pcapng file.
struct Link {
    kind: DataLink,
    resolution: u8,
}

impl Link {
    fn of(interface: &InterfaceDescriptionBlock<'_>) -> Self {
        let resolution = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        });
        Self { kind: interface.linktype, resolution: resolution.unwrap_or(MICROSECONDS) }
    }

    /// The reader gives the file's own units.
    fn nanoseconds(&self, units: u128) -> u128 {
        let digits = u32::from(self.resolution & !BINARY);
        if self.resolution & BINARY != 0 {
            (units * 1_000_000_000).checked_shr(digits).unwrap_or(0)
        } else if digits <= 9 {
            units * 10_u128.pow(9 - digits)
        } else {
            units / 10_u128.checked_pow(digits - 9).unwrap_or(u128::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use std::time::Duration;

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capture");
        (folder, path)
    }

    fn write_pcap(path: &Path, header: PcapHeader, frames: &[(u64, u32, &[u8])]) {
        let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
        for (microseconds, original, data) in frames {
            let packet = PcapPacket::new(Duration::from_micros(*microseconds), *original, data);
            writer.write_packet(&packet).unwrap();
        }
    }

    #[test]
    fn pcap_frames_come_with_their_distance_from_the_first() {
        let (_folder, path) = file();
        let frames: [(u64, u32, &[u8]); 3] =
            [(5_000_000, 60, &[1; 60]), (5_000_250, 70, &[2; 70]), (4_000_000, 60, &[3; 60])];
        write_pcap(&path, PcapHeader::default(), &frames);
        let read = read(&path).unwrap();
        let seen: Vec<_> = read.iter().map(|frame| (frame.at, frame.bytes.len(), frame.bytes[0])).collect();
        assert_eq!(seen, [(0, 60, 1), (250_000, 70, 2), (250_000, 60, 3)]);
    }

    #[test]
    fn pcapng_times_follow_the_interface_resolution() {
        for (resolution, ticks, nanoseconds) in
            [(None, 250, 250_000), (Some(9), 250, 250), (Some(0x80 | 10), 1024, 1_000_000_000)]
        {
            let (_folder, path) = file();
            let mut writer = PcapNgWriter::new(File::create(&path).unwrap()).unwrap();
            let options = resolution.map(InterfaceDescriptionOption::IfTsResol).into_iter().collect();
            let interface =
                InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0xffff, options };
            writer.write_pcapng_block(interface).unwrap();
            for at in [0, ticks] {
                let packet = EnhancedPacketBlock {
                    interface_id: 0,
                    timestamp: Duration::from_nanos(1_000_000 + at),
                    original_len: 60,
                    data: vec![9; 60].into(),
                    options: Vec::new(),
                };
                writer.write_pcapng_block(packet).unwrap();
            }
            drop(writer);
            let times: Vec<_> = read(&path).unwrap().iter().map(|frame| frame.at).collect();
            assert_eq!(times, [0, nanoseconds]);
        }
    }

    #[test]
    fn what_cannot_be_replayed_is_refused_with_the_reason() {
        let (_folder, path) = file();
        let reason = |path: &Path| read(path).unwrap_err().to_string();
        assert!(reason(&path).contains("No such file"));
        std::fs::write(&path, b"ab").unwrap();
        assert!(reason(&path).contains("too short"));
        write_pcap(&path, PcapHeader::default(), &[]);
        assert!(reason(&path).contains("no frame"));
        write_pcap(&path, PcapHeader::default(), &[(0, 100, &[0; 60])]);
        assert!(reason(&path).contains("frame 1 was cut to 60 of 100 bytes"));
        write_pcap(
            &path,
            PcapHeader { datalink: DataLink::RAW, ..PcapHeader::default() },
            &[(0, 60, &[0; 60])],
        );
        assert!(reason(&path).contains("not Ethernet"));
    }
}
