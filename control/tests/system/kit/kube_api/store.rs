//! The objects of the test API server and the history of their changes, under one counter of versions.
//!
//! Every write goes through here, from a request or from a test. A version is given out once; a history that was
//! compacted answers with 410, as etcd's does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::Failure;
use super::resources::Resource;
use super::selector::Selector;

/// Changes kept before the oldest are forgotten.
const HISTORY: usize = 20_000;

/// Group, plural, namespace, name.
type Key = (&'static str, &'static str, String, String);

/// What a list or watch is about.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) resource: &'static Resource,
    /// Empty for all.
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
}

/// An event of a watch: `ADDED`, `MODIFIED` or `DELETED`, and the object.
pub(crate) type Event = (&'static str, Arc<Value>);

/// Objects in the order of their keys, what is left for later pages, and the version the list is of.
pub(crate) struct Page {
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) remaining: usize,
    pub(crate) token: String,
    pub(crate) version: u64,
}

struct Change {
    version: u64,
    key: Key,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

struct Rest {
    version: u64,
    items: VecDeque<Arc<Value>>,
}

/// The one copy of everything.
#[derive(Default)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    changes: VecDeque<Change>,
    compacted: u64,
    rests: HashMap<String, Rest>,
}

impl Scope {
    fn covers(&self, key: &Key) -> bool {
        key.0 == self.resource.group
            && key.1 == self.resource.plural
            && (self.namespace.is_empty() || key.2 == self.namespace)
    }

    /// What the change looks like to a watcher that sees only selected objects.
    fn event(&self, change: &Change) -> Option<Event> {
        let selected = |object: &Option<Arc<Value>>| {
            object.as_ref().filter(|object| self.selector.matches(object)).map(Arc::clone)
        };
        match (selected(&change.before), selected(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(("ADDED", after)),
            (Some(_), Some(after)) => Some(("MODIFIED", after)),
            (Some(before), None) => {
                let mut last = Value::clone(&before);
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(("DELETED", Arc::new(last)))
            }
        }
    }
}

impl Store {
    /// The version of the last change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets the history, and the lists that are not read to their end: watches from an old version must start anew.
    pub(crate) fn compact(&mut self) {
        self.changes.clear();
        self.rests.clear();
        self.compacted = self.version;
    }

