//! The switch and other programs, built for the tests of other packages: a binary of another package does not come with
//! a test.
//!
//! Included by the lab's tests and by those of other crates that stand on a lab.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The switch program, up to date, unless `ESPALIER_SWITCH` names one. The lab's own program is built beside it, as every
/// lab needs it; both at once, so that they and what they depend on are built once, whoever asks.
pub(crate) fn switch() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("ESPALIER_SWITCH", &["espalier-switch", "espalier-lab"]))
}

/// The program of the first of some packages, which bears its name (that of `espalier-cli` is `espalier`), unless the
/// variable names one.
pub(crate) fn build(variable: &str, packages: &[&str]) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--bins"]);
    build.args(packages.iter().flat_map(|package| ["--package", package]));
    assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    // This test lies in <target>/<profile>/deps.
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join(packages[0].trim_end_matches("-cli"))
}
