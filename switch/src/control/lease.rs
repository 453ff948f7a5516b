//! The agent's lease: while one agent holds a `GET /v1/agent` open, only it may replace the snapshot.
//!
//! The connection is the lease: it ends with the agent, however that ends, and with the switch. A second agent is
//! refused and told who holds it; so is an operator who does not force it.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::{Body, Bytes};
use espalier_api::InputError;
use espalier_api::agent::AgentLease;
use espalier_api::control::{AGENT_HEADER, AgentHolder};
use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;

/// Longest name of an agent: that of a Kubernetes node.
const NAME_MAX: usize = 253;

/// Who may replace the snapshot.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases(Arc<Mutex<Option<Held>>>);

#[derive(Debug)]
struct Held {
    name: String,
    token: String,
    since: Instant,
}

impl Leases {
    /// Gives the lease to `name`, unless somebody has it.
    pub(super) fn take(&self, name: &str) -> Result<Lease, InputError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
            let message =
                format!("{name:?} is no name of an agent: expected letters, digits, '-', '.' and '_'");
            return Err(InputError::new("name", message));
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Held { name: holder, since, .. }) = &*held {
            let seconds = since.elapsed().as_secs();
            let message = format!(
                "agent {holder} has fed this switch for {seconds} s: one switch has one agent, stop that one first"
            );
            return Err(InputError::new("agent", message));
        }
        let state = RandomState::new();
        let token = format!("{:016x}{:016x}", state.hash_one(0), state.hash_one(1));
        *held = Some(Held { name: name.to_owned(), token: token.clone(), since: Instant::now() });
        tracing::info!(agent = name, "an agent feeds the switch");
        Ok(Lease { leases: self.clone(), token })
    }

    /// Whether who shows `token` (or nothing) may replace the snapshot.
    pub(super) fn check(&self, token: Option<&str>, force: bool) -> Result<(), InputError> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*held, token) {
            (Some(held), Some(token)) if held.token == token => Ok(()),
            (_, Some(_)) => {
                let message = "is of a lease that has ended: ask for it again with GET /v1/agent";
                Err(InputError::new(AGENT_HEADER, message))
            }
            (Some(held), None) if !force => {
                let message = format!(
                    "agent {} feeds this switch and would undo this: change what it reads, or stop it; --force \
                     applies the file until the agent's next change",
                    held.name
                );
                Err(InputError::new("agent", message))
            }
            (_, None) => Ok(()),
        }
    }

    /// Who holds it.
    pub(super) fn holder(&self) -> Option<AgentHolder> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref()
            .map(|held| AgentHolder { name: held.name.clone(), seconds: held.since.elapsed().as_secs() })
    }
}

/// The lease; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Lease {
    leases: Leases,
    token: String,
}

impl Lease {
    /// A reply that tells the lease at once and lasts as long as it.
    pub(super) fn into_body(
        self,
        generation: Option<espalier_api::Generation>,
        mut stopping: watch::Receiver<bool>,
    ) -> Body {
        let told = AgentLease { token: self.token.clone(), generation };
        let mut line = serde_json::to_vec(&told).unwrap_or_default();
        line.push(b'\n');
        let first = stream::once(std::future::ready(Ok::<_, Infallible>(Bytes::from(line))));
        let rest = stream::once(async move {
            let _lease = self;
            // Ends also when the sender is gone, that is, with the switch.
            let _stopped = stopping.wait_for(|stopping| *stopping).await;
            Ok(Bytes::new())
        });
        Body::from_stream(first.chain(rest))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.take_if(|held| held.token == self.token) {
            tracing::info!(agent = held.name, "the agent is gone; its last snapshot stays in force");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time_and_the_next_when_it_is_gone() {
        let leases = Leases::default();
        let first = leases.take("node-1").unwrap();
        assert!(leases.take("node-2").unwrap_err().message.contains("agent node-1"));
        assert_eq!(leases.holder().unwrap().name, "node-1");
        drop(first);
        assert!(leases.holder().is_none());
        leases.take("node-2").unwrap();
    }

    #[test]
    fn only_the_holder_replaces_the_snapshot_unless_forced() {
        let leases = Leases::default();
        assert!(leases.check(None, false).is_ok());
        let lease = leases.take("a").unwrap();
        assert!(leases.check(Some(&lease.token), false).is_ok());
        assert!(leases.check(None, false).unwrap_err().message.contains("--force"));
        assert!(leases.check(None, true).is_ok());
        let old = lease.token.clone();
        drop(lease);
        assert_eq!(leases.check(Some(&old), false).unwrap_err().field, AGENT_HEADER);
    }

    #[test]
    fn names_are_plain() {
        for name in ["", "a b", "é"] {
            assert_eq!(Leases::default().take(name).unwrap_err().field, "name");
        }
    }
}
