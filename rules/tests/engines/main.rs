//! The engines against each other: compiled == linear == direct, after a compile and after every update.
//!
//! The scenario is made from bytes, so that the fuzz target runs the same body.

use proptest::prelude::*;

mod scenario;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn all_engines_agree_after_any_sequence_of_updates(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        scenario::run(&bytes);
    }
}
