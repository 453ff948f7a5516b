//! The engines against each other: compiled == linear == direct, after a compile and after every update.
//!
//! The scenario is made from bytes, so that the fuzz target runs the same body.

use std::path::Path;

use proptest::prelude::*;

mod scenario;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn all_engines_agree_after_any_sequence_of_updates(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        scenario::run(&bytes);
    }
}

/// What fuzzing has found worth keeping, crashes included, is judged again by every test run.
#[test]
fn the_fuzz_corpus_replays() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/rules_engines");
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is committed") {
        let bytes = std::fs::read(entry.expect("a folder can be listed").path()).expect("a file can be read");
        scenario::run(&bytes);
        files += 1;
    }
    assert!(files > 20, "the corpus has only {files} files");
}
