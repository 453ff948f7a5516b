//! AF_XDP for Espalier: ports, frames and rings on one shared UMEM, the steering program that feeds them, and the
//! programs of the load generator.
//!
//! The only crate with unsafe code; `docs/UNSAFE.md` lists the invariants it stands on.

mod depot;
pub mod ethtool;
mod frame;
mod huge_pages;
mod intake;
mod interface;
mod live_frames;
mod meta;
mod netdev;
mod pool;
mod port;
mod prefetch;
mod steering;
mod umem;

pub use frame::{CHUNK_SIZE, Frame, HEADROOM, MAX_FRAME_LEN, MAX_SEGMENTS, Packet};
pub use huge_pages::prefer_huge_pages;
pub use intake::{Intake, TrafficError};
pub use interface::{InterfaceError, InterfaceRef, interface};
pub use live_frames::{LiveFrames, LiveMeter, LiveOrder, LiveProgress, LiveTemplate};
pub use meta::{SteerFlags, SteerMeta};
pub use pool::FramePool;
pub use port::{Port, PortConfig, PortError, PortStatistics};
pub use prefetch::prefetch;
pub use steering::{
    Attachment, DryRun, Entrance, SteeredPod, Steering, SteeringConfig, SteeringCounters, SteeringError,
    Throttle, Verdict, XdpMode,
};
pub use umem::{FrameOwners, Hugepages, Umem, UmemConfig, UmemError};

#[cfg(test)]
mod tests {
    use super::*;

    fn moves_between_threads<T: Send>() {}
    fn shared_between_threads<T: Sync>() {}

    #[test]
    fn ports_and_frames_move_to_workers_and_the_umem_is_shared() {
        moves_between_threads::<Port>();
        moves_between_threads::<FramePool>();
        moves_between_threads::<Frame>();
        moves_between_threads::<Packet>();
        moves_between_threads::<Umem>();
        shared_between_threads::<Umem>();
    }
}
