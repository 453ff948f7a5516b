//! EC2 as a source of facts: polls its API for what the node's pods need, within a budget, and keeps the last known good.
//!
//! Started by the agent. EC2 has no watch, so a change is seen at the next poll; a new wish is fetched at once, without
//! reading again what is known. A request that fails changes nothing of what is known, and is named as a problem.

mod budget;
mod calls;
mod convert;
mod failure;
mod knowledge;
mod plan;
mod schedule;
mod table;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use espalier_api::agent::{Problem, ProblemReason};
use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

pub use self::failure::Action;

use self::budget::Budget;
use self::calls::Calls;
use self::failure::Kind;
use self::knowledge::Knowledge;
use self::schedule::{Outcome, Schedule};
use self::table::Round;
use crate::facts::{Facts, FactsSource, Wanted};

/// Requests under way at the same time.
const AT_ONCE: usize = 4;

/// How EC2 is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2Settings {
    /// Region; else that of the environment, the profile or the instance.
    pub region: Option<String>,
    /// URL to use instead of EC2's own (a VPC endpoint, a test server).
    pub endpoint: Option<String>,
    /// Shared credentials file (`[default]` and others) instead of `~/.aws/credentials`, as a mounted secret holds it.
    pub credentials_file: Option<PathBuf>,
    /// Longest wait for the answer to one request.
    pub request_timeout: Duration,
    /// How often.
    pub polling: Polling,
}

/// How often EC2 is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polling {
    /// Usual time between two polls.
    pub base: Duration,
    /// Shortest, after a change or while something that is wanted does not exist.
    pub floor: Duration,
    /// Longest, while nothing has changed for five minutes.
    pub ceiling: Duration,
    /// Most requests in 60 seconds.
    pub budget: u32,
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(10),
            floor: Duration::from_secs(3),
            ceiling: Duration::from_secs(60),
            budget: 300,
        }
    }
}

impl Default for Ec2Settings {
    fn default() -> Self {
        Self {
            region: None,
            endpoint: None,
            credentials_file: None,
            request_timeout: Duration::from_secs(10),
            polling: Polling::default(),
        }
    }
}

/// The source.
#[derive(Debug)]
pub struct Ec2 {
    settings: Ec2Settings,
}

impl Ec2 {
    /// A source that is not started yet.
    pub fn new(settings: Ec2Settings) -> Self {
        Self { settings }
    }

    /// A client with the default chain of credentials: environment, profile, web identity (IRSA), container (Pod
    /// Identity), instance metadata.
    async fn connect(&self) -> Result<Calls, Problem> {
        let settings = &self.settings;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(settings.request_timeout.min(Duration::from_secs(5)))
            .operation_attempt_timeout(settings.request_timeout)
            .build();
        // Every try is counted against the budget, so none is left to the SDK.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = &settings.region {
            loader = loader.region(aws_config::Region::new(region.clone()));
        }
        if let Some(file) = &settings.credentials_file {
            let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build();
            loader = loader.profile_files(files);
        }
        let shared = loader.load().await;
        if shared.region().is_none() {
            let message = "no AWS Region: set it in the agent's configuration or in AWS_REGION";
            return Err(Problem::new(ProblemReason::Ec2Unavailable, "region", message));
        }
        let mut config = aws_sdk_ec2::config::Builder::from(&shared);
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let client = aws_sdk_ec2::Client::from_conf(config.build());
        Ok(Calls::new(client, Budget::new(settings.polling.budget)))
    }

    async fn run(self, mut wanted: watch::Receiver<Arc<Wanted>>, facts: watch::Sender<Arc<Facts>>) {
        let calls = loop {
            match self.connect().await {
                Ok(calls) => break calls,
                Err(problem) => {
                    facts.send_modify(|facts| Arc::make_mut(facts).problems = vec![problem]);
                    tokio::time::sleep(self.settings.polling.base).await;
                }
            }
        };
        let mut schedule = Schedule::new(self.settings.polling, Instant::now());
        let mut poller = Poller { calls, known: Knowledge::default(), learnt: None, rounds: 0 };
        let mut refresh = true;
        let mut next = Instant::now();
        loop {
            let wish = Arc::clone(&wanted.borrow_and_update());
            let mut outcome = poller.round(&wish, refresh, &facts).await;
            // What was fetched for the first time says nothing of how often things change in EC2.
            outcome.changed &= refresh;
            if refresh || outcome.failed || outcome.unsettled {
                next = Instant::now() + schedule.after(outcome, Instant::now(), rand::random());
            }
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => refresh = true,
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    refresh = false;
                }
            }
        }
    }
}

