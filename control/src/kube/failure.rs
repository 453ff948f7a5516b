//! Why a watch fails, in words that name what to grant or to mend.

use espalier_api::agent::{Problem, ProblemReason};
use kube::runtime::watcher::Error;

use super::watches::Kind;

/// The problem a watch's error stands for.
pub(super) fn explain(kind: Kind, error: &Error) -> Problem {
    let (reason, message) = match (verb(error), code(error)) {
        (verb, Some(403)) => (
            ProblemReason::KubernetesForbidden,
            format!(
                "the API server forbids the agent to {verb} {0}: add a rule with apiGroups [\"{1}\"], resources [\"{0}\"], \
                 verbs [\"list\", \"watch\"] to the agent's ClusterRole (deploy/rbac.yaml)",
                kind.plural(),
                kind.group()
            ),
        ),
        (verb, Some(401)) => (
            ProblemReason::KubernetesForbidden,
            format!(
                "the API server does not know the agent (401 on {verb} {}): its service account token is missing or \
                 has expired",
                kind.plural()
            ),
        ),
        (_, Some(404)) => (
            ProblemReason::KubernetesMissing,
            format!(
                "{}.{} is not installed in this cluster: there are none as far as the agent is concerned",
                kind.plural(),
                kind.group()
            ),
        ),
        (verb, _) => (
            ProblemReason::KubernetesUnavailable,
            format!("cannot {verb} {}: {}; what is known stays in force", kind.plural(), cause(error)),
        ),
    };
    Problem::new(reason, kind.plural(), message)
}

fn verb(error: &Error) -> &'static str {
    if matches!(error, Error::InitialListFailed(_)) { "list" } else { "watch" }
}

fn code(error: &Error) -> Option<u16> {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// The innermost cause: the outer ones only say that there is one.
fn cause(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
