//! Security group policy: model ▸ lower ▸ compile ▸ lookup ▸ explain, and the oracles.
//!
//! The switch builds one [`Judge`] a generation from a valid [`espalier_api::Snapshot`] and asks it about every packet
//! that no tracked flow answers for; the CLI asks the same [`Judge`] to explain. Pure: no I/O, no clock, no threads.

mod change;
mod compiled;
mod compiler;
mod difference;
mod direct;
mod engine;
mod explain;
mod judge;
mod linear;
mod lint;
mod listing;
mod lower;
mod model;
mod services;
mod settings;
#[cfg(test)]
mod testing;
mod tuple;
mod warning;

pub use change::{Change, changes};
pub use compiled::{TableSizes, Tables};
pub use compiler::Compiler;
pub use difference::{Opening, SpaceChange, difference};
pub use direct::{Direct, direct};
pub use engine::{Decision, Engine, PolicyId, RuleRef, ServiceRef};
pub use explain::{QueryError, explain, explain_nearest};
pub use judge::Judge;
pub use linear::Linear;
pub use lint::{Finding, FindingKind, lint};
pub use lower::{LoweredRule, Predicate};
pub use model::Model;
pub use services::Services;
pub use settings::Settings;
pub use tuple::Tuple;
pub use warning::Warning;
