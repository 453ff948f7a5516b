//! The steering against the real kernel: its programs on chosen frames, its links and pins, real traffic over
//! veths, and the interface settings beside it. Needs root. Every test runs in network and mount namespaces of its
//! own that no name leads to, so that nothing is left of them however the test ends.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed step of a test's own machinery ends the test"
)]

mod attach;
mod ethtool;
mod frames;
mod programs;
mod restart;
mod sandbox;
mod tap;
mod traffic;
