//! Ctrl-C and SIGTERM as a flag, so that a lab is taken down before the process ends.
//!
//! Installed when a lab goes up; every wait of the lab looks at it. A signal before that ends the process as usual.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::LabError;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on the signals set the flag instead of ending the process.
pub(crate) fn install() -> Result<(), LabError> {
    let flag = FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .map_err(|source| LabError::io("cannot handle signals", source))?;
    }
    Ok(())
}

/// An error once a signal has come.
pub(crate) fn check() -> Result<(), LabError> {
    match FLAG.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(LabError::Interrupted),
        _ => Ok(()),
    }
}
