//! The switch's control socket as the agent uses it: the lease, the enforced snapshot, and new ones.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_api::agent::{AgentLease, Problem, ProblemReason};
use espalier_api::control::{AGENT_HEADER, Applied, ErrorReply, Status};
use espalier_api::{Generation, InputError, Snapshot, VERSION, file::MAX_BYTES};
use futures_util::stream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest wait for a reply; a first snapshot of a large node takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request's body in parts.
type Parts = StreamBody<stream::Iter<std::vec::IntoIter<io::Result<Frame<Bytes>>>>>;

/// The switch cannot be fed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It does not answer.
    #[error("{}: {cause}", .socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        cause: String,
    },
    /// Another agent holds the lease.
    #[error("{0}")]
    Taken(InputError),
    /// It refuses what was sent.
    #[error("{0}")]
    Refused(InputError),
    /// The lease ended: the switch stopped.
    #[error("the switch ended the agent's lease")]
    LeaseEnded,
}

impl PushError {
    /// In the words of the status.
    pub(super) fn problem(&self) -> Problem {
        let (reason, fix) = match self {
            Self::Unreachable { .. } | Self::LeaseEnded => (
                ProblemReason::SwitchUnavailable,
                "; is espalier-switch running? What it enforced last stays in force, and it is asked again",
            ),
            Self::Taken(_) => (ProblemReason::SwitchTaken, ""),
            Self::Refused(_) => (ProblemReason::SnapshotRefused, ""),
        };
        Problem::new(reason, "switch", format!("{self}{fix}"))
    }
}

/// A lease and a connection for requests.
pub struct Link {
    socket: PathBuf,
    sender: SendRequest<Parts>,
    lease: Incoming,
    // The lease's connection closes when its sender goes.
    _lease_sender: SendRequest<Parts>,
    told: AgentLease,
}

impl Link {
    /// Connects and takes the lease in the name of `agent`.
    pub async fn open(socket: &Path, agent: &str) -> Result<Self, PushError> {
        let unreachable = |cause: String| PushError::Unreachable { socket: socket.to_owned(), cause };
        let mut sender = connect(socket).await.map_err(|cause| unreachable(cause.to_string()))?;
        let mut lease_sender = connect(socket).await.map_err(|cause| unreachable(cause.to_string()))?;
        let (_, status) = exchange(&mut sender, request(Method::GET, "/v1/status", None, Vec::new()))
            .await
            .map_err(unreachable)?;
        let status: Status = parse(&status).map_err(unreachable)?;
        if status.api_version != VERSION {
            let theirs = status.api_version;
            return Err(unreachable(format!("the switch speaks API version {theirs}, this agent {VERSION}")));
        }
        let ask = request(Method::GET, &format!("/v1/agent?name={agent}"), None, Vec::new())
            .map_err(|cause| unreachable(cause.to_string()))?;
        let reply = timeout(PATIENCE, lease_sender.send_request(ask))
            .await
            .map_err(|_| unreachable("no answer to GET /v1/agent".to_owned()))?
            .map_err(|cause| unreachable(cause.to_string()))?;
        let status = reply.status();
        let mut lease = reply.into_body();
        let told = timeout(PATIENCE, lease.frame()).await;
        let line = told.ok().flatten().and_then(Result::ok).and_then(|frame| frame.into_data().ok());
        let line = line.unwrap_or_default();
        if status == StatusCode::CONFLICT {
            let reply: ErrorReply = parse(&line).map_err(unreachable)?;
            return Err(PushError::Taken(reply.error));
        }
        let told = parse(&line).map_err(unreachable)?;
        Ok(Self { socket: socket.to_owned(), sender, lease, _lease_sender: lease_sender, told })
    }

    /// What the switch enforced when the lease was given.
    pub fn generation(&self) -> Option<Generation> {
        self.told.generation
    }

    /// Returns when the lease has ended.
    pub async fn ended(&mut self) {
        while let Some(Ok(_)) = self.lease.frame().await {}
    }

    /// The enforced snapshot; none where it cannot be understood, being of another version.
    pub async fn snapshot(&mut self) -> Result<Option<Snapshot>, PushError> {
        let request = request(Method::GET, "/v1/snapshot", None, Vec::new());
        let (status, body) = exchange(&mut self.sender, request).await.map_err(|cause| self.lost(cause))?;
        Ok(status.is_success().then(|| serde_json::from_slice(&body).ok()).flatten())
    }

    /// Has a snapshot enforced; returns when it is.
    pub async fn put(&mut self, parts: Vec<Bytes>) -> Result<Applied, PushError> {
        let request = request(Method::PUT, "/v1/snapshot", Some(&self.told.token), parts);
        let (status, body) = exchange(&mut self.sender, request).await.map_err(|cause| self.lost(cause))?;
        if status.is_success() {
            return parse(&body).map_err(|cause| self.lost(cause));
        }
        let reply: ErrorReply = parse(&body).map_err(|cause| self.lost(cause))?;
        match status {
            StatusCode::CONFLICT => Err(PushError::LeaseEnded),
            status if status.is_client_error() => Err(PushError::Refused(reply.error)),
            _ => Err(self.lost(reply.error.to_string())),
        }
    }

    fn lost(&self, cause: String) -> PushError {
        PushError::Unreachable { socket: self.socket.clone(), cause }
    }
}

async fn connect(socket: &Path) -> io::Result<SendRequest<Parts>> {
    let stream = timeout(PATIENCE, UnixStream::connect(socket)).await??;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its errors reach the caller through the request under way.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(
    method: Method,
    path: &str,
    token: Option<&str>,
    parts: Vec<Bytes>,
) -> Result<Request<Parts>, hyper::http::Error> {
    let length: usize = parts.iter().map(Bytes::len).sum();
    let frames: Vec<io::Result<Frame<Bytes>>> = parts.into_iter().map(|part| Ok(Frame::data(part))).collect();
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "espalier")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, length);
    if let Some(token) = token {
        request = request.header(AGENT_HEADER, token);
    }
    request.body(StreamBody::new(stream::iter(frames)))
}

async fn exchange(
    sender: &mut SendRequest<Parts>,
    request: Result<Request<Parts>, hyper::http::Error>,
) -> Result<(StatusCode, Bytes), String> {
    let request = request.map_err(|error| error.to_string())?;
    let asking = async {
        sender.ready().await.map_err(|error| error.to_string())?;
        let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = reply.into_parts();
        Ok((head.status, whole(body).await?))
    };
    timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

async fn whole(body: impl Body<Data = Bytes, Error = hyper::Error>) -> Result<Bytes, String> {
    let limit = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    let body = Limited::new(body, limit).collect().await.map_err(|error| error.to_string())?;
    Ok(body.to_bytes())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("not what a switch says: {error}"))
}
