//! The stream of a watch: one JSON event a line, until its time is over, it is cut, or its version is forgotten.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::failure::Failure;
use super::request::{Query, Target};
use super::store::{Event, Scope, Store};
use super::{Shared, shown};
use crate::kit::server::Body;

/// Marks the bookmark that ends the first events of a `sendInitialEvents` watch.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A watch under way.
struct Watch {
    shared: Arc<Shared>,
    scope: Scope,
    metadata_only: bool,
    /// The version up to which the client has been told everything.
    version: u64,
    /// Events to send before those of the history.
    first: Vec<Value>,
    bookmarks: Option<Duration>,
    next_bookmark: Instant,
    deadline: Instant,
    /// Events it may still send; then it ends, which clients must expect at any time.
    left: Option<usize>,
    changed: watch::Receiver<u64>,
    cut: watch::Receiver<u64>,
}

/// Answers a watch request.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    target: &Target,
    query: &Query,
    metadata_only: bool,
) -> Result<Response<Body>, Failure> {
    let scope = target.scope(query)?;
    let bookmarks = query.flag("allowWatchBookmarks").then(|| shared.knobs().bookmark_every);
    let initial = initial_events(shared, query, bookmarks.is_some())?;
    let deadline = Instant::now() + query.timeout()?;
    // Taken before the store is read: what changes in between wakes the stream.
    let (changed, cut) = (shared.changed.subscribe(), shared.cut.subscribe());
    let mut store = shared.store();
    let asked = query.number("resourceVersion")?.filter(|version| *version > 0);
    let (version, first) = match (initial, asked) {
        (None, Some(version)) => (version, Vec::new()),
        (initial, _) => initial_state(&mut store, &scope, metadata_only, initial == Some(true)),
    };
    drop(store);
    let watch = Watch {
        shared: Arc::clone(shared),
        scope,
        metadata_only,
        version,
        first,
        next_bookmark: Instant::now() + bookmarks.unwrap_or_default(),
        bookmarks,
        deadline,
        left: shared.knobs().events_per_watch,
        changed,
        cut,
    };
    let chunks = stream::unfold(Some(watch), |watch| async { watch?.next().await });
    let body = StreamBody::new(chunks).boxed_unsync();
    Ok(Response::builder()
        .status(StatusCode::OK)
        .header("content-type", "application/json")
        .body(body)
        .expect("the header is valid"))
}

/// `sendInitialEvents`, checked as the real server does (apimachinery, `ValidateListOptions`).
fn initial_events(shared: &Shared, query: &Query, bookmarks: bool) -> Result<Option<bool>, Failure> {
    let matching = query.text("resourceVersionMatch");
    if query.text("sendInitialEvents").is_empty() {
        return if matching.is_empty() {
            Ok(None)
        } else {
            Err(Failure::invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless \
                 sendInitialEvents is provided",
            ))
        };
    }
    if !shared.knobs().streaming_lists {
        return Err(Failure::invalid(
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature \
             gate is enabled",
        ));
    }
    if matching != "NotOlderThan" || !bookmarks {
        return Err(Failure::invalid(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to \
             NotOlderThan and allowWatchBookmarks",
        ));
    }
    Ok(Some(query.flag("sendInitialEvents")))
}

/// Everything as it is now, as `ADDED` events; with `marked`, a bookmark tells where they end.
fn initial_state(store: &mut Store, scope: &Scope, metadata_only: bool, marked: bool) -> (u64, Vec<Value>) {
    let page = store.list(scope, 0);
    let event = |object: &Arc<Value>| json!({ "type": "ADDED", "object": shown(object, metadata_only) });
    let mut events: Vec<_> = page.items.iter().map(event).collect();
    if marked {
        let mut bookmark = bookmark(scope, page.version, metadata_only);
        bookmark["object"]["metadata"]["annotations"][INITIAL_EVENTS_END] = "true".into();
        events.push(bookmark);
    }
    (page.version, events)
}

fn bookmark(scope: &Scope, version: u64, metadata_only: bool) -> Value {
    let object = json!({
        "kind": scope.resource.kind, "apiVersion": scope.resource.api_version(),
        "metadata": { "resourceVersion": version.to_string() },
    });
    json!({ "type": "BOOKMARK", "object": shown(&object, metadata_only) })
}

type Chunk = Result<Frame<Bytes>, io::Error>;

impl Watch {
    /// The next lines, and the watch if it goes on after them.
    async fn next(mut self) -> Option<(Chunk, Option<Self>)> {
        loop {
            let mut events = std::mem::take(&mut self.first);
            let known = self.shared.store().since(&self.scope, self.version);
            match known {
                Ok((news, version)) => {
                    let line = |(kind, object): &Event| json!({ "type": kind, "object": shown(object, self.metadata_only) });
                    events.extend(news.iter().map(line));
                    self.version = version;
                }
                Err(expired) => {
                    events.push(json!({ "type": "ERROR", "object": expired.status() }));
                    return Some((Ok(lines(&events)), None));
                }
            }
            let now = Instant::now();
            if let Some(every) = self.bookmarks.filter(|_| now >= self.next_bookmark) {
                self.next_bookmark = now + every;
                events.push(bookmark(&self.scope, self.version, self.metadata_only));
            }
            if !events.is_empty() {
                return Some(self.sent(events));
            }
            if now >= self.deadline {
                return None;
            }
            let wake =
                if self.bookmarks.is_some() { self.next_bookmark.min(self.deadline) } else { self.deadline };
            tokio::select! {
                _ = self.changed.changed() => {}
                _ = self.cut.changed() => {
                    return Some((Err(io::Error::other("cut, because a test wants it so")), None));
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn sent(mut self, mut events: Vec<Value>) -> (Chunk, Option<Self>) {
        let Some(left) = &mut self.left else {
            return (Ok(lines(&events)), Some(self));
        };
        events.truncate(*left);
        *left -= events.len();
        let goes_on = *left > 0;
        (Ok(lines(&events)), goes_on.then_some(self))
    }
}

fn lines(events: &[Value]) -> Frame<Bytes> {
    let text: String = events.iter().map(|event| format!("{event}\n")).collect();
    Frame::data(text.into())
}
