//! Refusals of the test API server, as the `Status` objects a client reads.
//!
//! Codes, reasons and messages are those of the real server (apimachinery, `pkg/api/errors`).

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::resources::Resource;
use crate::kit::server::{Body, answer};

/// The user that the server takes every client for.
const USER: &str = "system:serviceaccount:kube-system:espalier-agent";

/// A refused request.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(verb: &str, resource: &Resource, namespace: &str, name: &str) -> Self {
        let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {namespace:?}")
        };
        let message = format!(
            "{}{named} is forbidden: User {USER:?} cannot {verb} resource {:?} in API group {:?} {place}",
            resource.qualified(),
            resource.plural,
            resource.group
        );
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(crate) fn exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please apply your changes \
             to the latest version and try again",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    pub(crate) fn expired(wanted: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {wanted} ({oldest})"))
    }

    pub(crate) fn page_expired() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result.";
        Self::new(410, "Expired", message)
    }

    pub(crate) fn unsupported_patch(kind: &str) -> Self {
        let message = format!("the body of the request was in an unknown format - {kind}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    pub(crate) fn broken(code: u16) -> Self {
        let reason = match code {
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        Self::new(code, reason, "the server is not well, because a test wants it so")
    }

    pub(crate) fn too_large(wanted: u64, current: u64) -> Self {
        let mut failure =
            Self::new(504, "Timeout", format!("Too large resource version: {wanted}, current: {current}"));
        failure.details =
            json!({ "retryAfterSeconds": 1, "causes": [{ "reason": "ResourceVersionTooLarge" }] });
        failure
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({ "name": name, "group": resource.group, "kind": resource.plural });
        self
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "reason": self.reason, "details": self.details, "code": self.code,
        })
    }
}

impl From<Failure> for Response<Body> {
    fn from(failure: Failure) -> Self {
        let code = StatusCode::from_u16(failure.code).expect("the codes above are HTTP's");
        answer(code, "application/json", failure.status().to_string())
    }
}