impl FactsSource for Ec2 {
    fn name(&self) -> &'static str {
        "ec2"
    }

    fn place(&self) -> String {
        let settings = &self.settings;
        settings.endpoint.clone().or_else(|| settings.region.clone()).unwrap_or_else(|| "EC2".to_owned())
    }

    fn start(self: Box<Self>, wanted: watch::Receiver<Arc<Wanted>>) -> watch::Receiver<Arc<Facts>> {
        let (sender, receiver) = watch::channel(Arc::default());
        tokio::spawn(async move {
            let unused = sender.clone();
            tokio::select! {
                () = self.run(wanted, sender) => {}
                () = unused.closed() => {}
            }
        });
        receiver
    }
}

/// Asks in rounds.
#[derive(Debug)]
struct Poller {
    calls: Calls,
    known: Knowledge,
    /// When the last change was learnt.
    learnt: Option<Instant>,
    rounds: u64,
}

impl Poller {
    /// Asks for everything due until nothing is, and publishes what is known then.
    async fn round(&mut self, wanted: &Wanted, refresh: bool, facts: &watch::Sender<Arc<Facts>>) -> Outcome {
        self.rounds += 1;
        let (started, at) = (Instant::now(), SystemTime::now());
        let round = Round { number: self.rounds, started, at, refresh };
        let before = self.calls.total();
        let mut outcome = Outcome::default();
        let (mut worked, mut failed) = (HashSet::new(), HashSet::new());
        loop {
            let reach = plan::reach(wanted, &self.known);
            let requests = plan::next(wanted, &reach, &self.known, &round);
            if requests.is_empty() || outcome.throttled {
                break;
            }
            requests.iter().for_each(|request| self.known.mark_tried(request, &round));
            let calls = &self.calls;
            let fetches = requests.into_iter().map(|request| async move {
                let action = request.action();
                (action, calls.fetch(request).await)
            });
            let mut answers = stream::iter(fetches).buffer_unordered(AT_ONCE);
            while let Some((action, answer)) = answers.next().await {
                match answer {
                    Ok(answer) => {
                        worked.insert(action);
                        outcome.changed |= self.known.apply(answer, &round);
                    }
                    Err(failure) => {
                        outcome.failed = true;
                        outcome.throttled |= failure.kind == Kind::Throttled;
                        failed.insert(action);
                        self.known.fail(failure);
                    }
                }
            }
        }
        worked.retain(|action| !failed.contains(action));
        self.known.clear_failures(&worked);
        let reach = plan::reach(wanted, &self.known);
        if refresh {
            self.known.forget(wanted, &reach);
        }
        if outcome.changed {
            self.learnt = Some(Instant::now());
        }
        outcome.unsettled = self.known.is_unsettled(wanted, &reach);
        outcome.requests = self.calls.total() - before;
        let mut known = self.known.facts(wanted, &reach);
        known.complete = !outcome.throttled;
        if self.calls.take_waited() {
            known.problems.push(Problem::new(
                ProblemReason::Ec2Throttled,
                "budget",
                "the agent's own budget of requests a minute was used up and requests waited: raise it, or poll less",
            ));
        }
        known.requests = Some(self.calls.used());
        known.learnt = self.learnt;
        facts.send_replace(Arc::new(known));
        outcome
    }
}
