//! A Kubernetes API server for tests: real HTTP, real list and watch semantics, objects in memory.
//!
//! Tests change objects through [`KubeApi::apply`] and [`KubeApi::delete`] (as an administrator would), turn its faults
//! on and off, and ask which calls were made. Clients see what a real server shows: one counter of resource versions,
//! pages, bookmarks, 410 for forgotten versions, selectors, conflicts, merge patches, RBAC.

mod failure;
mod request;
mod resources;
mod selector;
mod store;
mod watch;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync;

use self::failure::Failure;
use self::request::{Query, Target, wants_metadata};
use self::resources::{Resource, discovery};
use self::store::{Page, Store, merge};
use super::server::{Body, Server, answer};

/// A call as RBAC sees it: verb, API group, resource (with its subresource, `pods/status`).
pub(crate) type Call = (&'static str, &'static str, String);

/// What a test may make go wrong; all of it can be changed while the server runs.
#[derive(Debug, Clone)]
pub(crate) struct Knobs {
    /// Verb and resource that get 403 (`("list", "pods")`).
    pub(crate) forbidden: BTreeSet<(String, String)>,
    /// RBAC rules; what they do not grant gets 403.
    pub(crate) rules: Option<Vec<Value>>,
    /// Requests with another bearer token than this one get 401.
    pub(crate) token: Option<String>,
    /// Every request gets this code (429, 500, 503).
    pub(crate) broken: Option<u16>,
    /// Resources (by plural) that are not installed: 404 and absent from discovery.
    pub(crate) hidden: BTreeSet<String>,
    /// Delay before every answer.
    pub(crate) latency: Duration,
    /// A watch ends after so many events.
    pub(crate) events_per_watch: Option<usize>,
    /// Time between two bookmarks (about a minute in a real server).
    pub(crate) bookmark_every: Duration,
    /// `sendInitialEvents` is served; else it is refused, as by servers without the WatchList feature.
    pub(crate) streaming_lists: bool,
}

/// The server. It ends when dropped.
pub(crate) struct KubeApi {
    shared: Arc<Shared>,
    server: Server,
}

struct Shared {
    store: Mutex<Store>,
    knobs: Mutex<Knobs>,
    calls: Mutex<BTreeSet<Call>>,
    /// The version of the last change.
    changed: sync::watch::Sender<u64>,
    /// Grows when all watches shall be cut.
    cut: sync::watch::Sender<u64>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            forbidden: BTreeSet::new(),
            rules: None,
            token: None,
            broken: None,
            hidden: BTreeSet::new(),
            latency: Duration::ZERO,
            events_per_watch: None,
            bookmark_every: Duration::from_secs(1),
            streaming_lists: true,
        }
    }
}

