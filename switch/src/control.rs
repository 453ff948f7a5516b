//! The control socket: HTTP/1.1 and JSON under `/v1` on a unix socket, for root and one group.
//!
//! The words are `espalier_api::control`'s. Requests are answered one at a time by the manager on a blocking thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, FromRef, FromRequest, Path as UrlPath, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use axum::serve::IncomingStream;
use espalier_api::control::{AGENT_HEADER, ErrorReply, MovePod, Rebalance, Status};
use espalier_api::{InputError, PodName, Query, Snapshot};
use tokio::net::UnixListener;
use tokio::net::unix::UCred;
use tokio::sync::watch;

use crate::manager::{Manager, ManagerError};
use crate::metrics::Metrics;

mod lease;
mod watching;

use lease::Leases;

/// The manager, as the handlers share it.
pub type Shared = Arc<Mutex<Manager>>;

/// What the handlers share.
#[derive(Clone)]
struct App {
    manager: Shared,
    metrics: Arc<Metrics>,
    leases: Leases,
    stopping: watch::Receiver<bool>,
}

impl FromRef<App> for Shared {
    fn from_ref(app: &App) -> Self {
        Arc::clone(&app.manager)
    }
}

/// Requests that are under way when the switch ends may take so long; a client that sends no whole one holds nothing up.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Serves until `stopped`.
pub async fn serve(
    listener: UnixListener,
    manager: Shared,
    metrics: Arc<Metrics>,
    group: bool,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let mut ending = stopping.clone();
    let stopped = async move {
        stopped.await;
        // The agent's reply would never end by itself.
        stop.send_replace(true);
    };
    let routes = axum::Router::new()
        .route("/v1/agent", get(agent))
        .route("/v1/status", get(status))
        .route("/v1/snapshot", put(apply).get(snapshot))
        .route("/v1/pods", get(pods))
        .route("/v1/pods/rebalance", post(rebalance))
        .route("/v1/pods/{namespace}/{name}/move", post(move_pod))
        .route("/v1/shadow", put(set_shadow).get(shadow_report).delete(clear_shadow))
        .route("/v1/groups", get(groups))
        .route("/v1/pods/{namespace}/{name}/rules", get(rules))
        .route("/v1/rules", get(rule_usage))
        .route("/v1/metrics", get(show_metrics))
        .route("/v1/explain", post(explain))
        .route("/v1/trace", post(trace))
        .route("/v1/watch", post(watch_packets))
        .route("/v1/flows", post(flows))
        .route("/v1/flows/count", post(count_flows))
        .route("/v1/flows/drop", post(drop_flows))
        .fallback(async || refused(StatusCode::NOT_FOUND, "", "no such resource"))
        .layer(axum::middleware::from_fn_with_state(group, check_peer))
        .layer(DefaultBodyLimit::max(espalier_api::file::MAX_BYTES as usize))
        .with_state(App { manager, metrics, leases: Leases::default(), stopping });
    let serving = axum::serve(listener, routes.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(stopped);
    let overdue = async {
        let _stopped = ending.wait_for(|ending| *ending).await;
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}

/// Time in which the packets are counted by which workers are evened out.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy)]
struct Peer(Option<UCred>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok())
    }
}

/// Root and the switch's own user may always; others only where a socket group lets them connect at all.
async fn check_peer(
    State(group): State<bool>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let own = rustix::process::geteuid().as_raw();
    let allowed = peer.is_some_and(|peer| peer.uid() == 0 || peer.uid() == own || group);
    if !allowed {
        return refused(
            StatusCode::FORBIDDEN,
            "",
            "only root may use this socket: see --socket-group of the switch",
        );
    }
    if announced_length(&request) > espalier_api::file::MAX_BYTES {
        return too_large();
    }
    if request.method() != axum::http::Method::GET {
        let (uid, pid) = peer.map_or((0, None), |peer| (peer.uid(), peer.pid()));
        tracing::debug!(uid, pid, method = %request.method(), path = request.uri().path(), "control request");
    }
    next.run(request).await
}

