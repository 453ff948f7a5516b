//! The switch, built for the tests of other packages: a binary of another package does not come with a test.
//!
//! Included by the lab's tests and by those of other crates that stand on a lab.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The switch program, up to date, unless `ESPALIER_SWITCH` names one. The lab's own program is built beside it, as every
/// lab needs it; both at once, so that they and what they depend on are built once, whoever asks.
pub(crate) fn switch() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("ESPALIER_SWITCH") {
            return path.into();
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--bins"]);
        build.args(["--package", "espalier-switch", "--package", "espalier-lab"]);
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        // This test lies in <target>/<profile>/deps.
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().join("espalier-switch")
    })
}
