//! The control socket's client: HTTP/1.1 and JSON on a unix socket, blocking for its callers.
//!
//! Used by every command that asks the running switch. One connection a command; every exchange has a deadline and
//! a size limit; a switch that speaks other words is refused before anything is asked of it.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_api::agent::AgentStatus;
use espalier_api::control::{ErrorReply, Status};
use espalier_api::{InputError, VERSION, file::MAX_BYTES};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::args::Global;

mod watch;

/// Version of this program.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// The agent answers from memory; one that hangs must not hide the switch's answer.
const AGENT_PATIENCE: Duration = Duration::from_secs(3);

/// Why the switch did not answer, or what it refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nothing listens.
    #[error(
        "{}: no switch answers on this socket ({cause}): start one with `espalier-switch --socket {}`, or name \
         its socket with --socket or ESPALIER_SOCKET", .socket.display(), .socket.display()
    )]
    Absent { socket: PathBuf, cause: io::Error },
    /// The socket is not ours to open.
    #[error("{}: permission denied: {needed}", .socket.display())]
    Denied { socket: PathBuf, needed: String },
    /// It took too long.
    #[error(
        "{}: no answer to {request} within {seconds} s: the switch hangs or is busy; --timeout allows it longer",
        .socket.display()
    )]
    TimedOut { socket: PathBuf, request: String, seconds: u64 },
    /// The connection broke.
    #[error("{}: {request}: {cause}", .socket.display())]
    Broken { socket: PathBuf, request: String, cause: String },
    /// Something else listens there, or a switch that breaks its word.
    #[error("{}: {request}: the reply is not what a switch says ({cause}): is this the switch's socket?", .socket.display())]
    Garbage { socket: PathBuf, request: String, cause: String },
    /// Another version.
    #[error(
        "{}: the switch speaks API version {theirs}, this espalier version {VERSION}: use the espalier that came \
         with the switch", .socket.display()
    )]
    Version { socket: PathBuf, theirs: u32 },
    /// The switch has no such call.
    #[error(
        "{}: this switch (version {theirs}) does not know {request}, which this espalier ({OWN}) needs: upgrade the \
         switch, or use the espalier that came with it", .socket.display()
    )]
    UnknownCall { socket: PathBuf, request: String, theirs: String },
    /// The same call means something else to the switch.
    #[error(
        "{}: {request}: the switch is version {theirs}, this espalier {OWN}, and they do not understand each other \
         ({cause}): use the espalier that came with the switch", .socket.display()
    )]
    Misunderstood { socket: PathBuf, request: String, theirs: String, cause: String },
    /// The switch failed.
    #[error("{}: {request}: the switch failed with {status}: {message}", .socket.display())]
    Failed { socket: PathBuf, request: String, status: u16, message: String },
    /// The switch refused the input.
    #[error(transparent)]
    Refused(InputError),
}

impl ClientError {
    /// The same error; a refusal names the file whose content was refused.
    pub(crate) fn about_file(self, file: &Path) -> Self {
        match self {
            Self::Refused(error) => Self::Refused(error.in_file(file.display().to_string())),
            other => other,
        }
    }
}

/// A connection to the switch.
pub(crate) struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    socket: PathBuf,
    timeout: Duration,
    status: Bytes,
    /// Version of the switch program, once it has said it.
    theirs: Option<String>,
}

impl Client {
    /// Connects and checks that the switch speaks this version.
    pub(crate) fn connect(global: &Global) -> Result<Self, ClientError> {
        let mut client = Self::open(global.socket.clone(), Duration::from_secs(global.timeout))?;
        client.check_version()?;
        Ok(client)
    }

    /// What the node agent says of itself; `None` where none runs.
    pub(crate) fn agent(global: &Global) -> Option<AgentStatus> {
        let timeout = Duration::from_secs(global.timeout).min(AGENT_PATIENCE);
        Self::open(global.agent_socket.clone(), timeout).ok()?.get("/v1/status").ok()
    }