/// What the head says the body's length is.
fn announced_length(request: &Request) -> u64 {
    let header = request.headers().get(axum::http::header::CONTENT_LENGTH);
    header.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default()
}

fn too_large() -> Response {
    let most = espalier_api::file::MAX_BYTES >> 20;
    let message = format!("larger than {most} MiB, the most that is accepted");
    refused(StatusCode::PAYLOAD_TOO_LARGE, "", &message)
}

/// A request's body, whole.
struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
            Err(error) => Err(refused(error.status(), "", &error.body_text())),
        }
    }
}

async fn status(State(App { manager, leases, .. }): State<App>) -> Response {
    ask(manager, move |manager| Ok(Status { agent: leases.holder(), ..manager.status()? })).await
}

/// Gives the lease, for as long as the reply is read.
async fn agent(State(App { manager, leases, stopping, .. }): State<App>, uri: Uri) -> Response {
    let lease = match leases.take(parameter(&uri, "name").unwrap_or_default()) {
        Ok(lease) => lease,
        Err(error) if error.field == "agent" => return conflict(error),
        Err(error) => return (StatusCode::BAD_REQUEST, Json(ErrorReply { error })).into_response(),
    };
    let generation = tokio::task::spawn_blocking(move || {
        let manager = manager.lock().unwrap_or_else(PoisonError::into_inner);
        manager.snapshot().ok().map(|snapshot| snapshot.generation)
    });
    match generation.await {
        Ok(generation) => lease.into_body(generation, stopping).into_response(),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, "", &error.to_string()),
    }
}

/// A parameter of the query; its characters stand for themselves.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))
}

fn conflict(error: InputError) -> Response {
    (StatusCode::CONFLICT, Json(ErrorReply { error })).into_response()
}

async fn pods(State(manager): State<Shared>) -> Response {
    ask(manager, |manager| manager.pods()).await
}

async fn groups(State(manager): State<Shared>) -> Response {
    ask(manager, |manager| Ok(manager.groups())).await
}

async fn snapshot(State(manager): State<Shared>) -> Response {
    ask(manager, |manager| Ok(manager.snapshot()?.clone())).await
}

async fn rules(
    State(manager): State<Shared>,
    UrlPath((namespace, name)): UrlPath<(String, String)>,
) -> Response {
    let Ok(pod) = format!("{namespace}/{name}").parse::<PodName>() else {
        return refused(StatusCode::BAD_REQUEST, "pod", "expected namespace/name");
    };
    ask(manager, move |manager| Ok(manager.rules(&pod)?)).await
}

async fn show_metrics(State(App { metrics, .. }): State<App>) -> Response {
    metrics.reply().await
}

async fn rule_usage(State(manager): State<Shared>) -> Response {
    ask(manager, |manager| Ok(manager.rule_usage())).await
}

async fn apply(
    State(App { manager, leases, .. }): State<App>,
    uri: Uri,
    headers: HeaderMap,
    Body(body): Body,
) -> Response {
    let token = headers.get(AGENT_HEADER).and_then(|value| value.to_str().ok());
    if let Err(error) = leases.check(token, parameter(&uri, "force") == Some("true")) {
        return conflict(error);
    }
    ask(manager, move |manager| manager.apply(whole_snapshot(&body)?)).await
}

/// A valid snapshot that names no files.
fn whole_snapshot(body: &[u8]) -> Result<Snapshot, InputError> {
    let snapshot = Snapshot::from_json(body)?;
    if !snapshot.ec2.is_empty() {
        let message = "names files, which the switch does not read: `espalier apply` resolves them";
        return Err(InputError::new("ec2", message));
    }
    Ok(snapshot)
}

async fn set_shadow(State(manager): State<Shared>, Body(body): Body) -> Response {
    ask(manager, move |manager| manager.set_shadow(whole_snapshot(&body)?)).await
}

async fn shadow_report(State(manager): State<Shared>) -> Response {
    ask(manager, |manager| manager.shadow_report()).await
}

async fn clear_shadow(State(manager): State<Shared>) -> Response {
    ask(manager, Manager::clear_shadow).await
}

