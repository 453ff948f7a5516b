//! The reply of `POST /v1/watch`: a line for each event, for as long as somebody reads.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use axum::body::{Body, Bytes};
use espalier_api::watch::WatchEvent;
use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;

use super::Shared;
use crate::manager::Watching;

/// Time between two looks at taps that are empty.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Tells what is watched until the reader hangs up or the switch stops.
pub(super) fn into_body(manager: Shared, watching: Watching, stopping: watch::Receiver<bool>) -> Body {
    let first = stream::once(std::future::ready(Ok::<_, Infallible>(lines(&[watching.begun()]))));
    let rest =
        stream::unfold((manager, watching, stopping), |(manager, mut watching, stopping)| async move {
            loop {
                if *stopping.borrow() {
                    return None;
                }
                if watching.is_empty() {
                    // Nobody is told of a reader that has hung up but by writing to it.
                    tokio::time::sleep(LOOK_AGAIN).await;
                    if watching.is_empty() {
                        continue;
                    }
                }
                let shared = Shared::clone(&manager);
                let told = tokio::task::spawn_blocking(move || {
                    let manager = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    let events = manager.watched(&mut watching);
                    (watching, lines(&events))
                });
                let (back, bytes) = told.await.ok()?;
                watching = back;
                if !bytes.is_empty() {
                    return Some((Ok(bytes), (manager, watching, stopping)));
                }
            }
        });
    Body::from_stream(first.chain(rest))
}

fn lines(events: &[WatchEvent]) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        // Plain data: it always can be written.
        if serde_json::to_writer(&mut text, event).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}
