//! What the manager has recorded: it keeps the recorder for as long as there is a flow log or a shadow, and tells it of
//! each generation before the workers use it.

use std::sync::Arc;

use espalier_api::recording::{ShadowReport, ShadowStatus};
use espalier_api::{InputError, Snapshot};
use espalier_rules::Judge;

use super::recorder::{Published, Recorder};
use super::{Manager, ManagerError};
use crate::flow::PodSlot;
use crate::shadow::Shadow;

impl Manager {
    /// Tells the recorder, if there is one, what is about to be published. Nothing that is recorded is worth holding up what
    /// is enforced.
    pub(super) fn tell_recorder(&self, snapshot: &Arc<Snapshot>, placed: &[PodSlot], judge: &Judge) {
        let Some(recorder) = &self.recorder else { return };
        if let Err(error) = recorder.publish(published(snapshot, placed, judge)) {
            tracing::error!(%error, "flow logs and the shadow do not know the new generation");
        }
    }

    /// Starts the recorder with the first snapshot, if a flow log is wanted: after the flows of an earlier switch are back,
    /// before the first packet.
    pub(super) fn record(&mut self, snapshot: &Arc<Snapshot>, placed: &[PodSlot], judge: &Judge) {
        if self.recorder.is_some() || self.config.flow_log.file.is_none() {
            return;
        }
        match self.start_recorder(published(snapshot, placed, judge)) {
            Ok(recorder) => self.recorder = Some(recorder),
            Err(error) => tracing::error!(%error, "no flow log is written"),
        }
    }

    /// Judges a snapshot beside the enforced one from now on. What an earlier shadow has shown is forgotten.
    pub fn set_shadow(&mut self, snapshot: Snapshot) -> Result<ShadowStatus, ManagerError> {
        let recorder = match self.recorder.take() {
            Some(recorder) => recorder,
            None => {
                let enforced = self.enforced()?;
                let slot = |pod: &espalier_api::Pod| self.pods.get(&pod.name).map(|port| port.slot);
                let placed: Vec<_> = enforced.snapshot.pods.iter().filter_map(slot).collect();
                self.start_recorder(published(&enforced.snapshot, &placed, &enforced.judge))?
            }
        };
        let generation = snapshot.generation;
        let shadow = Some(Shadow::new(snapshot));
        self.recorder.insert(recorder).set_shadow(shadow).map_err(ManagerError::failed)?;
        tracing::info!(generation = generation.0, "a shadow is judged beside the enforced snapshot");
        Ok(self.shadow_report()?.shadow)
    }

    /// What the shadow would change, as far as traffic has shown.
    pub fn shadow_report(&self) -> Result<ShadowReport, ManagerError> {
        let none = || InputError::new("", "no shadow is set: `espalier shadow set FILE`");
        let recorder = self.recorder.as_ref().ok_or_else(none)?;
        Ok(recorder.report().map_err(ManagerError::failed)?.ok_or_else(none)?)
    }

    /// Judges nothing beside the enforced snapshot any more. Returns what was.
    pub fn clear_shadow(&mut self) -> Result<Option<ShadowStatus>, ManagerError> {
        let Some(mut recorder) = self.recorder.take() else { return Ok(None) };
        let before = recorder.set_shadow(None).map_err(ManagerError::failed);
        match recorder.has_log() {
            true => self.recorder = Some(recorder),
            false => recorder.stop(),
        }
        let before = before?;
        if before.is_some() {
            tracing::info!("the shadow is cleared");
        }
        Ok(before)
    }

    /// That pods are in audit mode: nobody shall forget it.
    pub(super) fn audited(&self) -> Option<String> {
        let snapshot = &self.enforced.as_ref()?.snapshot;
        let pods: Vec<_> = snapshot.pods.iter().filter(|pod| snapshot.audits(pod)).collect();
        let first = &pods.first()?.name;
        let whose = match pods.len() {
            1 => format!("pod {first} is"),
            count => format!("{count} pods ({first} …) are"),
        };
        Some(format!("{whose} in audit mode: what their security groups deny passes"))
    }

    fn start_recorder(&self, published: Published) -> Result<Recorder, ManagerError> {
        let workers = self.crew()?.handles();
        Recorder::start(workers, published, &self.config.flow_log).map_err(ManagerError::failed)
    }
}

fn published(snapshot: &Arc<Snapshot>, placed: &[PodSlot], judge: &Judge) -> Published {
    Published { snapshot: Arc::clone(snapshot), placed: placed.to_vec(), judge: judge.clone() }
}
