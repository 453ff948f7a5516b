//! The settings of `espalier-agent`: flags, environment, and a file with the flags' names.
//!
//! Every default stands in `--help`. A flag wins over the environment, and that over the file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use espalier_api::settings::{Listen, SettingsError};
use espalier_api::{EniId, Mac};
use ipnet::IpNet;

use crate::desired::{GroupSource, Rules, Unprotected};
use crate::ec2::{Ec2Settings, Polling};

/// The Espalier node agent: learns from Kubernetes and EC2 which security groups this node's pods have, and feeds the
/// switch with it.
#[derive(Debug, Clone, Parser)]
#[command(name = "espalier-agent", version, args_override_self = true, after_help = EXAMPLES)]
pub struct Config {
    /// YAML or JSON file of settings, named as the flags below without the dashes (`group-source: policy`)
    #[arg(long, value_name = "FILE", env = "ESPALIER_AGENT_CONFIG")]
    pub config: Option<PathBuf>,

    /// Name of this Kubernetes node; in a DaemonSet, `spec.nodeName` [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,

    /// Where pods and policies are read from: the Kubernetes API (by KUBECONFIG or the pod's service account), or a
    /// watched folder of Kubernetes YAML
    #[arg(long, value_name = "api|DIR", default_value = "api", env = "ESPALIER_AGENT_KUBERNETES")]
    pub kubernetes: Source,

    /// Where groups, rules and interfaces are read from: the EC2 API, or a watched folder of EC2 JSON as the AWS CLI
    /// prints it
    #[arg(long, value_name = "api|DIR", default_value = "api", env = "ESPALIER_AGENT_EC2")]
    pub ec2: Source,

