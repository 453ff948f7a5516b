//! Where a capture is written: a file that only its owner may read, or standard output.
//!
//! Takes whole blocks. When a write fails, a file is cut back to the blocks that were written whole before.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use espalier_api::InputError;
use pcap_file::PcapError;

/// It holds traffic.
const OWNER_ONLY: u32 = 0o600;

/// The capture cannot be written on.
#[derive(Debug)]
pub(super) struct Failed(pub(super) io::Error);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<PcapError> for Failed {
    fn from(error: PcapError) -> Self {
        match error {
            PcapError::IoError(error) => Self(error),
            error => Self(io::Error::other(error)),
        }
    }
}

/// Where to.
pub(super) struct Sink {
    out: Out,
    name: String,
    written: u64,
}

enum Out {
    File(fs::File),
    Standard(io::Stdout),
}

impl Sink {
    /// Opens it; a file that is there keeps what it holds until something is written.
    pub(super) fn open(path: &Path) -> Result<Self, InputError> {
        if path == Path::new("-") {
            let name = "standard output".to_owned();
            return Ok(Self { out: Out::Standard(io::stdout()), name, written: 0 });
        }
        let name = path.display().to_string();
        let refuse = |error: io::Error| InputError::new("-w", format!("{name} cannot be written: {error}"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(OWNER_ONLY);
        let file = options.open(path).map_err(refuse)?;
        if file.metadata().map_err(refuse)?.is_file() {
            file.set_permissions(Permissions::from_mode(OWNER_ONLY)).map_err(refuse)?;
        }
        Ok(Self { out: Out::File(file), name, written: 0 })
    }

    /// Writes whole blocks, or none of them.
    pub(super) fn write(&mut self, blocks: &[u8]) -> Result<(), Failed> {
        let Self { out, written, .. } = self;
        let done = match out {
            Out::Standard(out) => out.write_all(blocks).and_then(|()| out.flush()),
            Out::File(file) => {
                let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
                if *written == 0 && regular {
                    file.set_len(0)?;
                }
                file.write_all(blocks).inspect_err(|_| {
                    if regular {
                        // What it held last was whole; if not even this can be done, that is the same error.
                        let _ = file.set_len(*written);
                    }
                })
            }
        };
        done?;
        *written += blocks.len() as u64;
        Ok(())
    }

    /// Has the kernel take it all.
    pub(super) fn flush(&mut self) -> Result<(), Failed> {
        match &mut self.out {
            Out::File(file) => Ok(file.flush()?),
            Out::Standard(out) => Ok(out.flush()?),
        }
    }

    /// Bytes written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}