impl KubeApi {
    /// Serves on a free loopback port, with the namespaces `default` and `kube-system`.
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            knobs: Mutex::default(),
            calls: Mutex::default(),
            changed: sync::watch::Sender::new(0),
            cut: sync::watch::Sender::new(0),
        });
        let for_requests = Arc::clone(&shared);
        let server = Server::start(move |request| {
            let shared = Arc::clone(&for_requests);
            async move { shared.handle(request).await.unwrap_or_else(Response::from) }
        })
        .await;
        let api = Self { shared, server };
        for name in ["default", "kube-system"] {
            api.namespace(name);
        }
        api
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// A kubeconfig for this server.
    pub(crate) fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": self.url() } }],
            "users": [{ "name": "test", "user": { "token": "test" } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        config.to_string()
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> kube::Client {
        self.client_with(Default::default())
    }

    /// A client that bears the token in this file, as a pod does that of its service account.
    pub(crate) fn client_with_token(&self, file: &Path) -> kube::Client {
        self.client_with(kube::config::AuthInfo {
            token_file: Some(file.display().to_string()),
            ..Default::default()
        })
    }

    fn client_with(&self, auth_info: kube::config::AuthInfo) -> kube::Client {
        let mut config = kube::Config::new(self.url().parse().expect("the server's URL is one"));
        config.auth_info = auth_info;
        kube::Client::try_from(config).expect("a plain HTTP client can always be made")
    }

    /// Creates the object, or gives it this state, status included. A missing namespace is made.
    pub(crate) fn apply(&self, object: Value) -> Arc<Value> {
        let resource =
            Resource::of(&object).unwrap_or_else(|| panic!("the kit serves no such kind: {object}"));
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (name, mut namespace) = (text("name"), text("namespace"));
        if resource.namespaced {
            if namespace.is_empty() {
                namespace = "default".to_owned();
            }
            self.namespace(&namespace);
        }
        let mut store = self.shared.store();
        let applied = if store.get(resource, &namespace, &name).is_ok() {
            store.update(resource, (&namespace, &name), object, None)
        } else {
            store.create(resource, &namespace, object)
        };
        self.shared.announce(&store);
        applied.unwrap_or_else(|failure| panic!("{}", failure.status()))
    }

    /// Changes part of an object (JSON merge patch), which must exist.
    pub(crate) fn patch(&self, plural: &str, namespace: &str, name: &str, patch: &Value) -> Arc<Value> {
        let resource = find(plural);
        let mut store = self.shared.store();
        let patched = store.get(resource, namespace, name).and_then(|object| {
            let mut object = Value::clone(&object);
            merge(&mut object, patch);
            store.update(resource, (namespace, name), object, None)
        });
        self.shared.announce(&store);
        patched.unwrap_or_else(|failure| panic!("{}", failure.status()))
    }

    /// Removes an object, which must exist.
    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut store = self.shared.store();
        let deleted = store.delete(find(plural), namespace, name);
        self.shared.announce(&store);
        deleted.unwrap_or_else(|failure| panic!("{}", failure.status()));
    }

    /// Every object of a kind, in the order of namespace and name. `events` are those of `events.k8s.io`.
    pub(crate) fn objects(&self, plural: &str) -> Vec<Arc<Value>> {
        let target =
            Target { resource: find(plural), namespace: String::new(), name: String::new(), status: false };
        let scope = target.scope(&Query::default()).expect("no selector is a valid one");
        self.shared.store().list(&scope, 0).items
    }

    /// Turns faults on and off.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.shared.knobs());
    }

    /// Forgets the history: a watch or a page from before gets 410.
    pub(crate) fn compact(&self) {
        self.shared.store().compact();
        self.shared.changed.send_modify(|_| {});
    }

    /// Cuts every watch in the middle of its stream.
    pub(crate) fn cut_watches(&self) {
        self.shared.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Goes away: the port is closed and every connection with it.
    pub(crate) async fn stop(&self) {
        self.server.stop().await;
    }

    /// Comes back on the same port.
    pub(crate) async fn resume(&self) {
        self.server.resume().await;
    }

    /// The calls made so far, refused ones included.
    pub(crate) fn calls(&self) -> BTreeSet<Call> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a namespace with the service account that Kubernetes' controllers would add to it.
    fn namespace(&self, name: &str) {
        let mut store = self.shared.store();
        let (namespaces, accounts) = (find("namespaces"), find("serviceaccounts"));
        if store.get(namespaces, "", name).is_ok() {
            return;
        }
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let account =
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
        let made =
            store.create(namespaces, "", namespace).and_then(|_| store.create(accounts, name, account));
        self.shared.announce(&store);
        made.unwrap_or_else(|failure| panic!("{}", failure.status()));
    }
}

