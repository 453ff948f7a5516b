//! The load: frames that the kernel makes (pktgen's live frames) on the generator's core, and what it was told to send.
//!
//! The in-kernel engine is used for all subjects because it is the cheaper one: an AF_XDP socket sends fewer frames a
//! second than some subjects forward, so that it would be what is measured. Frames that find the ring of the first veth
//! full are lost there and counted nowhere but in `sent`: what counts is what the sink received.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Result;
use espalier_lab::netns::NetNs;
use espalier_pktgen::endpoint::pin;
use espalier_pktgen::engine::{Engine, Live, Order, Sent, Watch};
use espalier_pktgen::rate::Rate;
use espalier_pktgen::stamp::Run;
use espalier_pktgen::traffic::{Sizes, Traffic};

use super::site::{EDGE, LOAD_CORE};

/// Where the clients' ports begin.
const FIRST_PORT: u32 = 1024;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the trunk to a pod.
    FromTrunk,
    /// From a pod to the trunk.
    ToTrunk,
    /// From a pod to another one of the node.
    PodToPod,
    /// The same over the trunk and back, as without a switch that knows its pods.
    Hairpin,
}

/// A size of frames, without tag and FCS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// All frames of this many bytes.
    Bytes(u16),
    /// The simple Internet mix: 7:4:1 of 64, 594 and 1518 bytes with FCS.
    Imix,
}

/// Number of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flows(pub(super) u32);

/// A generator on its thread.
pub(super) struct Load {
    engine: Engine,
    watch: Watch,
}

impl Way {
    /// Name in a case.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::FromTrunk => "trunk-to-pod",
            Self::ToTrunk => "pod-to-trunk",
            Self::PodToPod => "pod-to-pod",
            Self::Hairpin => "pod-to-pod-by-vpc",
        }
    }
}

impl Flows {
    /// The addresses behind the trunk and the ports that make exactly so many flows, in whatever order they are taken.
    pub(super) fn grid(self, way: Way) -> (String, String) {
        let addresses = match (way, self.0) {
            (Way::PodToPod, _) | (_, 0..10) => 1,
            (_, 10..10_000) => 10,
            _ => 250,
        };
        let ports = self.0 / addresses;
        (format!("10.64.1.1-10.64.1.{addresses}"), format!("{FIRST_PORT}-{}", FIRST_PORT + ports - 1))
    }
}

impl Size {
    /// Name in a case.
    pub(super) fn label(self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Imix => "imix".to_owned(),
        }
    }

    /// Sizes of frames that carry so many bytes more.
    pub(super) fn sizes(self, more: u16) -> Result<Sizes> {
        match self {
            Self::Bytes(bytes) => Sizes::from_str(&(bytes + more).to_string()).map_err(anyhow::Error::msg),
            Self::Imix => Ok(Sizes::imix()),
        }
    }
}

impl Load {
    /// Opens the generator in a namespace on a thread of its own, which does `work` with it.
    pub(super) fn with<T: Send>(
        source: &NetNs,
        traffic: &Traffic,
        watch: &Watch,
        work: impl FnOnce(&mut Self) -> Result<T> + Send,
    ) -> Result<T> {
        source.run(|| {
            pin(Some(LOAD_CORE))?;
            let engine = Live::new(espalier_xsk::interface(EDGE)?, &traffic.plan()?)?;
            work(&mut Self { engine: Engine::Live(Box::new(engine)), watch: watch.clone() })
        })?
    }

    /// Sends at most `frames` for at most `duration`.
    pub(super) fn send(
        &mut self,
        run: Run,
        rate: Rate,
        frames: Option<u64>,
        duration: Duration,
    ) -> Result<Sent> {
        let order = Order { run, frames, duration: Some(duration), rate };
        Ok(self.engine.send(&order, &self.watch)?)
    }
}
