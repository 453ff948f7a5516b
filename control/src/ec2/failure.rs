//! Why a request to EC2 failed, from the SDK's errors, and the [`Problem`] that tells a person what to do about it.
//!
//! Codes: "Error codes for the Amazon EC2 API" in the EC2 developer guide, and those of STS and the query protocol.

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use espalier_api::agent::{Problem, ProblemReason};

/// EC2 refuses signatures that are further off than five minutes.
const TOLERATED_SKEW: Duration = Duration::from_secs(240);

/// The calls this source makes, which are also the IAM actions it needs (with `ec2:` before).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Interfaces of the node's pods, and members of groups.
    DescribeNetworkInterfaces,
    /// Groups with what their rules permit.
    DescribeSecurityGroups,
    /// Ids of the rules.
    DescribeSecurityGroupRules,
    /// Versions of prefix lists.
    DescribeManagedPrefixLists,
    /// Entries of a prefix list.
    GetManagedPrefixListEntries,
    /// CIDR blocks of subnets.
    DescribeSubnets,
    /// CIDR blocks of the VPC.
    DescribeVpcs,
    /// Default idle timeouts of the node's instance type.
    DescribeInstanceTypes,
}

/// What kind of failure, as far as it decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The role lacks the action. Asking again soon is no use.
    Denied,
    /// EC2 asks for patience.
    Throttled,
    /// No connection, no answer in time, or a failure inside EC2.
    Unavailable,
    /// The answer cannot be understood, or ended early.
    Malformed,
    /// No credentials, or not valid ones.
    Credentials,
    /// The clocks differ by so much.
    ClockSkew(Duration),
    /// Anything else that EC2 refuses.
    Refused,
}

/// A failed request.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) action: Action,
    pub(crate) kind: Kind,
    /// EC2's code, or what went wrong on the way.
    detail: String,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 8] = [
        Self::DescribeNetworkInterfaces,
        Self::DescribeSecurityGroups,
        Self::DescribeSecurityGroupRules,
        Self::DescribeManagedPrefixLists,
        Self::GetManagedPrefixListEntries,
        Self::DescribeSubnets,
        Self::DescribeVpcs,
        Self::DescribeInstanceTypes,
    ];

    fn purpose(self) -> &'static str {
        match self {
            Self::DescribeNetworkInterfaces => "the pods' interfaces and the members of groups",
            Self::DescribeSecurityGroups => "security groups and their rules",
            Self::DescribeSecurityGroupRules => "the ids of rules (they are enforced without)",
            Self::DescribeManagedPrefixLists => "versions of prefix lists",
            Self::GetManagedPrefixListEntries => "entries of prefix lists",
            Self::DescribeSubnets => "CIDR blocks of subnets",
            Self::DescribeVpcs => "CIDR blocks of the VPC",
            Self::DescribeInstanceTypes => "default idle timeouts of the instance type",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ec2:{self:?}")
    }
}

impl Failure {
    pub(crate) fn malformed(action: Action, detail: impl Into<String>) -> Self {
        Self { action, kind: Kind::Malformed, detail: detail.into() }
    }