    /// One object.
    pub(crate) fn get(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, Failure> {
        let key = (resource.group, resource.plural, namespace.to_owned(), name.to_owned());
        self.objects.get(&key).cloned().ok_or_else(|| Failure::not_found(resource, name))
    }

    /// The first page of a list; `limit` 0 is no limit.
    pub(crate) fn list(&mut self, scope: &Scope, limit: usize) -> Page {
        let items = self.objects.iter().filter(|(key, object)| {
            // The selector reads the object: the key decides most cases.
            scope.covers(key) && scope.selector.matches(object)
        });
        let items = items.map(|(_, object)| Arc::clone(object)).collect();
        self.page(Rest { version: self.version, items }, limit)
    }

    /// A later page.
    pub(crate) fn next_page(&mut self, token: &str, limit: usize) -> Result<Page, Failure> {
        let rest = self.rests.remove(token).ok_or_else(Failure::page_expired)?;
        Ok(self.page(rest, limit))
    }

    fn page(&mut self, mut rest: Rest, limit: usize) -> Page {
        let count = if limit == 0 { rest.items.len() } else { limit.min(rest.items.len()) };
        let items = rest.items.drain(..count).collect();
        let (remaining, version) = (rest.items.len(), rest.version);
        let mut token = String::new();
        if remaining > 0 {
            token = format!("page-{version}-{remaining}-{}", self.rests.len());
            self.rests.insert(token.clone(), rest);
        }
        Page { items, remaining, token, version }
    }

    /// What happened after `version`, and the version that is now known; 410 if that is forgotten.
    pub(crate) fn since(&self, scope: &Scope, version: u64) -> Result<(Vec<Event>, u64), Failure> {
        if version < self.compacted {
            return Err(Failure::expired(version, self.compacted));
        }
        let start = self.changes.partition_point(|change| change.version <= version);
        let changes = self.changes.range(start..).filter(|change| scope.covers(&change.key));
        Ok((changes.filter_map(|change| scope.event(change)).collect(), self.version.max(version)))
    }

    /// A new object. A namespaced one needs its namespace.
    pub(crate) fn create(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, Failure> {
        check_kind(resource, &object)?;
        let metadata = &mut object["metadata"];
        if metadata["name"].as_str().unwrap_or_default().is_empty() {
            let Some(prefix) = metadata["generateName"].as_str() else {
                return Err(Failure::invalid(
                    "metadata.name: Required value: name or generateName is required",
                ));
            };
            metadata["name"] = format!("{prefix}{:05x}", self.version + 1).into();
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        let given = metadata["namespace"].as_str().unwrap_or(namespace);
        if given != namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if resource.namespaced {
            metadata["namespace"] = namespace.into();
            let namespaces = Resource::at("", "v1", "namespaces").expect("namespaces are served");
            self.get(namespaces, "", namespace)?;
        }
        if self.get(resource, namespace, &name).is_ok() {
            return Err(Failure::exists(resource, &name));
        }
        let metadata = &mut object["metadata"];
        metadata["uid"] = format!("00000000-0000-4000-8000-{:012x}", self.version + 1).into();
        metadata["creationTimestamp"] =
            jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        metadata["generation"] = 1.into();
        admit(resource, &name, &mut object);
        Ok(self.write(resource, namespace, &name, object))
    }

    /// A new state of an object that exists. `status` names which half a request may change; `None` is both.
    pub(crate) fn update(
        &mut self,
        resource: &'static Resource,
        (namespace, name): (&str, &str),
        mut object: Value,
        status: Option<bool>,
    ) -> Result<Arc<Value>, Failure> {
        check_kind(resource, &object)?;
        let old = self.get(resource, namespace, name)?;
        let same = |field: &str| {
            let given = object["metadata"][field].as_str().unwrap_or_default();
            given.is_empty() || given == old["metadata"][field]
        };
        if !same("name") || !same("namespace") {
            return Err(Failure::bad_request("the object is not the one that the path of the request names"));
        }
        if !same("resourceVersion") || !same("uid") {
            return Err(Failure::conflict(resource, name));
        }
        match status {
            Some(true) => {
                let mut whole = Value::clone(&old);
                whole["status"] = object["status"].take();
                object = whole;
            }
            Some(false) if resource.status => object["status"] = old["status"].clone(),
            _ => {}
        }
        for field in ["name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"] {
            object["metadata"][field] = old["metadata"][field].clone();
        }
        remove_nulls(&mut object);
        if object == *old {
            return Ok(old);
        }
        if object["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
            object["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(self.write(resource, namespace, name, object))
    }

    /// Removes an object and returns its last state.
    pub(crate) fn delete(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, Failure> {
        let before = self.get(resource, namespace, name)?;
        let key = (resource.group, resource.plural, namespace.to_owned(), name.to_owned());
        self.objects.remove(&key);
        self.remember(key, Some(Arc::clone(&before)), None);
        Ok(before)
    }

    fn write(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        mut object: Value,
    ) -> Arc<Value> {
        let key = (resource.group, resource.plural, namespace.to_owned(), name.to_owned());
        object["metadata"]["resourceVersion"] = (self.version + 1).to_string().into();
        remove_nulls(&mut object);
        let after = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&after));
        self.remember(key, before, Some(Arc::clone(&after)));
        after
    }

    fn remember(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.version += 1;
        self.changes.push_back(Change { version: self.version, key, before, after });
        while self.changes.len() > HISTORY {
            let forgotten = self.changes.pop_front().expect("it has more than HISTORY entries");
            self.compacted = forgotten.version;
        }
    }
}

fn check_kind(resource: &Resource, object: &Value) -> Result<(), Failure> {
    if object["kind"] == resource.kind && object["apiVersion"] == resource.api_version() {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "the object provided is unrecognized: expected {} {}, not {} {}",
        resource.api_version(),
        resource.kind,
        object["apiVersion"],
        object["kind"]
    )))
}

/// What the server itself adds to a new object.
fn admit(resource: &Resource, name: &str, object: &mut Value) {
    match resource.plural {
        "namespaces" => {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
            if object["status"].is_null() {
                object["status"] = json!({ "phase": "Active" });
            }
        }
        "pods" => {
            if object["spec"]["serviceAccountName"].is_null() {
                object["spec"]["serviceAccountName"] = "default".into();
            }
            if object["status"].is_null() {
                object["status"] = json!({ "phase": "Pending" });
            }
        }
        _ => {}
    }
}

/// An absent field and a null one are the same to the server, and it writes no nulls.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// JSON merge patch (RFC 7386).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, field) in fields {
        if field.is_null() {
            target[name] = Value::Null;
        } else {
            merge(&mut target[name], field);
        }
    }
    remove_nulls(target);
}
