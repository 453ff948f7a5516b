//! Huge pages for a subject, beyond those the machine has: frames that lie in few of them cost fewer translations of
//! addresses. Given back when dropped.

use std::fs;

use anyhow::{Result, ensure};

const SETTING: &str = "/proc/sys/vm/nr_hugepages";

/// Of 2 MiB: what 32,768 frames of 4 KiB take.
pub(super) const FOR_FRAMES: u32 = 64;

/// Huge pages beyond those the machine had.
pub(super) struct HugePages {
    before: u32,
}

impl HugePages {
    /// Has the kernel set so many aside.
    pub(super) fn reserve(pages: u32) -> Result<Self> {
        let read = || -> Result<u32> { Ok(fs::read_to_string(SETTING)?.trim().parse()?) };
        let reserved = Self { before: read()? };
        let wanted = reserved.before + pages;
        fs::write(SETTING, wanted.to_string())?;
        let now = read()?;
        ensure!(now == wanted, "the machine has {now} huge pages, {wanted} are needed: free some memory");
        Ok(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = fs::write(SETTING, self.before.to_string());
    }
}