    /// Where a pod's groups come from: those EC2 reports on its branch ENI, or those of the SecurityGroupPolicies that
    /// select it now
    #[arg(
        long,
        value_enum,
        value_name = "eni|policy",
        default_value = "eni",
        env = "ESPALIER_AGENT_GROUP_SOURCE"
    )]
    pub group_source: GroupSource,

    /// What becomes of pods that a policy selects but that have no branch ENI, where the annotation
    /// espalier.dev/unprotected-pods of their namespace does not say; they are reported in any case
    #[arg(
        long,
        value_enum,
        value_name = "deny|kernel",
        default_value = "kernel",
        env = "ESPALIER_AGENT_UNPROTECTED_PODS"
    )]
    pub unprotected_pods: Unprotected,

    /// The trunk: name of its network interface, its MAC address, or its ENI id (looked up in EC2)
    #[arg(long, value_name = "NAME|MAC|eni-…", env = "ESPALIER_AGENT_TRUNK")]
    pub trunk: Trunk,

    /// How pods' interfaces are found: by the AWS CNI's name rule for strict or standard mode or with another prefix, or
    /// by looking into the network namespaces of a folder (needs CAP_SYS_ADMIN)
    #[arg(
        long,
        value_name = "strict|standard|prefix:PREFIX|netns:DIR",
        default_value = "strict",
        env = "ESPALIER_AGENT_POD_PORTS"
    )]
    pub pod_ports: Ports,

    /// VPC of the node [default: that of the branch ENIs]
    #[arg(long, value_name = "vpc-…", env = "ESPALIER_AGENT_VPC_ID")]
    pub vpc_id: Option<String>,

    /// CIDR blocks of the VPC, the primary one first [default: as EC2 says]
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', env = "ESPALIER_AGENT_VPC_CIDRS")]
    pub vpc_cidrs: Vec<IpNet>,

    /// Control socket of the switch
    #[arg(
        long,
        value_name = "PATH",
        default_value = espalier_api::control::DEFAULT_SOCKET,
        env = "ESPALIER_AGENT_SWITCH_SOCKET"
    )]
    pub switch_socket: PathBuf,

    /// The agent's own socket, for `espalier status`
    #[arg(long, value_name = "PATH", default_value = espalier_api::agent::DEFAULT_SOCKET, env = "ESPALIER_AGENT_SOCKET")]
    pub socket: PathBuf,

    /// Group (name or number) that may use the agent's socket besides root
    #[arg(long, value_name = "GROUP", env = "ESPALIER_AGENT_SOCKET_GROUP")]
    pub socket_group: Option<String>,

    /// Address for /metrics, /healthz and /readyz; `none` serves them on the agent's socket only
    #[arg(long, value_name = "ADDR:PORT|none", default_value = "none", env = "ESPALIER_AGENT_LISTEN")]
    pub listen: Listen,

    /// Whether events on pods are written to Kubernetes
    #[arg(long, value_enum, value_name = "on|off", default_value = "on", env = "ESPALIER_AGENT_EVENTS")]
    pub events: Switch,

    /// AWS Region [default: that of the environment, the profile or the instance]
    #[arg(long, value_name = "REGION", env = "ESPALIER_AGENT_EC2_REGION")]
    pub ec2_region: Option<String>,

    /// URL of the EC2 API instead of the Region's own (a VPC endpoint, a test server)
    #[arg(long, value_name = "URL", env = "ESPALIER_AGENT_EC2_ENDPOINT")]
    pub ec2_endpoint: Option<String>,

    /// Shared credentials file instead of ~/.aws/credentials; without one the default chain applies (environment, web
    /// identity, Pod Identity, instance metadata)
    #[arg(long, value_name = "FILE", env = "ESPALIER_AGENT_EC2_CREDENTIALS_FILE")]
    pub ec2_credentials_file: Option<PathBuf>,

    /// Longest wait for the answer to one request to EC2
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds, env = "ESPALIER_AGENT_EC2_TIMEOUT")]
    pub ec2_timeout: f64,

    /// Usual time between two polls of EC2
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds, env = "ESPALIER_AGENT_EC2_POLL")]
    pub ec2_poll: f64,

    /// Shortest time between two polls, after a change or while something wanted does not exist
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds, env = "ESPALIER_AGENT_EC2_POLL_FLOOR")]
    pub ec2_poll_floor: f64,

    /// Longest time between two polls, while nothing changes
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds, env = "ESPALIER_AGENT_EC2_POLL_CEILING")]
    pub ec2_poll_ceiling: f64,

    /// Most requests to EC2 in 60 seconds
    #[arg(
        long,
        value_name = "N",
        default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(1..),
        env = "ESPALIER_AGENT_EC2_REQUESTS_PER_MINUTE"
    )]
    pub ec2_requests_per_minute: u32,

    /// What to log: a level, or a filter such as `info,espalier_control::ec2=debug`
    #[arg(long, value_name = "FILTER", default_value = "info,kube_runtime=error", env = "ESPALIER_LOG")]
    pub log: String,
}

const EXAMPLES: &str = "Examples:
  espalier-agent --trunk eth1 --group-source policy
  espalier-agent --config /etc/espalier/agent.yaml
  espalier-agent --trunk trunk0 --kubernetes ./manifests --ec2 ./ec2   # no cloud at all

Exit codes: 0 told to stop, 1 the machine is at fault, 2 a setting is.";

/// An API or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The API.
    Api,
    /// Files.
    Folder(PathBuf),
}

impl FromStr for Source {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "api" {
            return Ok(Self::Api);
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            Ok(Self::Folder(path))
        } else {
            Err("is no folder; expected one, or `api`".to_owned())
        }
    }
}

/// How the trunk is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trunk {
    /// By its network interface.
    Interface(String),
    /// By its MAC address.
    Mac(Mac),
    /// By its ENI.
    Eni(EniId),
}

impl FromStr for Trunk {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("eni-") {
            return text.parse().map(Self::Eni);
        }
        if text.contains(':') {
            return text.parse().map(Self::Mac);
        }
        let plain = text.len() <= 15 && text.chars().all(|c| c.is_ascii_graphic() && c != '/');
        if plain && !text.is_empty() {
            return Ok(Self::Interface(text.to_owned()));
        }
        Err("is neither an interface's name (up to 15 characters), a MAC address nor eni-…".to_owned())
    }
}

