//! The program `espalier-agent`: reads its settings and runs the agent until it is told to stop.

fn main() {}
