//! Inputs, timing and subjects of Espalier's benches. Criterion's benches and `compare` use the same ones.
//!
//! Every input is made from a fixed seed and described where it is made.

pub mod compare;
pub mod input;
pub mod machine;
pub mod measure;
pub mod peer;
pub mod program;
pub mod random;
pub mod report;
