//! A small HTTP/1.1 server on a loopback port, which can go away and come back on the same port.
//!
//! The Kubernetes API server and the fault proxy of the kit run on it. Dropping it ends every connection.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// Whole or streamed; an error cuts the connection.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

type Handler = std::sync::Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// A running (or stopped) server.
pub(crate) struct Server {
    address: SocketAddr,
    handler: Handler,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Binds a free loopback port and serves on it.
    pub(crate) async fn start<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let handler: Handler = std::sync::Arc::new(move |request| Box::pin(handler(request)));
        let task = tokio::spawn(accept(listener, std::sync::Arc::clone(&handler)));
        Self { address, handler, task: Mutex::new(Some(task)) }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the port and every connection.
    pub(crate) async fn stop(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // Aborted is what it shall be.
            let _ = task.await;
        }
    }

    /// Serves again, on the same port.
    pub(crate) async fn resume(&self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        let task = tokio::spawn(accept(listener, std::sync::Arc::clone(&self.handler)));
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// Serves until it is aborted; its connections end with it.
async fn accept(listener: TcpListener, handler: Handler) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let handler = std::sync::Arc::clone(&handler);
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            // A client that hangs up is its own affair.
            let _ = connection.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// An answer with a whole body.
pub(crate) fn answer(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(body)
        .expect("the content type is a header value")
}
