//! The filter language on whatever text. Run with `cargo +nightly fuzz run filter` in this folder's parent.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../api/tests/support/filter_body.rs"]
mod filter_body;

fuzz_target!(|bytes: &[u8]| filter_body::run(bytes));