    fn open(socket: PathBuf, timeout: Duration) -> Result<Self, ClientError> {
        let absent = |cause| ClientError::Absent { socket: socket.clone(), cause };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(absent)?;
        let stream = runtime.block_on(async {
            let connecting = tokio::time::timeout(timeout, UnixStream::connect(&socket));
            connecting.await.unwrap_or_else(|elapsed| Err(elapsed.into()))
        });
        let stream = stream.map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => denied(&socket),
            _ => absent(cause),
        })?;
        let sender = runtime.block_on(async {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Its errors reach the caller through the request under way.
            tokio::spawn(connection);
            Ok(sender)
        });
        let sender = sender.map_err(|cause: hyper::Error| absent(io::Error::other(cause)))?;
        Ok(Self { runtime, sender, socket, timeout, status: Bytes::new(), theirs: None })
    }

    /// State of the switch, as it was when the connection was made.
    pub(crate) fn status(&self) -> Result<Status, ClientError> {
        self.parse("GET /v1/status", &self.status)
    }

    /// `GET` of a resource.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// `GET` of a resource that is text.
    pub(crate) fn text(&mut self, path: &str) -> Result<String, ClientError> {
        let reply = self.exchange(Method::GET, path, Bytes::new())?;
        String::from_utf8(reply.into()).map_err(|cause| ClientError::Garbage {
            socket: self.socket.clone(),
            request: format!("GET {path}"),
            cause: cause.to_string(),
        })
    }

    /// `PUT` of a resource.
    pub(crate) fn put<B: Serialize + ?Sized, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = self.encode(path, body)?;
        self.ask(Method::PUT, path, body)
    }

    /// `DELETE` of a resource.
    pub(crate) fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path, Bytes::new())
    }

    /// `POST` of a question.
    pub(crate) fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = self.encode(path, body)?;
        self.ask(Method::POST, path, body)
    }

    fn check_version(&mut self) -> Result<(), ClientError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spoken {
            api_version: u32,
            version: Option<String>,
        }
        let name = "GET /v1/status";
        self.status = self.exchange(Method::GET, "/v1/status", Bytes::new())?;
        let Spoken { api_version: theirs, version } = self.parse(name, &self.status)?;
        self.theirs = version;
        if theirs == VERSION {
            return Ok(());
        }
        Err(ClientError::Version { socket: self.socket.clone(), theirs })
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let name = format!("{method} {path}");
        let reply = self.exchange(method, path, body)?;
        self.parse(&name, &reply)
    }

    /// Sends one request and reads the whole reply before the deadline; a refusal becomes an error here.
    fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let name = format!("{method} {path}");
        let request = self.request(method, path, body)?;
        let (status, body) = self.within_deadline(&name, request)?;
        if status.is_success() { Ok(body) } else { Err(self.refusal(name, status, &body)) }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
        let name = format!("{method} {path}");
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "espalier")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|cause| self.broken(&name, &cause))
    }

    fn refusal(&self, request: String, status: StatusCode, body: &Bytes) -> ClientError {
        if status == StatusCode::FORBIDDEN {
            return denied(&self.socket);
        }
        let refusal = serde_json::from_slice::<ErrorReply>(body);
        match refusal {
            _ if has_no_such_call(status, &refusal) => ClientError::UnknownCall {
                socket: self.socket.clone(),
                request,
                theirs: self.theirs.clone().unwrap_or_else(|| "unknown".to_owned()),
            },
            Ok(refusal) if status.is_client_error() && refusal.error.message.starts_with("unknown field") => {
                self.misunderstood(&request, refusal.error.to_string())
                    .unwrap_or(ClientError::Refused(refusal.error))
            }
            Ok(refusal) if status.is_client_error() => ClientError::Refused(refusal.error),
            refusal => ClientError::Failed {
                socket: self.socket.clone(),
                request,
                status: status.as_u16(),
                message: refusal.map_or_else(|_| excerpt(body), |refusal| refusal.error.to_string()),
            },
        }
    }

    /// Sends a request whose reply goes on; returns when its head has come.
    fn begin(&mut self, name: &str, request: Request<Full<Bytes>>) -> Result<Incoming, ClientError> {
        let sender = &mut self.sender;
        let asking = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let reply = self.runtime.block_on(async { tokio::time::timeout(self.timeout, asking).await });
        let reply = reply.map_err(|_| self.timed_out(name))?.map_err(|cause| self.broken(name, &cause))?;
        let status = reply.status();
        if status.is_success() {
            return Ok(reply.into_body());
        }
        let reading = read_reply(reply);
        let read = self.runtime.block_on(async { tokio::time::timeout(self.timeout, reading).await });
        let read = read.map_err(|_| self.timed_out(name))?;
        let (status, body) = read.map_err(|cause| self.broken(name, &*cause))?;
        Err(self.refusal(name.to_owned(), status, &body))
    }

    fn timed_out(&self, name: &str) -> ClientError {
        ClientError::TimedOut {
            socket: self.socket.clone(),
            request: name.to_owned(),
            seconds: self.timeout.as_secs(),
        }
    }

    fn within_deadline(
        &mut self,
        name: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let sender = &mut self.sender;
        let asking = async {
            sender.ready().await?;
            read_reply(sender.send_request(request).await?).await
        };
        match self.runtime.block_on(async { tokio::time::timeout(self.timeout, asking).await }) {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(cause)) => Err(self.broken(name, &*cause)),
            Err(_) => Err(self.timed_out(name)),
        }
    }

    fn broken(&self, request: &str, error: &(dyn Error + Send + Sync + 'static)) -> ClientError {
        let (socket, request) = (self.socket.clone(), request.to_owned());
        let cause = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        let not_http = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
        if not_http || error.is::<LengthLimitError>() {
            return ClientError::Garbage { socket, request, cause };
        }
        ClientError::Broken { socket, request, cause }
    }

    fn encode<B: Serialize + ?Sized>(&self, path: &str, body: &B) -> Result<Bytes, ClientError> {
        serde_json::to_vec(body).map(Bytes::from).map_err(|cause| self.broken(path, &cause))
    }

    fn parse<T: DeserializeOwned>(&self, request: &str, body: &[u8]) -> Result<T, ClientError> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            self.misunderstood(request, error.to_string()).unwrap_or_else(|| ClientError::Garbage {
                socket: self.socket.clone(),
                request: request.to_owned(),
                cause: error.to_string(),
            })
        })
    }

    /// The error for words of another version; nothing where the versions are the same.
    fn misunderstood(&self, request: &str, cause: String) -> Option<ClientError> {
        let theirs = self.theirs.clone().filter(|theirs| theirs != OWN)?;
        Some(ClientError::Misunderstood {
            socket: self.socket.clone(),
            request: request.to_owned(),
            theirs,
            cause,
        })
    }
}