/// How pods' interfaces are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// By name: this prefix and a hash of the pod's name.
    Prefix(String),
    /// In this folder of network namespaces.
    Netns(PathBuf),
}

impl FromStr for Ports {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let prefix = |prefix: &str| Self::Prefix(prefix.to_owned());
        match text.split_once(':') {
            None if text == "strict" => Ok(prefix("vlan")),
            None if text == "standard" => Ok(prefix("eni")),
            Some(("prefix", own)) if (1..=4).contains(&own.len()) => Ok(prefix(own)),
            Some(("prefix", _)) => Err("a prefix has 1 to 4 characters".to_owned()),
            Some(("netns", folder)) if !folder.is_empty() => Ok(Self::Netns(folder.into())),
            _ => Err("expected strict, standard, prefix:PREFIX or netns:DIR".to_owned()),
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let bad = || "expected seconds from 0.05 to 86400".to_owned();
    let value: f64 = text.parse().map_err(|_| bad())?;
    if (0.05..=86_400.0).contains(&value) { Ok(value) } else { Err(bad()) }
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Config {
    /// Reads the command line, the environment, and the file it names.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, SettingsError> {
        espalier_api::settings::read(args)
    }

    /// How EC2 is asked.
    pub fn ec2_settings(&self) -> Ec2Settings {
        Ec2Settings {
            region: self.ec2_region.clone(),
            endpoint: self.ec2_endpoint.clone(),
            credentials_file: self.ec2_credentials_file.clone(),
            request_timeout: Duration::from_secs_f64(self.ec2_timeout),
            polling: Polling {
                base: Duration::from_secs_f64(self.ec2_poll),
                floor: Duration::from_secs_f64(self.ec2_poll_floor),
                ceiling: Duration::from_secs_f64(self.ec2_poll_ceiling),
                budget: self.ec2_requests_per_minute,
            },
        }
    }

    /// How the desired state is decided.
    pub fn rules(&self) -> Rules {
        Rules {
            group_source: self.group_source,
            unprotected: self.unprotected_pods,
            vpc_id: self.vpc_id.clone(),
            vpc_cidrs: self.vpc_cidrs.clone(),
            trunk_eni: match &self.trunk {
                Trunk::Eni(eni) => Some(eni.clone()),
                Trunk::Interface(_) | Trunk::Mac(_) => None,
            },
        }
    }

    /// Name of the node: as set, or the host's.
    pub fn node(&self) -> String {
        self.node_name
            .clone()
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read(args: &[&str]) -> Result<Config, SettingsError> {
        let args = std::iter::once("espalier-agent").chain(args.iter().copied());
        Config::from_args(args.map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed() {
        Config::command().debug_assert();
    }

    #[test]
    fn the_trunk_is_told_by_its_shape() {
        let trunk = |text| read(&["--trunk", text]).map(|config| config.trunk);
        assert_eq!(trunk("eth1").unwrap(), Trunk::Interface("eth1".to_owned()));
        assert!(matches!(trunk("06:00:00:00:00:01").unwrap(), Trunk::Mac(_)));
        assert!(matches!(trunk("eni-01").unwrap(), Trunk::Eni(_)));
        for bad in ["eni-", "06:00", "a/b", "sixteen-letters-"] {
            assert!(trunk(bad).is_err(), "{bad}");
        }
        assert!(read(&[]).unwrap_err().to_string().contains("--trunk"));
    }

    #[test]
    fn a_bad_value_in_the_file_names_field_value_and_fix() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, field, word) in [
            ("trunk: eth1\ngroup-source: both\n", "group-source", "both"),
            ("trunk: eth1\nlisten: 9470\n", "listen", "ADDRESS:PORT"),
            ("trunk: eth1\nec2: /no/such\n", "ec2", "is no folder"),
            ("trunk: eth1\npod-ports: prefix:toolong\n", "pod-ports", "1 to 4"),
            ("trunks: eth1\n", "trunks", "espalier-agent --help"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            match read(&["--config", file.path().to_str().unwrap()]) {
                Err(SettingsError::File(error)) => {
                    assert_eq!(error.field, field);
                    assert!(error.message.contains(word), "{error}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
