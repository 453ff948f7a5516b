//! An array map of the steering programs as memory of this process: a value is written without a system call.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes from one value of an array map to the next (linux kernel/bpf/arraymap.c, `array_map_alloc`).
const STRIDE: usize = size_of::<u64>();

/// The values of an array map of 32-bit words that was made with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub(super) struct MappedArray {
    start: NonNull<c_void>,
    values: u32,
}

// SAFETY: the mapping is the process's, not a thread's, and is only reached through atomics.
unsafe impl Send for MappedArray {}

impl MappedArray {
    /// Maps all `values` of the map.
    pub(super) fn new(map: &MapData, values: u32) -> io::Result<Self> {
        let (any, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the kernel chooses the address, so no other mapping is replaced; a length that is not the map's is
        // refused.
        let start = unsafe { mmap(any, Self::bytes(values), access, MapFlags::SHARED, map.fd(), 0) }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, values })
    }

    /// Writes a value, if the map has one of this index.
    pub(super) fn set(&self, index: u32, value: u32) -> io::Result<()> {
        if index >= self.values {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("it has {} values", self.values),
            ));
        }
        // SAFETY: the value lies inside the mapping.
        let word = unsafe { self.start.byte_add(index as usize * STRIDE) };
        // SAFETY: it is aligned, stays mapped while `self` lives, and both sides write it as a whole.
        let word = unsafe { word.cast::<AtomicU32>().as_ref() };
        word.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn bytes(values: u32) -> usize {
        values as usize * STRIDE
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: nothing that was borrowed from the mapping outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), Self::bytes(self.values)) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
