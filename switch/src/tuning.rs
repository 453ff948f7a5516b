//! Pod-side tuning: what `--pod-tuning` changes at both ends of a pod's veth while the pod is attached.
//!
//! The manager calls it at attach, at detach and when it ends. What is about to be changed is written down first, so that
//! a later switch finds in the record of a killed one what to put back, and never takes our values for the pod's own. A pod
//! that cannot be tuned runs untuned, with the reason in `espalier pods` and, where tuning was asked for, in the status.

use std::collections::BTreeMap;
use std::path::PathBuf;

use espalier_api::Pod;
use espalier_api::control::PodTuning;
use espalier_xsk::InterfaceRef;

mod knobs;
mod napi;
mod qdisc;
mod record;
mod setting;

use knobs::Change;
use napi::Threads;
use record::{Entry, Record};
pub use setting::{Knob, Tuning};

/// Something could not be tuned, or put back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TuningError {
    /// The snapshot does not say where the pod's end is.
    #[error("the snapshot does not name its `netns` (espalier-agent: `--pod-ports netns:DIR`)")]
    NoNamespace,
    /// The namespace could not be entered, or its eth0 not be found.
    #[error(transparent)]
    Namespace(#[from] crate::netns::NetnsError),
    /// An offload.
    #[error(transparent)]
    Interface(#[from] espalier_xsk::InterfaceError),
    /// Whether receiving is done by threads.
    #[error("cannot {action} eth0's `threaded` in sysfs: {source}")]
    Threaded {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The queue of what the pod sends.
    #[error("cannot {action} eth0's qdisc: {reason}")]
    Qdisc {
        /// What was tried.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// The kernel accepted a value and kept the other one.
    #[error("the kernel leaves {0} as it was")]
    Left(&'static str),
    /// What was there before could not be written down; so nothing was changed.
    #[error("cannot write {}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Puts back what a switch that is gone has written in its record at this path.
pub fn undo(record: PathBuf) {
    Tuner::start(Tuning::off(), record);
}

/// Tunes pods and puts back what it changed.
pub(crate) struct Tuner {
    setting: Tuning,
    record: Record,
    /// What came of it, by the index of the host's end.
    pods: BTreeMap<u32, Outcome>,
    /// The kernel's receiving threads before the pods that are being attached.
    threads: Option<Threads>,
    /// Why they could not be pinned.
    unpinned: Option<String>,
}

struct Outcome {
    tuning: PodTuning,
    /// Whether somebody should look at it.
    problem: bool,
}

impl Tuner {
    /// First puts back what a killed switch left, as told by its record at this path.
    pub(crate) fn start(setting: Tuning, path: PathBuf) -> Self {
        let mut tuner = Self {
            setting,
            record: Record::read(path),
            pods: BTreeMap::new(),
            threads: None,
            unpinned: None,
        };
        tuner.undo_all();
        tuner
    }

    /// Tunes a pod that was just attached by this host end.
    pub(crate) fn tune(&mut self, pod: &Pod, veth: &InterfaceRef) {
        if self.setting.knobs().is_empty() {
            return;
        }
        if self.setting.has(Knob::ThreadedNapi) && self.threads.is_none() {
            self.threads = Some(Threads::look());
        }
        let outcome = match self.turn(pod, veth) {
            Ok(applied) => Outcome { tuning: PodTuning { applied, untuned: None }, problem: false },
            Err(error) => {
                tracing::debug!(pod = %pod.name, %error, "not tuned");
                self.undo(veth.index);
                let problem = self.setting.is_demanded() || !matches!(error, TuningError::NoNamespace);
                let tuning = PodTuning { applied: Vec::new(), untuned: Some(error.to_string()) };
                Outcome { tuning, problem }
            }
        };
        self.pods.insert(veth.index, outcome);
    }

    fn turn(&mut self, pod: &Pod, veth: &InterfaceRef) -> Result<Vec<String>, TuningError> {
        let netns = pod.netns.as_ref().ok_or(TuningError::NoNamespace)?;
        let found = knobs::look(netns, &veth.name)?;
        let changes = knobs::needed(&self.setting, &found);
        if !changes.is_empty() {
            let entry = Entry {
                netns: netns.clone(),
                mac: found.mac,
                veth: veth.name.clone(),
                changes: changes.clone(),
            };
            self.record.add(veth.index, entry)?;
            knobs::apply(netns, &veth.name, &changes)?;
        }
        let found = knobs::look(netns, &veth.name)?;
        match knobs::needed(&self.setting, &found).first() {
            Some(left) => Err(TuningError::Left(left.of())),
            None => Ok(self.setting.knobs().iter().map(|knob| shown(*knob, &found)).collect()),
        }
    }

    /// Puts back what was changed for the pod with this host end.
    pub(crate) fn undo(&mut self, veth: u32) {
        self.pods.remove(&veth);
        let Some(entry) = self.record.entry(veth) else { return };
        if let Err(error) = knobs::revert(veth, entry) {
            // The pod went with its namespace, most of the time.
            tracing::debug!(veth = entry.veth, %error, "its tuning is not put back");
        }
        self.record.remove(veth);
    }

    /// Puts back everything.
    pub(crate) fn undo_all(&mut self) {
        for veth in self.record.veths() {
            self.undo(veth);
        }
    }

    /// Keeps the receiving threads of the pods tuned since the last call off these cores.
    pub(crate) fn pin_threads(&mut self, workers: &[Option<usize>]) {
        let Some(before) = self.threads.take() else { return };
        self.unpinned = before.pin_new(workers).err();
    }

    /// What is applied to the pod with this host end.
    pub(crate) fn of(&self, veth: u32) -> PodTuning {
        self.pods.get(&veth).map_or_else(PodTuning::default, |outcome| outcome.tuning.clone())
    }

    /// Why the pod with this host end is not tuned, if somebody should know.
    pub(crate) fn problem_of(&self, veth: u32) -> Option<String> {
        let outcome = self.pods.get(&veth).filter(|outcome| outcome.problem)?;
        outcome.tuning.untuned.as_ref().map(|reason| format!("not tuned: {reason}"))
    }

    /// Why receiving threads run where they should not, if they do.
    pub(crate) fn problem(&self) -> Option<String> {
        self.unpinned.clone()
    }
}

fn shown(knob: Knob, found: &knobs::Found) -> String {
    match (knob, &found.qdisc) {
        (Knob::Qdisc, Some(kind)) => format!("{knob} {kind}"),
        _ => knob.to_string(),
    }
}
