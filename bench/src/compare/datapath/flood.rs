//! A flood of SYNs at one pod: what a stream to another keeps of its goodput.
//!
//! Called by `compare datapath` and `compare flows` once a round. Both come over the trunk, made on the load's core, and
//! are the one worker's. The flood is all that the load's core can send, more than the worker can take; the stream is a
//! small part of what it could. What of the stream does not arrive was lost to the flood.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use espalier_pktgen::rate::Rate;

use super::load::Load;
use super::trial::{Account, Bed, Offer};

/// Frames a second of the stream.
const STREAM: f64 = 50_000.0;
/// Time the flood has before the stream begins and after it has ended.
const MARGIN: Duration = Duration::from_millis(300);

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flooded {
    /// SYNs sent a second.
    pub(super) syns: f64,
    /// Percent of the goodput without the flood that the stream had beside it.
    pub(super) kept: f64,
}

/// Floods pod B while pod A receives what is offered, for that long.
pub(super) fn measure(bed: &Bed<'_>, offer: &Offer, window: Duration) -> Result<Flooded> {
    let syns = bed.site.flood()?;
    let goodput = |account: Account| account.received as f64 / account.sent as f64;
    bed.on(offer, |bed, load, sink| {
        let alone = bed.account(load, sink, STREAM, window)?;
        let flood = || {
            Load::with(&bed.site.outside, &syns, bed.watch(), |load| {
                load.send(bed.next_run(), Rate::Max, None, window + 2 * MARGIN)
            })
        };
        thread::scope(|scope| {
            let flood = scope.spawn(flood);
            thread::sleep(MARGIN);
            let beside = bed.account(load, sink, STREAM, window);
            let sent = flood.join().map_err(|_| anyhow!("the thread of the flood failed"))?;
            Ok(Flooded { syns: sent?.pps(), kept: goodput(beside?) / goodput(alone) * 100.0 })
        })
    })
}
