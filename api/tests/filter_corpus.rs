//! What fuzzing found of the filter language, once more in every test run; and random words of it.

use proptest::prelude::*;
use proptest::sample::select;

#[path = "support/filter_body.rs"]
mod filter_body;

#[test]
fn the_corpus_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/filter");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 10, "{inputs:?}");
    inputs.iter().for_each(|input| filter_body::run(&std::fs::read(input).unwrap()));
}

/// Words of the language, numbers, and what has no place in it.
const WORDS: &[&str] = &[
    "host",
    "net",
    "src",
    "dst",
    "port",
    "portrange",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "ip",
    "ip6",
    "arp",
    "proto",
    "and",
    "or",
    "not",
    "!",
    "&&",
    "||",
    "(",
    ")",
    "10.0.0.1",
    "10.0.0.0/8",
    "2001:db8::1",
    "80",
    "80-443",
    "less",
    "greater",
    "pod",
    "t/a",
    "drop",
    "forward",
    "ingress",
    "egress",
    "reason",
    "rule",
    "sgr-1",
    "group",
    "sg-1",
    "65536",
    "\u{e4}",
    "\n",
    "\\",
];

proptest! {
    #[test]
    fn any_words_do(words in prop::collection::vec(select(WORDS), 0..12), frame in prop::collection::vec(any::<u8>(), 0..64)) {
        filter_body::run(&[words.join(" ").as_bytes(), &[0], &frame].concat());
    }
}
