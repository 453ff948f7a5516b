//! What the switch holds for one generation: the model, and the engine that evaluates it.
//!
//! Cheap to clone and to share between workers; immutable.

use std::fmt;
use std::sync::Arc;

use espalier_api::{Answer, Query, Snapshot};

use crate::engine::{Decision, Engine, PolicyId, RuleRef, ServiceRef};
use crate::explain::{QueryError, explain};
use crate::linear::Linear;
use crate::lower::LoweredRule;
use crate::model::Model;
use crate::tuple::Tuple;
use crate::warning::Warning;

/// A model and its engine.
#[derive(Clone)]
pub struct Judge {
    model: Arc<Model>,
    engine: Arc<dyn Engine + Send + Sync>,
}

impl Judge {
    /// A judge that evaluates rule by rule.
    pub fn plain(snapshot: &Snapshot) -> (Self, Vec<Warning>) {
        let (model, warnings) = Model::new(snapshot);
        let model = Arc::new(model);
        let engine = Arc::new(Linear::new(model.clone()));
        (Self { model, engine }, warnings)
    }

    /// Policies, rules, members and services.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The policy of `snapshot.pods[pod]`.
    pub fn policy_of(&self, pod: usize) -> Option<PolicyId> {
        self.model.policy_of(pod)
    }

    /// The rule of an allow decision.
    pub fn rule(&self, rule: RuleRef) -> Option<&LoweredRule> {
        self.model.rule(rule)
    }

    /// Name of the service of an unfiltered decision.
    pub fn service_name(&self, service: ServiceRef) -> Option<&str> {
        self.model.services().get(service).map(|service| service.name.as_str())
    }

    /// Answers a query in words.
    pub fn explain(&self, query: &Query) -> Result<Answer, QueryError> {
        explain(&self.model, &*self.engine, query)
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
        f.debug_struct("Judge").field("rules", &self.model.rule_count()).finish_non_exhaustive()
    }
}
