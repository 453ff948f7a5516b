//! The interface ioctls (netdevice(7)) and SIOCETHTOOL, one request at a time.
//! Used by `interface.rs` and `ethtool.rs`. Promises to speak to the calling thread's network namespace, and that
//! no pointer outlives the call it is made for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::InterfaceError;

/// A request about one interface, on a socket of its own.
pub(crate) struct Request {
    socket: OwnedFd,
    name: String,
    /// The name as the kernel wants it, NUL included.
    raw_name: [u8; NAME_LEN],
}

/// The ethtool commands in use, with their numbers (linux/ethtool.h). The structure of none is over 196 bytes.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum EthtoolCommand {
    GetDriver = 0x03,
    GetRxChecksum = 0x14,
    SetRxChecksum = 0x15,
    GetTxChecksum = 0x16,
    SetTxChecksum = 0x17,
    GetScatterGather = 0x18,
    SetScatterGather = 0x19,
    GetTso = 0x1e,
    SetTso = 0x1f,
    GetGso = 0x23,
    SetGso = 0x24,
    GetFlags = 0x25,
    SetFlags = 0x26,
    GetGro = 0x2b,
    SetGro = 0x2c,
    GetChannels = 0x3c,
}

/// The words of an ethtool structure, the command first. Larger than any in use, whose rest stays zero.
pub(crate) type EthtoolWords = [u32; 64];

const NAME_LEN: usize = 16;

/// `struct ifreq` of the 64-bit architectures, its union as bytes.
#[repr(C, align(8))]
struct Ifreq {
    name: [u8; NAME_LEN],
    union: [u8; 24],
}

impl Request {
    pub(crate) fn new(name: &str) -> Result<Request, InterfaceError> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= NAME_LEN || bytes.contains(&0) {
            return Err(InterfaceError::Name { name: name.to_owned() });
        }
        let mut raw_name = [0; NAME_LEN];
        raw_name[..bytes.len()].copy_from_slice(bytes);
        match socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None) {
            Ok(socket) => Ok(Request { socket, name: name.to_owned(), raw_name }),
            Err(e) => Err(refused("open a socket to ask", name, e.into())),
        }
    }

    pub(crate) fn index(&self) -> Result<u32, InterfaceError> {
        self.run("read the index", libc::SIOCGIFINDEX, [0; 24]).map(first_word)
    }

    pub(crate) fn mtu(&self) -> Result<u32, InterfaceError> {
        self.run("read the MTU", libc::SIOCGIFMTU, [0; 24]).map(first_word)
    }

    pub(crate) fn hardware_address(&self) -> Result<[u8; 6], InterfaceError> {
        // A `struct sockaddr`: the family in two bytes, then the address.
        let [_, _, a, b, c, d, e, f, ..] = self.run("read the MAC address", libc::SIOCGIFHWADDR, [0; 24])?;
        Ok([a, b, c, d, e, f])
    }

    /// `None` where the interface does not tell.
    pub(crate) fn driver(&self) -> Result<Option<String>, InterfaceError> {
        match self.ethtool("read the driver", EthtoolCommand::GetDriver, 0) {
            Ok(words) => {
                // After the command: the name in 32 bytes, ended by NUL.
                let bytes: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
                let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                Ok(Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty()))
            }
            Err(InterfaceError::Refused { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Runs one ethtool command with one argument, which most commands ignore.
    pub(crate) fn ethtool(
        &self,
        action: &'static str,
        command: EthtoolCommand,
        argument: u32,
    ) -> Result<EthtoolWords, InterfaceError> {
        let mut words: EthtoolWords = [0; 64];
        words[0] = command as u32;
        words[1] = argument;
        let mut union = [0; 24];
        let address = (&raw mut words).expose_provenance();
        union[..size_of::<usize>()].copy_from_slice(&address.to_ne_bytes());
        self.run(action, libc::SIOCETHTOOL, union)?;
        Ok(words)
    }

    fn run(
        &self,
        action: &'static str,
        request: libc::Ioctl,
        union: [u8; 24],
    ) -> Result<[u8; 24], InterfaceError> {
        let mut ifreq = Ifreq { name: self.raw_name, union };
        // SAFETY: the socket is open; every request used here takes a `struct ifreq`, which `Ifreq` is as large as,
        // with a NUL-terminated name. For SIOCETHTOOL its union holds the exposed address of an `EthtoolWords` that
        // outlives the call and is larger than the structure of every `EthtoolCommand`.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), request, &raw mut ifreq) };
        if result >= 0 {
            return Ok(ifreq.union);
        }
        let error = io::Error::last_os_error();
        Err(match error.raw_os_error() {
            Some(libc::ENODEV) => InterfaceError::Missing { name: self.name.clone() },
            _ => refused(action, &self.name, error),
        })
    }
}

fn first_word(union: [u8; 24]) -> u32 {
    let [a, b, c, d, ..] = union;
    u32::from_ne_bytes([a, b, c, d])
}

fn refused(action: &'static str, name: &str, source: io::Error) -> InterfaceError {
    InterfaceError::Refused { action, name: name.to_owned(), source }
}

const _: () = assert!(size_of::<Ifreq>() == size_of::<libc::ifreq>());
