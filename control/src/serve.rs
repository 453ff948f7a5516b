//! What the agent serves: its status on its own unix socket, metrics and health there and, where asked, over TCP.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::agent::View;
use crate::metrics::Metrics;
use crate::status::{problems, status};

/// The loop goes round every few seconds; one that has not for this long hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the handlers share.
#[derive(Clone)]
pub struct Shown {
    /// The agent's view.
    pub view: watch::Receiver<Option<Arc<View>>>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// When it started.
    pub started: Instant,
}

impl Shown {
    fn now(&self) -> Option<Arc<View>> {
        self.view.borrow().clone()
    }
}

/// Serves until `stopped`.
pub async fn serve(
    socket: UnixListener,
    tcp: Option<TcpListener>,
    shown: Shown,
    stopped: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let public = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness));
    let own = public.clone().route("/v1/status", get(show_status)).with_state(shown.clone());
    let own = async move { axum::serve(socket, own).await };
    let public = async move {
        match tcp {
            Some(tcp) => axum::serve(tcp, public.with_state(shown)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = own => ended,
        ended = public => ended,
        () = stopped => Ok(()),
    }
}

async fn show_status(State(shown): State<Shown>) -> Response {
    match shown.now() {
        Some(view) => Json(status(&view, &shown.metrics, shown.started)).into_response(),
        None => starting(),
    }
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    match shown.metrics.text(shown.now().as_deref()) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Whether the loop goes round.
async fn health(State(shown): State<Shown>) -> Response {
    let quiet = shown.now().map_or(shown.started.elapsed(), |view| view.alive.elapsed().unwrap_or_default());
    if quiet < HANGS {
        return "ok\n".into_response();
    }
    let message = format!("the agent's loop has stood still for {} s\n", quiet.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
}

/// Whether the switch enforces what is desired.
async fn readiness(State(shown): State<Shown>) -> Response {
    let Some(view) = shown.now() else { return starting() };
    if view.is_ready() {
        return "ok\n".into_response();
    }
    let why: Vec<String> = problems(&view)
        .iter()
        .map(|problem| format!("{}: {}: {}\n", problem.reason.label(), problem.subject, problem.message))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}", why.concat())).into_response()
}

fn starting() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
}