    /// What an error of the SDK means. `now` is the node's clock.
    pub(crate) fn of<E>(action: Action, error: &SdkError<E, HttpResponse>, now: SystemTime) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let code = error.code().unwrap_or_default();
        let response = error.raw_response();
        let status = response.map_or(0, |response| response.status().as_u16());
        let date = response.and_then(|response| response.headers().get("date"));
        let skew = date.and_then(|date| skew(date, now)).filter(|skew| *skew > TOLERATED_SKEW);
        let detail = match error.message() {
            Some(message) => format!("{code}: {message}"),
            None if code.is_empty() => chain(error),
            None => code.to_owned(),
        };
        let kind = match error {
            SdkError::TimeoutError(_) => Kind::Unavailable,
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
                let credentials = detail.to_lowercase().contains("credential");
                if credentials { Kind::Credentials } else { Kind::Unavailable }
            }
            _ if code.is_empty() && (200..300).contains(&status) => Kind::Malformed,
            _ => by_code(code, status, skew),
        };
        Self { action, kind, detail }
    }

    /// Whether the same request may well succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Malformed)
    }

    /// What to tell people.
    pub(crate) fn problem(&self) -> Problem {
        let (action, detail) = (self.action, &self.detail);
        let (reason, message) = match self.kind {
            Kind::Denied => (
                ProblemReason::Ec2AccessDenied,
                format!(
                    "EC2 denies {action}, needed for {}: allow it in the IAM policy of the agent's role ({detail})",
                    action.purpose()
                ),
            ),
            Kind::Throttled => (
                ProblemReason::Ec2Throttled,
                format!(
                    "EC2 asks for fewer requests: polled less often, and the last known state is kept ({detail})"
                ),
            ),
            Kind::Unavailable => (
                ProblemReason::Ec2Unavailable,
                format!(
                    "EC2 does not answer for {}: the last known state is kept ({detail})",
                    action.purpose()
                ),
            ),
            Kind::Malformed => (
                ProblemReason::Ec2Malformed,
                format!("EC2's answer cannot be understood: the last known state is kept ({detail})"),
            ),
            Kind::Credentials => (
                ProblemReason::CredentialsInvalid,
                format!(
                    "no valid AWS credentials: check the service account's role (IRSA or Pod Identity) or the node's \
                     instance profile; the last known state is kept ({detail})"
                ),
            ),
            Kind::ClockSkew(skew) => (
                ProblemReason::ClockSkew,
                format!(
                    "the node's clock and EC2's differ by {} s, so EC2 refuses signed requests: set the clock (Amazon \
                     Time Sync, 169.254.169.123) ({detail})",
                    skew.as_secs()
                ),
            ),
            Kind::Refused => (
                ProblemReason::Ec2Unavailable,
                format!("EC2 refuses {action}: the last known state is kept ({detail})"),
            ),
        };
        Problem::new(reason, action, message)
    }
}

fn by_code(code: &str, status: u16, skew: Option<Duration>) -> Kind {
    match code {
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "Client.UnauthorizedOperation" => Kind::Denied,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "PriorRequestNotComplete" => Kind::Throttled,
        // Both also come of a clock that is wrong; then the answer's date shows it.
        "RequestExpired"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "RequestTimeTooSkewed"
        | "AuthFailure" => skew.map_or(Kind::Credentials, Kind::ClockSkew),
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "InvalidAccessKeyId"
        | "OptInRequired"
        | "Blocked" => Kind::Credentials,
        _ if status == 429 => Kind::Throttled,
        _ if status >= 500 || status == 0 => Kind::Unavailable,
        _ => Kind::Refused,
    }
}

/// How far the two clocks are apart.
fn skew(date: &str, now: SystemTime) -> Option<Duration> {
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let theirs = SystemTime::from(theirs);
    now.duration_since(theirs).or_else(|_| theirs.duration_since(now)).ok()
}

/// An error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        source = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide_what_is_done_next() {
        let minutes = Some(Duration::from_secs(600));
        for (code, status, skew, kind) in [
            ("UnauthorizedOperation", 403, None, Kind::Denied),
            ("RequestLimitExceeded", 503, None, Kind::Throttled),
            ("InternalError", 500, None, Kind::Unavailable),
            ("Unavailable", 503, None, Kind::Unavailable),
            ("RequestExpired", 400, None, Kind::Credentials),
            ("RequestExpired", 400, minutes, Kind::ClockSkew(Duration::from_secs(600))),
            ("ExpiredToken", 400, minutes, Kind::Credentials),
            ("InvalidParameterValue", 400, None, Kind::Refused),
            ("", 429, None, Kind::Throttled),
        ] {
            assert_eq!(by_code(code, status, skew), kind, "{code} {status}");
        }
    }

    #[test]
    fn a_skew_is_read_from_the_date_either_way() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let date = "Thu, 01 Jan 1970 00:10:00 GMT";
        assert_eq!(skew(date, at(0)), Some(Duration::from_secs(600)));
        assert_eq!(skew(date, at(660)), Some(Duration::from_secs(60)));
        assert_eq!(skew("yesterday", at(0)), None);
    }

    #[test]
    fn a_denied_action_is_named() {
        let failure = Failure {
            action: Action::DescribeVpcs,
            kind: Kind::Denied,
            detail: "UnauthorizedOperation: no".to_owned(),
        };
        let problem = failure.problem();
        assert_eq!(problem.reason, ProblemReason::Ec2AccessDenied);
        assert_eq!(problem.subject, "ec2:DescribeVpcs");
        assert!(problem.message.contains("allow it in the IAM policy"), "{}", problem.message);
    }
}
