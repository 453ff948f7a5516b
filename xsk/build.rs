//! Compiles the XDP programs with clang into OUT_DIR, where the loaders embed them: `bpf/steer.bpf.c` (steering) and
//! `bpf/traffic.bpf.c` (load generator). Promises a clear error, with the package to install, when clang is missing.
//! `CLANG` names another compiler.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PROGRAMS: [&str; 2] = ["steer", "traffic"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=CLANG");
    match PROGRAMS.iter().try_for_each(|name| compile(name)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn compile(name: &str) -> Result<(), String> {
    let source = format!("bpf/{name}.bpf.c");
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11"])
        .args(["-Wall", "-Wextra", "-Werror"])
        .args(multiarch_includes(&arch))
        .args(["-c", &source, "-o"])
        .arg(out.join(format!("{name}.bpf.o")))
        .status()
        .map_err(|e| format!("cannot run `{clang}` to build {source}: {e}; install clang, or set CLANG"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{clang}` failed on {source} ({status}); it needs a BPF target and linux-libc-dev"))
    }
}

/// Debian keeps `asm/types.h` in a folder of the host's architecture, which clang's BPF target does not search.
fn multiarch_includes(arch: &str) -> Option<String> {
    let folder = format!("/usr/include/{arch}-linux-gnu");
    Path::new(&folder).is_dir().then(|| format!("-I{folder}"))
}
