//! Where frames arrive: a program at the receiving interface that counts a run's frames and their ages, and drops them.
//!
//! Detached, and the counts gone, when dropped.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::xdp::XdpMode;
use aya::programs::{Program, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use espalier_lab::netns::NetNs;
use espalier_pktgen::stamp::Run;

use super::site::{B, EDGE, GATEWAY_MAC, Site};
use crate::peer;

/// Buckets of ages to an octave; sink.bpf.c has the same.
const PER_OCTAVE: usize = 32;
const BUCKETS: usize = 1024;
/// What is counted; sink.bpf.c has the same.
const FRAMES: u32 = 0;
const BYTES: u32 = 1;
const FIRST: u32 = 2;
const LATEST: u32 = 3;
const BEFORE_LATEST: u32 = 4;
const AGES: u32 = 5;

/// The words of `struct order` in sink.bpf.c.
type Words = [u32; 7];

/// The compiled programs.
#[derive(Debug, Clone)]
pub(super) struct Programs(Vec<u8>);

/// A program at an interface.
pub(super) struct Sink {
    /// Its link keeps the program attached.
    _ebpf: Ebpf,
    orders: Array<MapData, Words>,
    counts: PerCpuArray<MapData, u64>,
}

/// Frames and bytes that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

/// How old frames were when they arrived.
#[derive(Debug, Clone)]
pub(super) struct Ages(Vec<u64>);

impl Programs {
    /// Compiles them. Needs clang: `ci/bench` installs it.
    pub(super) fn compile() -> Result<Self> {
        peer::compile_bpf("sink.bpf.c").map(Self)
    }
}

impl Sink {
    /// Attaches the counting program where frames of the site may arrive.
    pub(super) fn attach(programs: &Programs, namespace: &NetNs) -> Result<Self> {
        Self::load(programs, namespace, "sink")
    }

    /// Attaches the VPC's router to the outside: what pod A sends to it comes back as for pod B.
    pub(super) fn hairpin(programs: &Programs, site: &Site) -> Result<Self> {
        let mut sink = Self::load(programs, &site.outside, "hairpin")?;
        let bytes = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
        let [d0, d1, d2, d3, d4, d5] = B.branch_mac;
        let [s0, s1, s2, s3, s4, s5] = GATEWAY_MAC;
        let [vlan_high, vlan_low] = B.vlan.to_be_bytes();
        sink.orders.set(
            0,
            [
                0,
                0,
                bytes(B.address.octets()),
                bytes([vlan_high, vlan_low, d0, d1]),
                bytes([d2, d3, d4, d5]),
                bytes([s0, s1, s2, s3]),
                bytes([s4, s5, 0, 0]),
            ],
            0,
        )?;
        Ok(sink)
    }

    /// Counts the frames of this run from now on, and their ages if asked to.
    pub(super) fn count(&mut self, run: Run, ages: bool) -> Result<()> {
        let cores = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let last = if ages { AGES + BUCKETS as u32 } else { AGES };
        for index in 0..last {
            self.counts.set(index, PerCpuValues::try_from(vec![0; cores])?, 0)?;
        }
        Ok(self.orders.set(0, [run.0.into(), ages.into(), 0, 0, 0, 0, 0], 0)?)
    }

    /// What has arrived of the run.
    pub(super) fn arrived(&self) -> Result<Arrived> {
        Ok(Arrived { frames: self.sum(FRAMES)?, bytes: self.sum(BYTES)? })
    }

    /// What has arrived once nothing more does, or as soon as it is `wanted`.
    pub(super) fn settled(&self, wanted: u64) -> Result<Arrived> {
        const QUIET: Duration = Duration::from_millis(100);
        let mut last = self.arrived()?;
        let mut since = Instant::now();
        while last.frames < wanted && since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(2));
            let now = self.arrived()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    /// Frames a second between the first of the run and the latest that the clock was read for; none if that was the first.
    /// What the generator and the kernel do before and after it is not in it.
    pub(super) fn pps(&self) -> Result<Option<f64>> {
        let first = self.each(FIRST)?.into_iter().filter(|time| *time > 0).min().unwrap_or(0);
        let latest = self.each(LATEST)?.into_iter().max().unwrap_or(0);
        let frames = self.sum(BEFORE_LATEST)?;
        Ok((latest > first).then(|| frames as f64 * 1e9 / (latest - first) as f64))
    }

    /// The ages of the run's frames.
    pub(super) fn ages(&self) -> Result<Ages> {
        (0..BUCKETS as u32).map(|bucket| self.sum(AGES + bucket)).collect::<Result<_>>().map(Ages)
    }

    fn load(programs: &Programs, namespace: &NetNs, name: &str) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(&programs.0)?;
        let missing = || format!("sink.bpf.c has no {name}");
        namespace.run(|| -> Result<()> {
            match ebpf.program_mut(name).with_context(missing)? {
                Program::Xdp(program) => {
                    program.load()?;
                    program.attach(EDGE, XdpMode::Driver)?;
                }
                Program::SchedClassifier(program) => {
                    program.load()?;
                    program.attach(EDGE, TcAttachType::Ingress)?;
                }
                other => anyhow::bail!("{name} is a {:?}", other.prog_type()),
            }
            Ok(())
        })??;
        let orders = Array::try_from(ebpf.take_map("orders").with_context(missing)?)?;
        let counts = PerCpuArray::try_from(ebpf.take_map("counts").with_context(missing)?)?;
        Ok(Self { _ebpf: ebpf, orders, counts })
    }

    fn sum(&self, index: u32) -> Result<u64> {
        Ok(self.each(index)?.into_iter().sum())
    }

    /// A word of each core.
    fn each(&self, index: u32) -> Result<Vec<u64>> {
        Ok(self.counts.get(&index, 0)?.to_vec())
    }
}

impl Ages {
    /// The age in nanoseconds that this share of the frames did not exceed, to 3%; none without frames.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(middle(bucket))
    }
}

/// The middle of a bucket.
fn middle(bucket: usize) -> f64 {
    if bucket < 2 * PER_OCTAVE {
        return bucket as f64;
    }
    let width = 2_f64.powi((bucket / PER_OCTAVE - 1) as i32);
    ((bucket % PER_OCTAVE + PER_OCTAVE) as f64 + 0.5) * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_frames_and_close() {
        let mut counts = vec![0; BUCKETS];
        // 40 ns, and 1024 ns: octave 10, its first bucket.
        counts[40] = 98;
        counts[(10 - 5) * PER_OCTAVE + PER_OCTAVE] = 2;
        let ages = Ages(counts);
        assert_eq!(ages.quantile(0.5), Some(40.0));
        assert_eq!(ages.quantile(0.98), Some(40.0));
        let late = ages.quantile(0.99).unwrap();
        assert!((1024.0..1056.0).contains(&late), "{late}");
        assert_eq!(Ages(vec![0; BUCKETS]).quantile(0.5), None);
    }
}
