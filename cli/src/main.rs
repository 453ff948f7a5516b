//! `espalier`: the operator's commands and the front of the lab.

fn main() {}
