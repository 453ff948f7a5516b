//! The pure step, driven frame by frame without a kernel.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails there")]

mod facts;
mod harness;
mod hostile;
mod responder;
mod split;
mod stages;
mod watch;
