//! Compiles the fabric's program `bpf/fabric.bpf.c` with clang into OUT_DIR, where `topology/fabric.rs` embeds it.
//! Promises a clear error, with the package to install, when clang is missing. `CLANG` names another compiler.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCE: &str = "bpf/fabric.bpf.c";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // Debian keeps asm/types.h in a folder of the host's architecture, which clang's BPF target does not search.
    let folder = format!("/usr/include/{arch}-linux-gnu");
    let include = Path::new(&folder).is_dir().then(|| format!("-I{folder}"));
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"])
        .args(include)
        .args(["-c", SOURCE, "-o"])
        .arg(out.join("fabric.bpf.o"))
        .status()
        .map_err(|error| {
            format!("cannot run `{clang}` to build {SOURCE}: {error}; install clang, or set CLANG")
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{clang}` failed on {SOURCE} ({status}); it needs a BPF target and linux-libc-dev"))
    }
}
