//! Capture files as frames with their time and what was noted of them: pcapng of `espalier capture` and of others, pcap.
//!
//! Called by the replay. A file that breaks off, or is not Ethernet, is refused with the number of the frame.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use espalier_api::InputError;
use espalier_api::watch::Record;
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};

/// A frame of a capture.
#[derive(Debug, Clone)]
pub(super) struct Captured {
    /// Its number in the file, from 1 on, as tshark counts.
    pub(super) number: usize,
    /// Nanoseconds of Unix time.
    pub(super) unix_ns: u64,
    /// The frame; what was cut off is zeroes.
    pub(super) frame: Vec<u8>,
    /// The interface, where the file names it, and the pod behind it.
    pub(super) interface: [String; 2],
    /// What the switch decided when it was captured.
    pub(super) record: Option<Record>,
}

/// What a pcapng file begins with, in either byte order.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Larger than any packet the switch takes.
const LONGEST: u32 = 1 << 16;

/// Reads the whole file.
pub(super) fn read(path: &Path) -> Result<Vec<Captured>, InputError> {
    let mut frames = Vec::new();
    let done = read_into(path, &mut frames).map_err(|message| {
        let message = match frames.len() {
            0 => message,
            whole => format!("behind frame {whole}: {message}"),
        };
        InputError::new("", message).in_file(path.display().to_string())
    });
    done.map(|()| frames)
}

fn read_into(path: &Path, frames: &mut Vec<Captured>) -> Result<(), String> {
    let mut file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(|_| "is too short for a capture".to_owned())?;
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    let file = BufReader::new(file);
    if magic == PCAPNG { read_pcapng(file, frames) } else { read_pcap(file, frames) }
}

fn damaged(error: pcap_file::PcapError) -> String {
    format!("is no whole pcap or pcapng file: {error}")
}

fn read_pcapng(file: impl Read, frames: &mut Vec<Captured>) -> Result<(), String> {
    let mut reader = PcapNgReader::new(file).map_err(damaged)?;
    let mut interfaces: Vec<Interface> = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.map_err(damaged)? {
            Block::SectionHeader(_) => interfaces.clear(),
            Block::InterfaceDescription(interface) => interfaces.push(Interface::of(&interface)?),
            Block::EnhancedPacket(packet) => {
                let interface = interfaces.get(packet.interface_id as usize);
                let interface = interface.ok_or("a frame is of no interface")?;
                frames.push(interface.frame(frames.len() + 1, &packet)?);
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_pcap(file: impl Read, frames: &mut Vec<Captured>) -> Result<(), String> {
    let mut reader = PcapReader::new(file).map_err(damaged)?;
    check_link(reader.header().datalink)?;
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(damaged)?;
        frames.push(Captured {
            number: frames.len() + 1,
            unix_ns: packet.timestamp.as_nanos() as u64,
            frame: whole(&packet.data, packet.orig_len)?,
            interface: Default::default(),
            record: None,
        });
    }
    Ok(())
}

fn check_link(kind: DataLink) -> Result<(), String> {
    match kind {
        DataLink::ETHERNET => Ok(()),
        other => Err(format!("its frames are {other:?}, not Ethernet: capture on an Ethernet interface")),
    }
}

/// The frame in its full length: headers tell the verdict, and they were captured.
fn whole(data: &[u8], original: u32) -> Result<Vec<u8>, String> {
    if original > LONGEST {
        return Err(format!("a frame of {original} bytes: no packet is longer than {LONGEST}"));
    }
    let mut frame = data.to_vec();
    frame.resize(data.len().max(original as usize), 0);
    Ok(frame)
}

/// An interface of a pcapng file.
struct Interface {
    names: [String; 2],
    /// Nanoseconds of a unit of time.
    unit: u64,
}

impl Interface {
    fn of(block: &InterfaceDescriptionBlock<'_>) -> Result<Self, String> {
        check_link(block.linktype)?;
        // Microseconds, unless it says otherwise.
        let mut interface = Self { names: Default::default(), unit: 1000 };
        for option in &block.options {
            match option {
                InterfaceDescriptionOption::IfName(name) => interface.names[0] = name.to_string(),
                InterfaceDescriptionOption::IfDescription(pod) => interface.names[1] = pod.to_string(),
                InterfaceDescriptionOption::IfTsResol(digits @ 0..=9) => {
                    interface.unit = 10_u64.pow(9 - u32::from(*digits));
                }
                InterfaceDescriptionOption::IfTsResol(other) => {
                    return Err(format!("times in units of {other:#04x} are not supported: use nanoseconds"));
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    fn frame(&self, number: usize, packet: &EnhancedPacketBlock<'_>) -> Result<Captured, String> {
        let comments = packet.options.iter().filter_map(|option| match option {
            EnhancedPacketOption::Comment(comment) => Some(comment),
            _ => None,
        });
        // The reader gives the file's own units.
        let units = packet.timestamp.as_nanos() as u64;
        Ok(Captured {
            number,
            unix_ns: units.saturating_mul(self.unit),
            frame: whole(&packet.data, packet.original_len)?,
            interface: self.names.clone(),
            // A comment of somebody else's is none of ours.
            record: comments.into_iter().find_map(|comment| comment.parse().ok()),
        })
    }
}
