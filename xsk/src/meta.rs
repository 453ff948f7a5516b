//! The steering metadata: the 4 bytes the XDP programs write right before a frame.
//!
//! `bpf/steer.bpf.c` (`struct steer_meta`) is the writer, [`crate::Umem::steer_meta`] the reader. Both sides
//! use host byte order, and nobody outside the kernel can write these bytes.

/// What the steering program says about a received frame.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SteerMeta {
    /// The 802.1Q tag control information: as it stood in the frame ([`SteerFlags::POPPED`]) or the pod's
    /// branch VLAN ([`SteerFlags::POD`]). Host byte order.
    pub tci: u16,
    /// How the frame was changed and where it came from.
    pub flags: SteerFlags,
}

/// A set of steering marks; empty means "no steering program wrote this".
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SteerFlags(u16);

impl SteerMeta {
    /// Bytes the metadata takes before the frame.
    pub const LEN: usize = 4;

    /// The VLAN id: the low 12 bits of the TCI.
    #[must_use]
    pub fn vlan(self) -> u16 {
        self.tci & 0x0fff
    }

    /// Reads the metadata as the XDP program laid it out.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [tci_a, tci_b, flags_a, flags_b] = bytes;
        Self {
            tci: u16::from_ne_bytes([tci_a, tci_b]),
            flags: SteerFlags::from_bits(u16::from_ne_bytes([flags_a, flags_b])),
        }
    }
}

impl SteerFlags {
    /// From the trunk: the branch's tag was removed from the frame, `tci` is what it held.
    pub const POPPED: Self = Self(1);
    /// From a pod; `tci` is its branch VLAN, whether or not the tag was written into the frame.
    pub const POD: Self = Self(2);

    const KNOWN: u16 = Self::POPPED.0 | Self::POD.0;

    /// The marks in `bits`; unknown bits are dropped.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & Self::KNOWN)
    }

    /// The marks as the steering program writes them.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// True if every mark of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if no steering program marked the frame.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_host_order_and_drops_unknown_bits() {
        let [tci_a, tci_b] = 0xe07b_u16.to_ne_bytes();
        let [flags_a, flags_b] = 0xff02_u16.to_ne_bytes();
        let meta = SteerMeta::from_bytes([tci_a, tci_b, flags_a, flags_b]);
        assert_eq!(meta.tci, 0xe07b);
        assert_eq!(meta.vlan(), 0x07b);
        assert_eq!(meta.flags, SteerFlags::POD);
        assert!(meta.flags.contains(SteerFlags::POD));
        assert!(!meta.flags.contains(SteerFlags::POPPED));
        assert!(SteerFlags::from_bits(0xff00).is_empty());
    }
}
