//! compiled == linear == direct, on snapshots, updates and packets made from the input. Run with
//! `cargo +nightly fuzz run rules_engines` in this folder's parent.
//!
//! The body is the property test's: what is found here becomes a case there.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../rules/tests/engines/scenario.rs"]
mod scenario;

fuzz_target!(|bytes: &[u8]| scenario::run(bytes));
