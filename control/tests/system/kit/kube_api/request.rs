//! A request to the test API server, read from its path, query and headers.
//!
//! Path rules: "API Concepts" in the Kubernetes documentation (`/api/v1/namespaces/NS/pods/NAME/status`).

use std::collections::HashMap;
use std::time::Duration;

use hyper::{HeaderMap, Method, Uri};

use super::failure::Failure;
use super::resources::Resource;
use super::selector::Selector;
use super::store::Scope;

/// What the path names.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    /// Empty for a cluster-wide resource, or for all namespaces.
    pub(crate) namespace: String,
    /// Empty for the collection.
    pub(crate) name: String,
    /// The path ends in `/status`.
    pub(crate) status: bool,
}

/// The query, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Target {
    /// `None` where no such path is served.
    pub(crate) fn of(path: &[&str]) -> Option<Self> {
        let (group, version, rest) = match path {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", _, "status"] => ("", rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            _ => ("", rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (plural, "", false),
            [plural, name] => (plural, *name, false),
            [plural, name, "status"] => (plural, *name, true),
            _ => return None,
        };
        let resource = Resource::at(group, version, plural)?;
        let fits =
            if resource.namespaced { !namespace.is_empty() || name.is_empty() } else { namespace.is_empty() };
        let served = fits && (!status || resource.status);
        served.then(|| Self { resource, namespace: namespace.to_owned(), name: name.to_owned(), status })
    }

    /// The verb as RBAC names it.
    pub(crate) fn verb(&self, method: &Method, query: &Query) -> Option<&'static str> {
        let collection = self.name.is_empty();
        match (method.as_str(), collection) {
            ("GET", true) if query.flag("watch") => Some("watch"),
            ("GET", true) => Some("list"),
            ("GET", false) => Some("get"),
            ("POST", true) => Some("create"),
            ("PUT", false) => Some("update"),
            ("PATCH", false) => Some("patch"),
            ("DELETE", false) => Some("delete"),
            ("DELETE", true) => Some("deletecollection"),
            _ => None,
        }
    }

    /// The resource as RBAC names it, with its subresource.
    pub(crate) fn rbac_resource(&self) -> String {
        let suffix = if self.status { "/status" } else { "" };
        format!("{}{suffix}", self.resource.plural)
    }

    /// What a list or watch of this path and query covers.
    pub(crate) fn scope(&self, query: &Query) -> Result<Scope, Failure> {
        let selector =
            Selector::parse(self.resource, query.text("fieldSelector"), query.text("labelSelector"))
                .map_err(Failure::bad_request)?;
        Ok(Scope { resource: self.resource, namespace: self.namespace.clone(), selector })
    }
}

impl Query {
    /// The query of a request.
    pub(crate) fn of(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (!name.is_empty()).then(|| (decode(name), decode(value)))
        });
        Self(pairs.collect())
    }

    /// The value, or nothing.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        ["true", "1"].contains(&self.text(name))
    }

    /// A number; absent is `None`.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |_| Failure::invalid(format!("{name}: Invalid value: {text:?}: invalid syntax"));
        text.parse().map(Some).map_err(bad)
    }

    /// `timeoutSeconds`; the real server's default lies between 30 and 60 minutes.
    pub(crate) fn timeout(&self) -> Result<Duration, Failure> {
        Ok(Duration::from_secs(self.number("timeoutSeconds")?.unwrap_or(1800)))
    }
}

/// Whether the client asked for the metadata only (`PartialObjectMetadata`).
pub(crate) fn wants_metadata(headers: &HeaderMap) -> bool {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("as=PartialObjectMetadata")
}

/// Percent-decoding, with `+` for a space, as in a form.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let (high, low) = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                decoded.push(high.zip(low).map_or(b'?', |(high, low)| high << 4 | low));
            }
            byte => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(String, String, String, bool)> {
        let path: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        Target::of(&path).map(|t| (t.resource.qualified(), t.namespace, t.name, t.status))
    }

    #[test]
    fn paths_name_collections_objects_and_their_status() {
        let made = |r: &str, ns: &str, n: &str, s| Some((r.to_owned(), ns.to_owned(), n.to_owned(), s));
        assert_eq!(target("/api/v1/pods"), made("pods", "", "", false));
        assert_eq!(target("/api/v1/namespaces/a/pods/b/status"), made("pods", "a", "b", true));
        assert_eq!(target("/api/v1/namespaces/a"), made("namespaces", "", "a", false));
        assert_eq!(target("/api/v1/namespaces/a/status"), made("namespaces", "", "a", true));
        let policies = "securitygrouppolicies.vpcresources.k8s.aws";
        assert_eq!(
            target("/apis/vpcresources.k8s.aws/v1beta1/namespaces/a/securitygrouppolicies/p"),
            made(policies, "a", "p", false)
        );
        for nothing in
            ["/api/v1/pods/b", "/api/v1/namespaces/a/nodes", "/api/v1/nodes/n/scale", "/api/v2/pods"]
        {
            assert_eq!(target(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let uri: Uri = "/x?labelSelector=a+in+%28b%2Cc%29&watch=1&limit=5".parse().unwrap();
        let query = Query::of(&uri);
        assert_eq!(query.text("labelSelector"), "a in (b,c)");
        assert!(query.flag("watch"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
    }
}
