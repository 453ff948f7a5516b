//! The switch's metrics: gathered from the manager when somebody asks, kept for a second, told as OpenMetrics text.
//!
//! Served on the control socket and, where asked, over TCP, by the management runtime: however many scrape, the workers are
//! asked once a second at most, between their batches. `metrics::table` lists what there is.

use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::manager::{Manager, ManagerError};

mod shown_rules;
pub mod table;
mod view;

use shown_rules::ShownRules;
pub use view::Facts;
use view::View;

/// What every name begins with.
const PREFIX: &str = "espalier";

/// How long what was gathered is told again.
const KEPT: Duration = Duration::from_secs(1);

/// Content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Who gathers and keeps.
pub struct Metrics {
    /// The manager outlives nobody's interest in metrics.
    manager: Weak<Mutex<Manager>>,
    rules: Mutex<ShownRules>,
    last: tokio::sync::Mutex<Option<(Instant, axum::body::Bytes)>>,
}

/// Metrics cannot be told.
#[derive(Debug, thiserror::Error)]
enum MetricsError {
    #[error("the switch is stopping")]
    Stopping,
    #[error("an earlier request failed badly: restart the switch")]
    Poisoned,
    #[error(transparent)]
    Manager(#[from] ManagerError),
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("the metrics cannot be written down: {0}")]
    Text(#[from] std::fmt::Error),
}

impl Metrics {
    /// Of this manager, with series for so many rules at most.
    pub fn new(manager: Weak<Mutex<Manager>>, rules: usize) -> Self {
        Self { manager, rules: Mutex::new(ShownRules::new(rules)), last: tokio::sync::Mutex::new(None) }
    }

    /// The reply to a scrape.
    pub async fn reply(&self) -> Response {
        match self.text().await {
            Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        }
    }

    async fn text(&self) -> Result<axum::body::Bytes, MetricsError> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < KEPT
        {
            return Ok(text.clone());
        }
        let manager = self.manager.upgrade().ok_or(MetricsError::Stopping)?;
        let facts = tokio::task::spawn_blocking(move || {
            Ok::<_, MetricsError>(manager.lock().map_err(|_| MetricsError::Poisoned)?.facts()?)
        });
        let facts = facts.await??;
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).show(&facts.usage);
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(View::new(facts, rules, SystemTime::now())));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        let text = axum::body::Bytes::from(text);
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

/// Serves `/metrics` over TCP, until it is aborted.
pub async fn serve(listener: TcpListener, metrics: std::sync::Arc<Metrics>) -> std::io::Result<()> {
    let routes = axum::Router::new()
        .route("/metrics", get(async |State(metrics): State<std::sync::Arc<Metrics>>| metrics.reply().await))
        .with_state(metrics);
    axum::serve(listener, routes).await
}
