//! The settings of `espalier-switch`: flags, and a file with the same names.
//!
//! Every default stands in `--help`. A setting given on the command line wins over the file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use espalier_api::settings::{Listen, SettingsError};
use espalier_xsk::XdpMode;

use crate::flow::Timeouts;
use crate::flowlog::FlowLogSettings;
use crate::tuning::Tuning;

/// The Espalier switch: moves the packets of pods with branch ENIs and enforces their EC2 security groups.
#[derive(Debug, Clone, Parser)]
#[command(name = "espalier-switch", version, args_override_self = true, after_help = EXAMPLES)]
pub struct Config {
    /// YAML or JSON file of settings, named as the flags below without the dashes (`frames: 16384`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Unix socket of the control API
    #[arg(long, value_name = "PATH", default_value = espalier_api::control::DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// Group (name or number) that may use the socket besides root
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,

    /// Folder in a BPF file system for the pinned steering; the file system is mounted if it is absent
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/espalier")]
    pub pin_dir: PathBuf,

    /// Snapshot to enforce from the start
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,

    /// How the steering programs attach; `auto` takes native mode where the driver has it, and says so where not
    #[arg(long, value_name = "auto|native|generic", default_value_t = XdpMode::Auto)]
    pub xdp_mode: XdpMode,

    /// Worker threads, at most one a queue of the trunk [default: one for each of --cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: Option<u8>,

    /// Cores to pin the workers to, one each (`2,4-7`); `none` leaves them to the scheduler [default: the cores of the
    /// cpuset, as many as the trunk has queues, pinned if the cpuset is smaller than the machine]
    #[arg(long, alias = "core", value_name = "LIST|none", value_parser = cores)]
    pub cores: Option<Cores>,

    /// Frames of 4096 bytes shared by all ports
    #[arg(long, value_name = "N", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(1024..=4_194_304))]
    pub frames: u32,

    /// Whether the frames lie in huge pages; `auto` takes them where they are reserved
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Hugepages::Auto)]
    pub hugepages: Hugepages,

    /// Descriptors in each ring of a port, a power of two
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = ring)]
    pub ring: u32,

    /// Frames kept ready for the trunk to receive into
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub trunk_fill: u32,

    /// Frames kept ready for each pod's port to receive into, at most; pods share half of all frames evenly
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub pod_fill: u32,

    /// Pods there is place for
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub max_pods: u16,

    /// Flows kept track of, over all pods; each worker has an equal part
    #[arg(long, value_name = "N", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1024..=268_435_456))]
    pub max_flows: u32,

    /// Idle timeouts of branch ENIs that have none of their own: EC2's defaults for this kind of instance
    #[arg(long, value_enum, value_name = "KIND", default_value_t = TimeoutDefaults::Nitro)]
    pub timeouts: TimeoutDefaults,

    /// File that keeps the flows over a restart; `none` keeps them in memory only [default: beside the socket]
    #[arg(long, value_name = "FILE|none")]
    pub flow_state: Option<PathBuf>,

    /// What is changed at both ends of a pod's veth while it is attached: `off`, `auto`, or a list of `gro` (the pod merges
    /// what it receives), `threaded-napi` (on kernel threads off the workers' cores; with `gro`), `qdisc` (a full ring stops
    /// the pod instead of losing packets), `no-tx-checksum` (the pod makes its checksums, not the switch). The snapshot must
    /// name the pod's `netns`; `auto` leaves pods without one alone
    #[arg(long, value_name = "off|auto|LIST", default_value = "auto")]
    pub pod_tuning: Tuning,

    /// Whether ICMP errors about a live flow pass without a rule (path MTU discovery needs them)
    #[arg(long, value_enum, value_name = "on|off", default_value_t = Switch::On)]
    pub related_icmp_errors: Switch,

    /// Microseconds a worker polls without work before it sleeps
    #[arg(long, value_name = "US", default_value_t = 50, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub spin_us: u64,

    /// Address for /metrics in the text format of OpenMetrics, such as 127.0.0.1:9466; `none` serves them on the control
    /// socket only, as `GET /v1/metrics`
    #[arg(long, value_name = "ADDR:PORT|none", default_value = "none")]
    pub metrics_listen: Listen,

    /// Rules that have metrics of their own, at most; the others share one series
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub metrics_rules: u32,

    /// What to log: a level, or a filter such as `info,espalier_switch::manager=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "ESPALIER_LOG")]
    pub log: String,

    /// Detach the steering an earlier switch left pinned, and exit
    #[arg(long)]
    pub unpin: bool,

    /// The flow log; last, as every flag below would have its heading.
    #[command(flatten, next_help_heading = "Flow log")]
    pub flow_log: FlowLogSettings,
}

const EXAMPLES: &str = "Examples:
  espalier-switch --snapshot node.yaml --cores 1
  espalier-switch --snapshot node.yaml --workers 4 --cores 4-7
  espalier-switch --config /etc/espalier/switch.yaml
  espalier-switch --unpin            # give the interfaces back to the kernel

Exit codes: 0 asked to end, 1 the machine is at fault, 2 bad input, 70 a worker has died.

The pinned steering outlives the switch: until it is back, branch traffic is dropped (fail closed).";

