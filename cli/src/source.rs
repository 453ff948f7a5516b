//! Who answers questions about policy: the running switch, or the same engine on a snapshot file.
//!
//! Used by `explain`, `rules` and `groups`. Both give one answer a question, in the same order, in the same words.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use espalier_api::control::PodStatus;
use espalier_api::{Answer, Explained, InputError, Nearest, PodName, Query, Snapshot, Verdict};
use espalier_rules::Judge;

use crate::args::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::{output, suggest};

/// Questions sent to the switch in one request.
const CHUNK: usize = 10_000;

/// Who answers.
pub(crate) enum Source {
    /// The rules engine, here.
    Offline(Box<Judge>),
    /// The switch, and the pods it had when it was asked.
    Switch(Box<Client>, HashSet<PodName>),
}

impl Source {
    /// The engine on `snapshot` where one is given, else the switch.
    pub(crate) fn open(global: &Global, snapshot: Option<&Path>) -> Result<Self, CliError> {
        if let Some(path) = snapshot {
            return Ok(Self::Offline(Box::new(judge(&crate::commands::load(path)?))));
        }
        let mut client = Client::connect(global)?;
        let pods: Vec<PodStatus> = client.get("/v1/pods")?;
        Ok(Self::Switch(Box::new(client), pods.into_iter().map(|pod| pod.name).collect()))
    }

    /// Whether `pod` can be asked about.
    pub(crate) fn knows(&self, pod: &PodName) -> bool {
        match self {
            Self::Offline(judge) => judge.model().pod_index(pod).is_some(),
            Self::Switch(_, pods) => pods.contains(pod),
        }
    }

    /// The refusal of a question about `pod`, with the pods that were probably meant if it is not known.
    pub(crate) fn suggest(&self, error: InputError, pod: &PodName) -> InputError {
        match self {
            _ if self.knows(pod) => error,
            Self::Offline(judge) => {
                let pods: BTreeSet<PodName> =
                    judge.model().groups().into_iter().flat_map(|group| group.pods).collect();
                suggest::with_near(error, pod, pods)
            }
            Self::Switch(_, pods) => suggest::with_near(error, pod, pods),
        }
    }

    /// Answers every question in order, each handed to `each` as soon as it is there; on wish a deny with the nearest
    /// rule.
    pub(crate) fn answer(
        &mut self,
        queries: &[Query],
        nearest: bool,
        mut each: impl FnMut(&Explained) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        match self {
            Self::Offline(judge) => queries.iter().try_for_each(|query| {
                let explained = if nearest {
                    judge.explain_nearest(query)
                } else {
                    judge.explain(query).map(|answer| Explained { answer, nearest: None })
                };
                each(&explained.map_err(|error| InputError::new("", error.to_string()))?)
            }),
            Self::Switch(client, _) => {
                let mut near = Near::default();
                queries.chunks(CHUNK).try_for_each(|chunk| {
                    let answers: Vec<Answer> = client.post("/v1/explain", chunk)?;
                    answers.into_iter().zip(chunk).try_for_each(|(answer, query)| {
                        let nearest = if nearest { near.rule(client, &answer, query)? } else { None };
                        each(&Explained { answer, nearest })
                    })
                })
            }
        }
    }
}

/// Finds the nearest rules of a switch's denies in the snapshot it enforces, which is fetched when first needed.
#[derive(Default)]
struct Near {
    judge: Option<Judge>,
}

impl Near {
    fn rule(
        &mut self,
        client: &mut Client,
        answer: &Answer,
        query: &Query,
    ) -> Result<Option<Nearest>, CliError> {
        if answer.verdict == Verdict::Allow {
            return Ok(None);
        }
        let judge = match &mut self.judge {
            Some(judge) => judge,
            none => none.insert(Judge::compiled(&client.get::<Snapshot>("/v1/snapshot")?).0),
        };
        // A pod that has gone meanwhile has no rules any more, near or far.
        Ok(judge.explain_nearest(query).ok().and_then(|explained| explained.nearest))
    }
}

/// The rules engine on `snapshot`; what is doubtful in the snapshot is said on standard error.
pub(crate) fn judge(snapshot: &Snapshot) -> Judge {
    let (judge, warnings) = Judge::compiled(snapshot);
    for warning in warnings {
        output::warn(&warning);
    }
    judge
}
