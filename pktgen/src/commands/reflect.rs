//! `pktgen reflect`: sends every frame of an interface back to its sender.

use std::time::{Duration, Instant};

use super::Verdict;
use crate::args::ReflectArgs;
use crate::endpoint::pin;
use crate::engine::Watch;
use crate::error::PktgenError;
use crate::mirror;
use crate::receiver::dropped;
use crate::report::{ReflectReport, print};
use crate::station::{Role, Station, keep_tags_in_frames};

/// How long an idle reflector sleeps before it looks whether to stop.
const PATIENCE: Duration = Duration::from_millis(20);

pub(super) fn run(args: &ReflectArgs, watch: &Watch) -> Result<Verdict, PktgenError> {
    pin(args.core)?;
    args.interface.enter()?;
    let mut station = Station::open(&args.interface, Role::Both { queue: 0 }, args.common.xdp)?;
    keep_tags_in_frames(station.interface())?;
    let begun = Instant::now();
    let (mut received, mut reflected) = (0, 0);
    while !watch.stopped()
        && args.duration.is_none_or(|duration| begun.elapsed() < duration)
        && args.count.is_none_or(|count| reflected < count)
    {
        let (came, went) = station.reflect(mirror::turn)?;
        received += came as u64;
        reflected += went as u64;
        if came == 0 && !args.common.busy_poll {
            station.wait(PATIENCE)?;
        }
    }
    let report =
        ReflectReport { received, reflected, ignored: received - reflected, dropped: dropped(&station) };
    drop(station);
    print(args.common.json, &report, ReflectReport::lines)
        .map_err(PktgenError::system("print the result"))?;
    Ok(Verdict::Good)
}
