//! Arguments of `espalier capture`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use espalier_api::watch::MAX_SNAPLEN;

pub(super) const HELP: &str = "The first word may name a pod, the rest is a filter in tcpdump's words: host, net, port, \
portrange, proto, src, dst, tcp, udp, icmp, icmp6, ip, ip6, arp, less, greater, and, or, not. And in words of ours: pod \
NAMESPACE/NAME, ingress, egress, drop, forward, reason LABEL, rule sgr-…, group sg-….
Every packet is noted once, with what the switch decided about it; a packet between pods of two workers is noted by each, \
and one that is lost on its way out once more. With -w the notes are the comments of a pcapng file; it holds traffic, so \
only its owner may read it. Packets that come faster than they are written are lost to the capture, counted, and pass \
the switch undisturbed.
Exit codes: 0 done, 1 the file could not be written to its end, 2 bad usage or input, 3 cannot reach the switch.

Examples:
  espalier capture shop/web-0 --drops
  espalier capture shop/web-0 tcp port 80 or 443 -w web.pcapng --duration 10s
  espalier capture 'reason denied-ingress and not net 10.0.0.0/8' --count 20 --json
  espalier capture shop/web-0 -w - | tshark -r - -T fields -e frame.comment";

/// Arguments of `capture`.
#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// A pod, and which packets; all of them without
    #[arg(value_name = "POD|FILTER")]
    pub(crate) words: Vec<String>,
    /// Only packets that were dropped
    #[arg(long)]
    pub(crate) drops: bool,
    /// Write a pcapng file; - writes to standard output [default: a line for each packet]
    #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
    pub(crate) write: Option<PathBuf>,
    /// Keep so many bytes of each packet
    #[arg(long, short, value_name = "BYTES", default_value_t = MAX_SNAPLEN,
          value_parser = clap::value_parser!(u32).range(64..=i64::from(MAX_SNAPLEN)))]
    pub(crate) snaplen: u32,
    /// End after so many packets
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after this long: 10s, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// With -w: end before the file is larger: 500k, 100M or 2G
    #[arg(long, value_name = "SIZE", default_value = "100M", value_parser = size)]
    pub(crate) max_size: u64,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number of seconds, or the like of 10s, 5m or 1h".to_owned();
    let seconds = scaled(text, &[("h", 3600), ("m", 60), ("s", 1)]).ok_or_else(wrong)?;
    if (1..=604_800).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err("expected 1s to 168h".to_owned())
    }
}

fn size(text: &str) -> Result<u64, String> {
    let size = scaled(text, &[("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10), ("K", 1 << 10)]);
    size.filter(|size| *size >= 4096)
        .ok_or_else(|| "expected 4096 bytes or more, or the like of 500k, 100M or 2G".to_owned())
}

/// A number, and the unit behind it.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit = units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)));
    let (number, scale) = unit.unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!((size("100M"), size("4096")), (Ok(100 << 20), Ok(4096)));
        assert!(duration("0s").is_err() && duration("s").is_err() && duration("1d").is_err());
        assert!(size("1k").is_err() && size("99999999999G").is_err() && size("-1").is_err());
    }
}
