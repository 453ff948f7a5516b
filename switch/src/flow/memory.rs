//! The table's memory: taken and touched when the table is made, in huge pages where the kernel gives them.

use espalier_xsk::prefer_huge_pages;

/// `len` times `value`, or nothing if the memory is refused.
pub(super) fn filled<T: Clone>(len: usize, value: T) -> Option<Vec<T>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).ok()?;
    prefer_huge_pages(&memory);
    memory.resize(len, value);
    Some(memory)
}
