//! A node full of pods on one worker: how long an attach takes, what idling costs, and what idle pods cost a busy one.
//!
//! Called by `compare datapath` once a round. The pods beyond the first two have their own veths, all in one namespace,
//! and nobody talks to them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt::Write as _, thread};

use anyhow::{Context, Result};
use espalier_lab::netns::{NetNs, unique_name};

use super::espalier::Switch;
use super::rules::Rules;
use super::site::Site;

/// Pods of a full node, the two of the topology among them.
pub(super) const PODS: usize = 250;
/// How long the switch is watched idling.
const IDLE: Duration = Duration::from_secs(3);
/// Nanoseconds of a tick of /proc: USER_HZ is 100 on every architecture Linux has today.
const TICK_NS: f64 = 1e7;

/// Pods that nobody talks to; gone when dropped.
pub(super) struct Crowd {
    _namespace: NetNs,
}

/// What a full node took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Full {
    /// Milliseconds for each pod attached.
    pub(super) attach: f64,
    /// Percent of a core that the switch used while nothing came.
    pub(super) idle: f64,
}

impl Crowd {
    /// Makes the interfaces.
    pub(super) fn gather(site: &Site) -> Result<Self> {
        let namespace = NetNs::create(unique_name("dp-crowd"))?;
        for interface in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1")?;
        }
        let (mut outer, mut inner) = (String::new(), String::new());
        for number in 2..PODS {
            let name = namespace.name();
            writeln!(outer, "link add name veth{number} type veth peer name p{number} netns {name}")?;
            writeln!(outer, "link set veth{number} up")?;
            writeln!(inner, "link set p{number} up")?;
        }
        site.node.ip(&outer)?;
        namespace.ip(&inner)?;
        Ok(Self { _namespace: namespace })
    }
}

/// Starts a switch with two pods, attaches the crowd, and watches it idle.
pub(super) fn fill(program: &Path, site: &Site, rules: &Rules) -> Result<(Switch, Full)> {
    let switch = Switch::start(program, site, rules)?;
    let begun = Instant::now();
    switch.attach(PODS)?;
    let attach = begun.elapsed().as_secs_f64() * 1e3 / (PODS - 2) as f64;
    // What follows an attach, such as asking for gateways, is not idling.
    thread::sleep(Duration::from_secs(1));
    let (before, since) = (used(switch.pid())?, Instant::now());
    thread::sleep(IDLE);
    let idle = (used(switch.pid())? - before) / since.elapsed().as_nanos() as f64 * 100.0;
    Ok((switch, Full { attach, idle }))
}

/// Processor time of a process, in nanoseconds.
fn used(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything, so that fields are counted from its end: utime and stime are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(')').context("/proc/<pid>/stat has no name")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<f64> { Ok(times.next().context("/proc/<pid>/stat ends early")?.parse()?) };
    Ok((next()? + next()?) * TICK_NS)
}
