//! The rules' accounts on request: what was let pass, settled at once, and live flows added up in stretches.
//!
//! The manager asks through [`Handle::settled_accounts`] and [`Handle::accounts`], one asking at a time; the worker answers between
//! batches. What it gives away is the manager's to keep.

use crossbeam_channel::{SendError, Sender};

use super::Worker;
use super::command::{Command, Handle, WorkerFailed};
use crate::flow::Accounts;

/// Flow entries looked at between two batches.
const STRETCH: u32 = 4096;

/// A part of what there is to tell.
pub enum AccountsPart {
    /// What flows that are over have carried since the last time, and packets without a flow.
    Settled,
    /// The same, and the live flows are to be added up from here on.
    Begin,
    /// The live flows, if with this stretch all of them are added up.
    GoOn,
}

impl Handle {
    /// What was let pass since the last time by flows that are over, and without a flow.
    pub fn settled_accounts(&self) -> Result<Accounts, WorkerFailed> {
        Ok(self.ask(|reply| Command::Accounts(AccountsPart::Settled, reply))?.unwrap_or_default())
    }

    /// The same, for the caller to keep, and what live flows have carried so far, each flow counted once over both.
    /// `keep` gets the first even if the second fails.
    pub fn accounts(&self, keep: impl FnOnce(Accounts)) -> Result<Accounts, WorkerFailed> {
        keep(self.ask(|reply| Command::Accounts(AccountsPart::Begin, reply))?.unwrap_or_default());
        loop {
            if let Some(live) = self.ask(|reply| Command::Accounts(AccountsPart::GoOn, reply))? {
                return Ok(live);
            }
        }
    }
}

impl Worker {
    /// Tells the part that was asked for.
    pub(super) fn tell_accounts(&mut self, part: AccountsPart, reply: &Sender<Option<Accounts>>) {
        let flows = &mut self.shard.flows;
        let told = match part {
            AccountsPart::Settled => reply.send(Some(flows.settle())),
            AccountsPart::Begin => {
                let settled = flows.settle();
                flows.begin_live();
                reply.send(Some(settled))
            }
            AccountsPart::GoOn => {
                // The sums of live flows are made anew each time.
                let _asked = reply.send(flows.go_on_live(STRETCH));
                return;
            }
        };
        if let Err(SendError(Some(accounts))) = told {
            self.shard.flows.unsettle(accounts);
        }
    }
}
