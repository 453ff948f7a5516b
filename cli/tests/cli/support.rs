//! Runs the binary and looks at what it left; the snapshot all tests start from.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long a condition may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const ESPALIER: &str = env!("CARGO_BIN_EXE_espalier");

/// Path of a file under `tests/cli/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/data").join(name)
}

/// The binary with nothing of the caller's environment that would change what it prints.
pub(crate) fn espalier() -> Command {
    let mut command = Command::new(ESPALIER);
    for name in ["ESPALIER_SOCKET", "ESPALIER_AGENT_SOCKET", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

/// What one run left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap_or_else(|| panic!("ended by a signal: {:?}", output.status));
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs the binary with these arguments.
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    espalier().args(args).stdin(Stdio::null()).output().unwrap().into()
}

/// Runs the binary with these arguments and this standard input.
pub(crate) fn run_with_input<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &str) -> Run {
    let mut child = espalier()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let run = Run::from(child.wait_with_output().unwrap());
    writer.join().unwrap().unwrap();
    run
}

/// Every run of white space as one space: how far apart a table's columns are depends on its other rows.
pub(crate) fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The switch beside the program under test, or the one `ESPALIER_SWITCH` names.
pub(crate) fn switch_program() -> PathBuf {
    let beside = Path::new(ESPALIER).with_file_name("espalier-switch");
    let program = std::env::var_os("ESPALIER_SWITCH").map_or(beside, PathBuf::from);
    assert!(program.exists(), "{} is missing: cargo build --workspace --bins", program.display());
    program
}

/// Waits for a condition; a busy machine gets its time.
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(espalier_lab::wait_for(PATIENCE, holds), "{what}: not within {PATIENCE:?}");
}
