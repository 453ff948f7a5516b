//! What the switch holds for one generation: the model, and the engine that evaluates it.
//!
//! Cheap to clone and to share between workers; immutable. The model is made when somebody first asks for it, so that
//! a small change of a large snapshot stays cheap.

use std::fmt;
use std::sync::{Arc, OnceLock};

use espalier_api::{Answer, Explained, Query, Snapshot};

use crate::compiler::Compiler;
use crate::engine::{Decision, Engine, PolicyId, RuleRef, ServiceRef};
use crate::explain::{QueryError, explain, explain_nearest};
use crate::linear::Linear;
use crate::lower::LoweredRule;
use crate::model::{Model, Numbering};
use crate::services::Services;
use crate::settings::Settings;
use crate::tuple::Tuple;
use crate::warning::Warning;

/// A snapshot's rules and their engine.
#[derive(Clone)]
pub struct Judge {
    source: Arc<Source>,
    engine: Arc<dyn Engine + Send + Sync>,
}

/// What the model is made from.
struct Source {
    snapshot: Arc<Snapshot>,
    settings: Arc<Settings>,
    numbering: Arc<Numbering>,
    services: Arc<Services>,
    model: OnceLock<(Arc<Model>, Vec<Warning>)>,
}

impl Source {
    fn model(&self) -> &(Arc<Model>, Vec<Warning>) {
        self.model.get_or_init(|| {
            let (model, warnings) = Model::numbered(&self.snapshot, &self.numbering, &self.settings);
            (Arc::new(model), warnings)
        })
    }
}

impl Judge {
    /// A judge that evaluates rule by rule: the oracle.
    pub fn plain(snapshot: &Snapshot) -> (Self, Vec<Warning>) {
        Self::plain_with_settings(snapshot, Arc::default())
    }

    /// [`plain`](Self::plain) under other settings than the default ones.
    pub fn plain_with_settings(snapshot: &Snapshot, settings: Arc<Settings>) -> (Self, Vec<Warning>) {
        let numbering = Arc::new(Numbering::fresh(snapshot));
        let services = Arc::new(Services::new(snapshot));
        let source = Source {
            snapshot: Arc::new(snapshot.clone()),
            settings,
            numbering,
            services,
            model: OnceLock::new(),
        };
        let (model, warnings) = source.model().clone();
        (Self { source: Arc::new(source), engine: Arc::new(Linear::new(model)) }, warnings)
    }

    /// A judge with compiled tables. Who gets snapshots again and again keeps a [`Compiler`] instead.
    pub fn compiled(snapshot: &Snapshot) -> (Self, Vec<Warning>) {
        let judge = Compiler::new(Arc::new(snapshot.clone())).judge();
        let warnings = judge.warnings().to_vec();
        (judge, warnings)
    }

    pub(crate) fn new(
        (snapshot, settings): (Arc<Snapshot>, Arc<Settings>),
        numbering: Arc<Numbering>,
        services: Arc<Services>,
        engine: Arc<dyn Engine + Send + Sync>,
    ) -> Self {
        let source = Source { snapshot, settings, numbering, services, model: OnceLock::new() };
        Self { source: Arc::new(source), engine }
    }

    /// Policies, rules, members and services.
    pub fn model(&self) -> &Model {
        &self.source.model().0
    }

    /// What is odd about the snapshot.
    pub fn warnings(&self) -> &[Warning] {
        &self.source.model().1
    }

    /// The policy of `snapshot.pods[pod]`.
    pub fn policy_of(&self, pod: usize) -> Option<PolicyId> {
        self.source.numbering.policies.get(pod).copied()
    }

    /// The rule of an allow decision.
    pub fn rule(&self, rule: RuleRef) -> Option<&LoweredRule> {
        self.model().rule(rule)
    }

    /// Name of the service of an unfiltered decision.
    pub fn service_name(&self, service: ServiceRef) -> Option<&str> {
        self.source.services.get(service).map(|service| service.name.as_str())
    }

    /// Answers a query in words.
    pub fn explain(&self, query: &Query) -> Result<Answer, QueryError> {
        explain(self.model(), &*self.engine, query)
    }

    /// [`explain`](Self::explain), and for a deny the nearest rule.
    pub fn explain_nearest(&self, query: &Query) -> Result<Explained, QueryError> {
        explain_nearest(self.model(), &*self.engine, query)
    }
}

impl Engine for Judge {
    fn judge(&self, policy: PolicyId, packet: &Tuple) -> Decision {
        self.engine.judge(policy, packet)
    }

    fn judge_batch(&self, packets: &[(PolicyId, Tuple)], decisions: &mut [Decision]) {
        self.engine.judge_batch(packets, decisions);
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("generation", &self.source.snapshot.generation).finish_non_exhaustive()
    }
}