/// A resource by its plural; the last one where two groups share it.
fn find(plural: &str) -> &'static Resource {
    let mut all = resources::RESOURCES.iter().rev();
    all.find(|resource| resource.plural == plural).unwrap_or_else(|| panic!("the kit serves no {plural}"))
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the watches after a change.
    fn announce(&self, store: &Store) {
        self.changed.send_replace(store.version());
    }

    async fn handle(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let knobs = self.knobs().clone();
        tokio::time::sleep(knobs.latency).await;
        let path = request.uri().path().to_owned();
        let path: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        if let Some(code) = knobs.broken {
            return Err(Failure::broken(code));
        }
        if knobs.token.is_some_and(|token| bearer(&request) != Some(token.as_str())) {
            return Err(Failure::unauthorized());
        }
        if let Some(document) = discovery(&path, &knobs.hidden).filter(|_| request.method() == Method::GET) {
            return Ok(answered(StatusCode::OK, &document));
        }
        let target = Target::of(&path).filter(|target| !knobs.hidden.contains(target.resource.plural));
        let Some(target) = target else {
            return Ok(answer(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n"));
        };
        let query = Query::of(request.uri());
        let verb = target.verb(request.method(), &query).ok_or_else(Failure::method_not_allowed)?;
        let call = (verb, target.resource.group, target.rbac_resource());
        let allowed = !knobs.forbidden.contains(&(verb.to_owned(), call.2.clone()))
            && knobs.rules.is_none_or(|rules| rules.iter().any(|rule| grants(rule, &call)));
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).insert(call);
        if !allowed {
            return Err(Failure::forbidden(verb, target.resource, &target.namespace, &target.name));
        }
        let metadata_only = wants_metadata(request.headers());
        match verb {
            "watch" => watch::answer(self, &target, &query, metadata_only),
            "list" => self.list(&target, &query, metadata_only),
            "get" => {
                let object = self.store().get(target.resource, &target.namespace, &target.name)?;
                Ok(answered(StatusCode::OK, &shown(&object, metadata_only)))
            }
            "deletecollection" => Err(Failure::method_not_allowed()),
            _ => self.write(verb, &target, request).await,
        }
    }

    fn list(&self, target: &Target, query: &Query, metadata_only: bool) -> Result<Response<Body>, Failure> {
        let scope = target.scope(query)?;
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
        let mut store = self.store();
        let asked = query.number("resourceVersion")?.unwrap_or(0);
        if asked > store.version() {
            return Err(Failure::too_large(asked, store.version()));
        }
        if query.text("resourceVersionMatch") == "Exact" && asked != store.version() {
            return Err(Failure::expired(asked, store.version()));
        }
        let page = match query.text("continue") {
            "" => store.list(&scope, limit),
            token => store.next_page(token, limit)?,
        };
        drop(store);
        Ok(answered(StatusCode::OK, &listed(target.resource, &page, metadata_only)))
    }

    async fn write(
        &self,
        verb: &str,
        target: &Target,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let kind = request.headers().get("content-type").and_then(|value| value.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let body = request.into_body().collect().await;
        let body = body.map_err(|error| Failure::bad_request(error.to_string()))?.to_bytes();
        let parse = || {
            serde_json::from_slice::<Value>(&body).map_err(|error| {
                Failure::bad_request(format!("the body of the request is not JSON: {error}"))
            })
        };
        let (resource, namespace, name) = (target.resource, &*target.namespace, &*target.name);
        let mut store = self.store();
        let object = match verb {
            "create" => store.create(resource, namespace, parse()?)?,
            "update" => store.update(resource, (namespace, name), parse()?, Some(target.status))?,
            "patch" => {
                if kind != "application/merge-patch+json" {
                    return Err(Failure::unsupported_patch(&kind));
                }
                let mut object = Value::clone(&*store.get(resource, namespace, name)?);
                merge(&mut object, &parse()?);
                store.update(resource, (namespace, name), object, Some(target.status))?
            }
            _ => store.delete(resource, namespace, name)?,
        };
        self.announce(&store);
        drop(store);
        Ok(answered(if verb == "create" { StatusCode::CREATED } else { StatusCode::OK }, &object))
    }
}

/// The token that the request bears.
fn bearer(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

fn answered(status: StatusCode, document: &Value) -> Response<Body> {
    answer(status, "application/json", document.to_string())
}

/// Whether an RBAC rule grants a call.
fn grants(rule: &Value, (verb, group, resource): &Call) -> bool {
    let has = |field: &str, wanted: &str| {
        let mut values = rule[field].as_array().into_iter().flatten();
        values.any(|value| value == "*" || value == wanted)
    };
    has("verbs", verb) && has("apiGroups", group) && has("resources", resource)
}

/// The object as the client wants to see it: whole, or its metadata.
fn shown(object: &Value, metadata_only: bool) -> Value {
    if !metadata_only {
        return object.clone();
    }
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

fn listed(resource: &Resource, page: &Page, metadata_only: bool) -> Value {
    let mut metadata = json!({ "resourceVersion": page.version.to_string() });
    if page.remaining > 0 {
        metadata["continue"] = page.token.clone().into();
        metadata["remainingItemCount"] = page.remaining.into();
    }
    let items: Vec<_> = page.items.iter().map(|object| shown(object, metadata_only)).collect();
    let (kind, version) = if metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", resource.kind), resource.api_version())
    };
    json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "items": items })
}
