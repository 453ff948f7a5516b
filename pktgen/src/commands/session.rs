//! A sending session: one engine, the receiver of its frames if there is one, and runs one after another.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::{EngineKind, ReceiveAt, SendArgs};
use crate::endpoint::{Endpoint, pin};
use crate::engine::{AfXdp, Engine, Live, Order, Sent, Watch};
use crate::error::PktgenError;
use crate::received::{Others, Received, Shared};
use crate::receiver::Receiver;
use crate::report::{Dropped, ReceivedReport};
use crate::stamp::Run;
use crate::station::{Role, Station, keep_tags_in_frames};
use crate::tracker::Tracker;
use crate::traffic::Plan;

/// Bytes of an Ethernet header and one tag: what a frame may have beyond the MTU.
const LINK_BYTES: usize = 18;

/// How often a sender that waits for its last frames looks.
const LOOK: Duration = Duration::from_millis(1);

/// The engine and the receiver.
pub(super) struct Session {
    engine: Engine,
    plan_flows: u32,
    receiver: Option<Receiver>,
    shared: Option<Arc<Shared>>,
    settle: Duration,
    run: Run,
}

/// What came of one run.
pub(super) struct Trial {
    pub(super) sent: Sent,
    pub(super) received: Option<ReceivedReport>,
}

/// What is left at the end.
pub(super) struct End {
    pub(super) others: Option<Others>,
    pub(super) dropped: Option<Dropped>,
}

impl Session {
    /// Opens both ends. Moves the calling thread into the sender's namespace.
    pub(super) fn open(args: &SendArgs) -> Result<Self, PktgenError> {
        let receiver = open_receiver(args)?;
        pin(args.core)?;
        args.interface.enter()?;
        let plan = plan(args, receiver.as_ref())?;
        let plan_flows = plan.flows;
        let echoes = receives_itself(args) && args.engine == EngineKind::AfXdp;
        let echo = echoes.then(Arc::<Shared>::default);
        let shared = echo.clone().or_else(|| receiver.as_ref().map(|receiver| Arc::clone(receiver.shared())));
        let engine = match args.engine {
            EngineKind::AfXdp => {
                let queue = args.queue;
                let role = if echoes { Role::Both { queue } } else { Role::Send { queue } };
                let station = Station::open(&args.interface, role, args.common.xdp)?;
                Engine::AfXdp(Box::new(AfXdp::new(station, plan, echo)))
            }
            EngineKind::Kernel => Engine::Live(Box::new(Live::new(args.interface.look_up()?, &plan)?)),
        };
        // Stragglers of an earlier process on the same path should not be taken for frames of this one.
        let run = Run(std::process::id() as u8);
        Ok(Self { engine, plan_flows, receiver, shared, settle: args.settle, run })
    }

    /// The account of what comes in, for the progress line.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.clone()
    }

    pub(super) fn flows(&self) -> u32 {
        self.plan_flows
    }

    /// Sends one run, its number given here, and waits for what is under way.
    pub(super) fn trial(&mut self, order: &Order, watch: &Watch) -> Result<Trial, PktgenError> {
        let run = self.run;
        self.run = run.next();
        if let Some(shared) = &self.shared {
            shared.lock().forget(run);
        }
        let sent = self.engine.send(&Order { run, ..*order }, watch)?;
        let received = match self.shared.clone() {
            Some(shared) => {
                let arrived =
                    |received: &Received| received.run(run).map_or(0, |tracker| tracker.counts().unique);
                settle(&shared, self.settle, sent.frames, arrived, || self.engine.idle())?;
                let received = shared.lock();
                let nothing = Tracker::new();
                let tracker = received.run(run).unwrap_or(&nothing);
                Some(ReceivedReport::of(run.0, tracker, Some(sent.frames)))
            }
            None => None,
        };
        if self.receiver.as_ref().is_some_and(Receiver::has_ended) {
            return Err(self
                .receiver
                .take()
                .and_then(|receiver| receiver.finish().err())
                .unwrap_or_else(|| PktgenError::Usage("the receiver ended early".to_owned())));
        }
        Ok(Trial { sent, received })
    }

    /// Closes both ends.
    pub(super) fn close(self) -> Result<End, PktgenError> {
        drop(self.engine);
        let dropped = self.receiver.map(Receiver::finish).transpose()?;
        let others = self.shared.map(|shared| *shared.lock().others());
        Ok(End { others, dropped })
    }
}

/// Starts the thread that receives, where the sender does not do it itself.
pub(super) fn open_receiver(args: &SendArgs) -> Result<Option<Receiver>, PktgenError> {
    let start = |endpoint: &Endpoint| Receiver::start(endpoint, &args.common, args.receive_core);
    match &args.receive {
        None => Ok(None),
        Some(ReceiveAt::Itself) if args.engine == EngineKind::AfXdp => Ok(None),
        Some(ReceiveAt::Itself) => start(&args.interface).map(Some),
        Some(ReceiveAt::Other(endpoint)) => start(endpoint).map(Some),
    }
}

/// Waits until `wanted` frames have arrived, or none has for `patience`.
pub(super) fn settle(
    shared: &Shared,
    patience: Duration,
    wanted: u64,
    arrived: impl Fn(&Received) -> u64,
    mut idle: impl FnMut() -> Result<usize, PktgenError>,
) -> Result<(), PktgenError> {
    let mut since = Instant::now();
    let mut before = None;
    loop {
        let taken = idle()?;
        let now = arrived(&shared.lock());
        if now >= wanted {
            return Ok(());
        }
        if before != Some(now) {
            (before, since) = (Some(now), Instant::now());
        } else if since.elapsed() >= patience {
            return Ok(());
        }
        if taken == 0 {
            thread::sleep(LOOK);
        }
    }
}

/// Refuses frames the interface would.
pub(super) fn check_mtu(interface: &espalier_xsk::InterfaceRef, longest: usize) -> Result<(), PktgenError> {
    let most = interface.mtu as usize + LINK_BYTES;
    if longest <= most {
        return Ok(());
    }
    let (name, mtu) = (interface.name.clone(), interface.mtu);
    Err(PktgenError::Mtu { length: longest, interface: name, mtu, most })
}

fn receives_itself(args: &SendArgs) -> bool {
    args.receive == Some(ReceiveAt::Itself)
}

fn plan(args: &SendArgs, receiver: Option<&Receiver>) -> Result<Plan, PktgenError> {
    let interface = args.interface.look_up()?;
    let peer = receiver.filter(|_| !receives_itself(args)).map(|receiver| receiver.interface().mac);
    let plan = args.traffic.traffic(interface.mac, peer)?.plan()?;
    check_mtu(&interface, usize::from(plan.longest()))?;
    if args.traffic.tagged() {
        keep_tags_in_frames(&interface)?;
    }
    Ok(plan)
}
