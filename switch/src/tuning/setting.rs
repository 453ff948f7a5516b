//! The setting `--pod-tuning`: `off`, `auto`, or a list of what to change.
//! Read by `config.rs`, obeyed by the tuner.

use std::fmt;
use std::str::FromStr;

/// One thing that is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knob {
    /// The pod's end merges what it receives, by NAPI, which the host's end has to be without TSO for.
    Gro,
    /// That is done by a kernel thread for each pod, off the workers' cores.
    ThreadedNapi,
    /// What the pod sends waits in a queue while the veth's ring is full.
    Qdisc,
    /// The pod makes the checksums of what it sends.
    NoTxChecksum,
}

/// All of them, with their names.
const KNOBS: [(Knob, &str); 4] = [
    (Knob::Gro, "gro"),
    (Knob::ThreadedNapi, "threaded-napi"),
    (Knob::Qdisc, "qdisc"),
    (Knob::NoTxChecksum, "no-tx-checksum"),
];

/// What `auto` stands for: what the measurements in docs/PERFORMANCE.md speak for.
const AUTO: [Knob; 1] = [Knob::Qdisc];

/// What is changed at a pod's veth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    knobs: Vec<Knob>,
    demanded: bool,
}

impl Tuning {
    /// Nothing.
    pub(super) fn off() -> Self {
        Self { knobs: Vec::new(), demanded: false }
    }

    /// What to change, in order.
    pub(super) fn knobs(&self) -> &[Knob] {
        &self.knobs
    }

    pub(super) fn has(&self, knob: Knob) -> bool {
        self.knobs.contains(&knob)
    }

    /// Whether somebody asked for just this, and so wants to hear where it cannot be had.
    pub(super) fn is_demanded(&self) -> bool {
        self.demanded
    }
}

impl FromStr for Tuning {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => return Ok(Self::off()),
            "auto" => return Ok(Self { knobs: AUTO.to_vec(), demanded: false }),
            _ => {}
        }
        let known = |name: &str| KNOBS.iter().find(|(_, known)| *known == name.trim()).map(|(knob, _)| *knob);
        let mut knobs = text.split(',').map(known).collect::<Option<Vec<Knob>>>().ok_or_else(|| {
            let names = KNOBS.map(|(_, name)| name).join(", ");
            format!("expected `off`, `auto`, or some of {names}, separated by commas")
        })?;
        knobs.sort_unstable();
        knobs.dedup();
        if knobs.contains(&Knob::ThreadedNapi) && !knobs.contains(&Knob::Gro) {
            return Err(
                "threaded-napi needs gro: only with it has a pod's end of a veth a NAPI at all".to_owned()
            );
        }
        Ok(Self { knobs, demanded: true })
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KNOBS.iter().find(|(knob, _)| knob == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_listed_in_any_order_and_refused_by_name() {
        let tuning: Tuning = "qdisc, threaded-napi,gro,qdisc".parse().unwrap();
        assert_eq!(tuning.knobs(), [Knob::Gro, Knob::ThreadedNapi, Knob::Qdisc]);
        assert!(tuning.is_demanded());
        for (text, wanted) in
            [("on", "no-tx-checksum"), ("", "`auto`"), ("gro,off", "`off`"), ("threaded-napi", "needs gro")]
        {
            let error = text.parse::<Tuning>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert_eq!("off".parse::<Tuning>().unwrap().knobs(), []);
        assert!(!"auto".parse::<Tuning>().unwrap().is_demanded());
    }
}