/// Whether the frames lie in huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hugepages {
    /// Where they are reserved.
    Auto,
    /// Or not at all.
    On,
    /// Never.
    Off,
}

/// EC2's default idle timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TimeoutDefaults {
    /// TCP connections idle for 5 days are forgotten.
    Nitro,
    /// Nitro v6 instance types: TCP connections idle for 350 seconds are forgotten.
    NitroV6,
}

impl From<TimeoutDefaults> for Timeouts {
    fn from(kind: TimeoutDefaults) -> Self {
        match kind {
            TimeoutDefaults::Nitro => Self::NITRO,
            TimeoutDefaults::NitroV6 => Self::NITRO_V6,
        }
    }
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl From<Hugepages> for espalier_xsk::Hugepages {
    fn from(when: Hugepages) -> Self {
        match when {
            Hugepages::Auto => Self::Auto,
            Hugepages::On => Self::On,
            Hugepages::Off => Self::Off,
        }
    }
}

/// Where the workers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// Wherever the scheduler puts them.
    Unpinned,
    /// Each on its own core.
    Pinned(Vec<usize>),
}

fn cores(text: &str) -> Result<Cores, String> {
    match text {
        "none" => Ok(Cores::Unpinned),
        _ => core_list(text)
            .map(Cores::Pinned)
            .ok_or_else(|| "expected different core numbers such as `1`, `2,3` or `4-7`, or `none`".into()),
    }
}

/// The cores of a list as the kernel writes it: numbers and ranges, none twice.
pub(crate) fn core_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // The largest number of CPUs a kernel is built for.
        if first > last || last >= 8192 {
            return None;
        }
        cores.extend(first..=last);
    }
    let distinct: std::collections::BTreeSet<_> = cores.iter().collect();
    (distinct.len() == cores.len()).then_some(cores)
}

fn ring(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(size) if size.is_power_of_two() && (64..=16_384).contains(&size) => Ok(size),
        _ => Err("expected a power of two from 64 to 16384".into()),
    }
}

impl Config {
    /// The file that keeps the flows over a restart, if any.
    pub fn flow_state(&self) -> Option<PathBuf> {
        match &self.flow_state {
            None => Some(self.socket.with_extension("flows")),
            Some(path) if path.as_os_str() == "none" => None,
            Some(path) => Some(path.clone()),
        }
    }

    /// The file that says what was changed at the pods' veths.
    pub fn tuning_record(&self) -> PathBuf {
        self.socket.with_extension("tuning")
    }

    /// The pause of an idle worker before it sleeps.
    pub fn spin(&self) -> Duration {
        Duration::from_micros(self.spin_us)
    }

    /// Reads the command line, and the file it names.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, SettingsError> {
        espalier_api::settings::read(args)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn config(args: &[&str]) -> Result<Config, SettingsError> {
        let args = std::iter::once("espalier-switch").chain(args.iter().copied());
        Config::from_args(args.map(OsString::from))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn only_the_flow_log_s_flags_stand_under_its_heading() {
        let mut command = Config::command();
        command.build();
        let under: Vec<&str> = command
            .get_arguments()
            .filter(|flag| flag.get_help_heading() == Some("Flow log"))
            .filter_map(clap::Arg::get_long)
            .collect();
        assert!(under.contains(&"flow-log"), "{under:?}");
        assert!(under.iter().all(|flag| flag.starts_with("flow-log")), "{under:?}");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file = file("frames: 16384\nring: 512\ncore: 1\nxdp-mode: native\n");
        let path = file.path().to_str().unwrap();
        let config = config(&["--ring", "1024", "--config", path]).unwrap();
        assert_eq!((config.frames, config.ring), (16384, 1024));
        assert_eq!(config.cores, Some(Cores::Pinned(vec![1])));
        assert_eq!((config.xdp_mode, config.pod_fill), (XdpMode::Native, 2048));
    }

    #[test]
    fn a_bad_file_is_refused_by_field() {
        for (text, field, wanted) in [
            ("frames: 1\n", "frames", "1024"),
            ("ring: 1000\n", "ring", "power of two"),
            ("frame: 16384\n", "frame", "not a setting"),
            ("cores: [1]\n", "cores", "must be a string"),
            ("cores: 1,1\n", "cores", "different core numbers"),
            ("cores: 3-1\n", "cores", "different core numbers"),
            ("pod-tuning: gro,fast\n", "pod-tuning", "threaded-napi"),
            ("workers: 0\n", "workers", "1..=64"),
            ("- 1\n", "", "YAML map"),
        ] {
            let file = file(text);
            match config(&["--config", file.path().to_str().unwrap()]) {
                Err(SettingsError::File(error)) => {
                    assert_eq!(error.field, field, "{error}");
                    assert!(error.message.contains(wanted), "{error}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn cores_are_numbers_ranges_or_none() {
        let cores = |list: &str| config(&["--workers", "2", "--cores", list]).unwrap().cores;
        assert_eq!(cores("none"), Some(Cores::Unpinned));
        assert_eq!(cores("5,1-3"), Some(Cores::Pinned(vec![5, 1, 2, 3])));
        assert_eq!(config(&[]).unwrap().cores, None);
    }

    #[test]
    fn the_command_is_well_formed() {
        Config::command().debug_assert();
    }
}