async fn move_pod(
    State(manager): State<Shared>,
    UrlPath((namespace, name)): UrlPath<(String, String)>,
    Body(body): Body,
) -> Response {
    let Ok(pod) = format!("{namespace}/{name}").parse::<PodName>() else {
        return refused(StatusCode::BAD_REQUEST, "pod", "expected namespace/name");
    };
    ask(manager, move |manager| {
        let MovePod { worker } = parse(&body)?;
        manager.move_pod(&pod, worker)
    })
    .await
}

/// Other requests are answered while the packets are counted.
async fn rebalance(State(manager): State<Shared>, Body(body): Body) -> Response {
    let wanted = if body.is_empty() { Ok(Rebalance::default()) } else { parse(&body) };
    let interval = match wanted {
        Ok(Rebalance { interval_ms }) => Duration::from_millis(interval_ms),
        Err(InputError { field, message, .. }) => return refused(StatusCode::BAD_REQUEST, &field, &message),
    };
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        return refused(StatusCode::BAD_REQUEST, "intervalMs", "must be 10 to 60000 milliseconds");
    }
    let before = match answer(Shared::clone(&manager), |manager| Ok(manager.packets())).await {
        Ok(before) => before,
        Err(refusal) => return refusal,
    };
    tokio::time::sleep(interval).await;
    ask(manager, move |manager| manager.rebalance(&before)).await
}

async fn trace(State(manager): State<Shared>, Body(body): Body) -> Response {
    ask(manager, move |manager| manager.trace(&parse(&body)?)).await
}

async fn watch_packets(State(App { manager, stopping, .. }): State<App>, Body(body): Body) -> Response {
    match answer(Shared::clone(&manager), move |manager| manager.watch(&parse(&body)?)).await {
        Ok(watching) => watching::into_body(manager, watching, stopping).into_response(),
        Err(refusal) => refusal,
    }
}

async fn flows(State(manager): State<Shared>, Body(body): Body) -> Response {
    ask(manager, move |manager| manager.flows(&parse(&body)?)).await
}

async fn count_flows(State(manager): State<Shared>, Body(body): Body) -> Response {
    ask(manager, move |manager| manager.count_flows(&parse(&body)?)).await
}

async fn drop_flows(State(manager): State<Shared>, Body(body): Body) -> Response {
    ask(manager, move |manager| manager.drop_flows(&parse(&body)?)).await
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, InputError> {
    serde_json::from_slice(body).map_err(|error| InputError::new("", error.to_string()))
}

async fn explain(State(manager): State<Shared>, Body(body): Body) -> Response {
    ask(manager, move |manager| {
        let queries: Vec<Query> = parse(&body)?;
        Ok(manager.explain(&queries)?)
    })
    .await
}

/// Answers a request with the manager's reply.
async fn ask<T: serde::Serialize + Send + 'static>(
    manager: Shared,
    question: impl FnOnce(&mut Manager) -> Result<T, ManagerError> + Send + 'static,
) -> Response {
    match answer(manager, question).await {
        Ok(reply) => Json(reply).into_response(),
        Err(refusal) => refusal,
    }
}

/// Asks the manager on a blocking thread, one question at a time.
async fn answer<T: Send + 'static>(
    manager: Shared,
    question: impl FnOnce(&mut Manager) -> Result<T, ManagerError> + Send + 'static,
) -> Result<T, Response> {
    let answer = tokio::task::spawn_blocking(move || match manager.lock() {
        Ok(mut manager) => question(&mut manager),
        Err(_) => Err(ManagerError::Failed("an earlier request failed badly: restart the switch".to_owned())),
    });
    match answer.await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(ManagerError::Refused(error))) => {
            Err((StatusCode::BAD_REQUEST, Json(ErrorReply { error })).into_response())
        }
        Ok(Err(ManagerError::Failed(message))) => {
            tracing::error!(message, "a control request failed");
            Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "", &message))
        }
        Err(error) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "", &error.to_string())),
    }
}

fn refused(status: StatusCode, field: &str, message: &str) -> Response {
    (status, Json(ErrorReply { error: InputError::new(field, message) })).into_response()
}
