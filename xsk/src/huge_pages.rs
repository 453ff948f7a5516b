//! Asking for huge pages under memory that is read at random.

use std::ffi::c_void;

use rustix::mm::{Advice, madvise};

/// Bytes of a huge page on x86-64 and, with pages of 4 KiB, on 64-bit Arm.
const HUGE_PAGE: usize = 2 << 20;

/// Has the kernel back what `memory` has room for with huge pages as it is touched, so that fewer addresses have to be
/// translated. For before anything is in it. Does nothing for less than a huge page, and nothing where the kernel does
/// not give them (`/sys/kernel/mm/transparent_hugepage/enabled` says `never`).
pub fn prefer_huge_pages<T>(memory: &Vec<T>) {
    let bytes = memory.capacity() * size_of::<T>();
    if bytes < HUGE_PAGE {
        return;
    }
    let start: *const c_void = memory.as_ptr().cast();
    let before = start.addr() % rustix::param::page_size();
    let start = start.wrapping_byte_sub(before).cast_mut();
    // SAFETY: the range is that of the pages that hold `memory`, which all are mapped; what they hold stays as it is.
    // A kernel without huge pages refuses; the memory is as good, only slower.
    let _refused = unsafe { madvise(start, before + bytes, Advice::LinuxHugepage) };
}
