//! The programs of this workspace that a comparison runs: built as this one is, or named by the environment.
//!
//! Called by the comparisons that start the switch or a lab.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A program and where else it may come from.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    package: &'static str,
    name: &'static str,
    variable: &'static str,
}

/// The data path.
pub const SWITCH: Program =
    Program { package: "espalier-switch", name: "espalier-switch", variable: "ESPALIER_SWITCH" };

/// What a lab needs beside it; the lab looks for it where [`Program::build`] puts it.
pub const LAB_VPC: Program =
    Program { package: "espalier-lab", name: "espalier-lab-vpc", variable: "ESPALIER_LAB_VPC" };

impl Program {
    /// The file that its environment variable names, or the one that cargo makes with this program's profile.
    pub fn build(self) -> Result<PathBuf> {
        let Self { package, name, variable } = self;
        if let Some(path) = env::var_os(variable) {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "{variable}: {} is not a file", path.display());
            return Ok(path);
        }
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let mut command = Command::new(cargo);
        command.args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            package,
            "--bin",
            name,
            "--manifest-path",
        ]);
        command.arg(manifest);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let status =
            command.status().with_context(|| format!("cannot run cargo: set {variable} to {name}"))?;
        ensure!(status.success(), "{name} could not be built: {status}");
        let own = env::current_exe()?;
        // A test's own program lies one folder deeper.
        let folders = own.ancestors().skip(1).take(2);
        let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
        found.with_context(|| format!("cargo built {name} somewhere else: set {variable} to it"))
    }
}