/// The whole reply, unless it is larger than anything a switch has to say.
async fn read_reply(
    response: Response<Incoming>,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    let (head, body) = response.into_parts();
    let limit = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    Ok((head.status, Limited::new(body, limit).collect().await?.to_bytes()))
}

/// What it takes to open `socket`: its owner, or its group where the mode lets the group in.
fn denied(socket: &Path) -> ClientError {
    let needed = match fs::metadata(socket) {
        Ok(metadata) => format!(
            "the socket belongs to uid {}, {} with mode {:04o}: run as root or as a member of that group",
            metadata.uid(),
            group_name(metadata.gid()),
            metadata.mode() & 0o7777
        ),
        Err(_) => "its folder cannot be entered: run as root".to_owned(),
    };
    ClientError::Denied { socket: socket.to_owned(), needed }
}

fn group_name(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    name.map_or_else(|| format!("gid {gid}"), |name| format!("group {name} (gid {gid})"))
}

/// Whether it was the call that was refused, not what was asked with it.
fn has_no_such_call(status: StatusCode, refusal: &serde_json::Result<ErrorReply>) -> bool {
    let of_nothing = refusal.as_ref().is_ok_and(|refusal| refusal.error.field.is_empty());
    status == StatusCode::METHOD_NOT_ALLOWED || status == StatusCode::NOT_FOUND && of_nothing
}

/// The beginning of a body that is no [`ErrorReply`], on one line.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(120)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_name_from_the_system() {
        assert_eq!(group_name(0), "group root (gid 0)");
        assert_eq!(group_name(4_000_000_000), "gid 4000000000");
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b"<html>\n  no\n</html>"), "<html> no </html>");
        assert_eq!(excerpt(&[b'x'; 500]).len(), 120);
    }
}
