//! Peers that run as a child process: built at run time, given the same input file, asked for one run at a time.
//!
//! They are C programs of a page (`bench/peers`), because DPDK and the kernel's BPF maps are C interfaces. A child
//! answers a line with the name of a subject by a line `<nanoseconds per lookup> <lookups that found something>`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use espalier_api::ProtocolMatch;
use ipnet::Ipv4Net;
use tempfile::TempDir;

use crate::input::Packet;

/// What a peer gets.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// Prefixes with a value below 2²⁴ − 1 each.
    pub prefixes: Vec<(Ipv4Net, u32)>,
    /// Rules: prefix, protocol and ports.
    pub rules: Vec<(Ipv4Net, ProtocolMatch)>,
    /// The packets of a run.
    pub packets: Vec<Packet>,
}

/// The peers' programs.
#[derive(Debug)]
pub struct Peers {
    folder: TempDir,
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// One run of a peer.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Nanoseconds per lookup.
    pub nanoseconds: f64,
    /// Lookups that found something.
    pub found: u64,
}

impl Peers {
    /// Builds the programs. Needs cc, clang with the BPF target, libdpdk-dev and libbpf-dev: `ci/bench` installs them.
    pub fn build() -> Result<Self> {
        let folder = TempDir::new()?;
        let sources = sources();
        let out = |name: &str| folder.path().join(name);
        let cc = |source: &str, package: &str| -> Result<PathBuf> {
            let program = out(source.trim_end_matches(".c"));
            let flags = run(Command::new("pkg-config").args(["--cflags", "--libs", package]))?;
            run(Command::new("cc")
                .args(["-O3", "-march=native", "-Wall", "-Werror", "-o"])
                .arg(&program)
                .arg(sources.join(source))
                .args(flags.split_whitespace()))?;
            Ok(program)
        };
        cc("dpdk.c", "libdpdk")?;
        cc("lpm.c", "libbpf")?;
        fs::write(out("lpm.bpf.o"), compile_bpf("lpm.bpf.c")?)?;
        Ok(Self { folder })
    }

    /// Starts a peer (`dpdk` or `lpm`) on an input.
    pub fn start(&self, program: &str, input: &Input) -> Result<Peer> {
        let file = self.folder.path().join("input");
        write_input(&file, input)?;
        let mut child = Command::new(self.folder.path().join(program))
            .arg(&file)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("peer {program} cannot be started"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("peer {program} has no pipes");
        };
        let mut peer = Peer { child, input: stdin, output: BufReader::new(stdout) };
        let ready = peer.line().with_context(|| format!("peer {program} did not get ready"))?;
        ensure!(ready == "ready", "peer {program} said {ready:?} instead of ready");
        Ok(peer)
    }
}

impl Peer {
    /// One run over all packets.
    pub fn run(&mut self, subject: &str) -> Result<Run> {
        writeln!(self.input, "{subject}")?;
        let line = self.line()?;
        let mut parts = line.split_whitespace();
        let mut next = || parts.next().with_context(|| format!("{subject}: unexpected answer {line:?}"));
        Ok(Run { nanoseconds: next()?.parse()?, found: next()?.parse()? })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("it ended ({})", self.child.wait()?);
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is our own child, and there is nothing left to do if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The object of one of the programs for the kernel. Needs clang: `ci/bench` installs it.
pub fn compile_bpf(source: &str) -> Result<Vec<u8>> {
    let folder = TempDir::new()?;
    let object = folder.path().join("bpf.o");
    run(Command::new("clang")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
        .args(["-I/usr/include/x86_64-linux-gnu", "-c", "-o"])
        .arg(&object)
        .arg(sources().join(source)))?;
    Ok(fs::read(object)?)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output =
        command.output().with_context(|| format!("cannot run {shown}: is it installed? See ci/bench"))?;
    ensure!(output.status.success(), "{shown}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Little-endian words: counts, then prefixes, rules and packets. The C side reads the same structs.
fn write_input(path: &Path, input: &Input) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for count in [input.prefixes.len(), input.rules.len(), input.packets.len()] {
        file.write_all(&u32::try_from(count)?.to_le_bytes())?;
    }
    for (net, value) in &input.prefixes {
        for word in [u32::from(net.network()), net.prefix_len().into(), *value] {
            file.write_all(&word.to_le_bytes())?;
        }
    }
    for (net, protocol) in &input.rules {
        let (number, first, last) = match protocol {
            ProtocolMatch::Tcp(range) => (6, range.first(), range.last()),
            ProtocolMatch::Udp(range) => (17, range.first(), range.last()),
            ProtocolMatch::All => (0, 0, u16::MAX),
            other => bail!("{other} is not among the peers' protocols"),
        };
        for word in [u32::from(net.network()), net.prefix_len().into(), number, first.into(), last.into()] {
            file.write_all(&word.to_le_bytes())?;
        }
    }
    for Packet { remote, protocol, port } in &input.packets {
        for word in [u32::from(*remote), (*protocol).into(), (*port).into()] {
            file.write_all(&word.to_le_bytes())?;
        }
    }
    Ok(file.flush()?)
}
