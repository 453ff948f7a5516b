//! Processor time of the whole machine, as /proc/stat has it.

use std::fs;

use anyhow::{Context, Result};

/// Nanoseconds of a tick of /proc/stat: USER_HZ is 100 on every architecture Linux has today.
const TICK: f64 = 1e7;

/// Time in use since the machine started, in nanoseconds: everything but idling and waiting for disks.
pub(in crate::compare) fn busy() -> Result<f64> {
    parse(&fs::read_to_string("/proc/stat")?)
}

/// Of the line `cpu  user nice system idle iowait irq softirq …`.
fn parse(stat: &str) -> Result<f64> {
    let line =
        stat.lines().find(|line| line.starts_with("cpu ")).context("/proc/stat has no line for all cores")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
        anyhow::bail!("/proc/stat tells too little: {line}");
    };
    Ok((user + nice + system + irq + softirq) as f64 * TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idling_is_no_work() {
        let stat = "cpu  1 2 3 1000 2000 4 5 6 7 8\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse(stat).unwrap(), 15.0 * TICK);
        assert!(parse("intr 1").is_err() && parse("cpu  1 2 3").is_err());
    }
}
