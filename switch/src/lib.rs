//! The datapath process `espalier-switch`, as a library: the worker's pure step and what feeds it.

pub mod checksum;
pub mod flow;
pub mod packet;
pub mod reason;
